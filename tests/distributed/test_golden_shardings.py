import pytest

from tests.distributed import golden_shardings as golden


@pytest.mark.parametrize("case", golden.CASES)
def test_every_array_lives_where_it_lived(case):
    wanted, found = (golden.FOLDER / f"{case}.txt").read_text(), golden.text(case)
    moved = [line for line in found.splitlines() if line not in wanted.splitlines()]
    assert found == wanted, f"moved: {moved[:5]}; if it is meant: python -m tests.distributed.golden_shardings"


def test_no_golden_file_is_left_over():
    assert {path.stem for path in golden.FOLDER.iterdir()} == set(golden.CASES)


def test_every_large_array_of_a_large_model_is_spread():
    for line in golden.text("sp_1b-data16-fsdp16").splitlines():
        name, shape, spec = line.split(" ", 2)
        if name != "activation" and name.endswith(("kernel", "embedding")):
            assert "fsdp" in spec, line
