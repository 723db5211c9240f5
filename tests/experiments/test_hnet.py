"""The H-Net experiment: its variants, and the table of its page."""

import json

import pytest

from experiments.hnet import rates
from experiments.hnet.config import VARIANTS, get_config
from scratchpatch import config as config_lib


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_valid_and_differ_in_what_they_are_called(variant):
    config = get_config(variant)
    config_lib.check(config)
    wanted = []
    if "curriculum" in variant:
        wanted += ["patching.curriculum_steps", "patching.curriculum_from"]
    if "scratchpads" in variant:
        wanted += ["trigger.kind", "trigger.rate", "trigger.gain"]
        wanted += ["model.entropy_head.layers", "model.entropy_head.weight"]
    assert sorted(config_lib.changed(get_config(), config)) == sorted(wanted)


def test_no_other_variant_is_taken_for_one():
    with pytest.raises(ValueError, match="no variant 'two_stages'; wanted one of plain, "):
        get_config("two_stages")


def test_the_table_has_means_over_parts_of_a_run(tmp_path):
    values = {"boundaries_per_byte": 0.25, "bytes_per_patch": 4.0, "boundary_probability": 0.5, "ratio_loss": 1.5}
    lines = [{"step": n, "bpb": float(n), **values} for n in range(1, 17)]
    lines[0]["bytes_per_patch"] = 2.0
    lines.insert(3, {"step": 3, "validation_bpb": 2.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = rates.table({"plain": rates.steps_of(tmp_path)})
    assert len(rows) == 2 + rates.PARTS
    # 8 bytes in 3 patches.
    assert rows[2] == "| plain | 1 to 2 | 0.250 | 2.667 | 0.500 | 1.500 | 1.500 |"
    assert rows[-1] == "| plain | 15 to 16 | 0.250 | 4.000 | 0.500 | 1.500 | 15.500 |"
