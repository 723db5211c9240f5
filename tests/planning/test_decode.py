"""Plans of decoding, with the real compiler where libtpu is installed."""

import json

import pytest

from scratchpatch import cli, config as config_lib
from scratchpatch.accounting import account
from scratchpatch.planning import ahead_of_time, decode
from tests import runs, tiny

pytestmark = pytest.mark.usefixtures("libtpu_without_flags")
FIELDS = {
    "data.window": 1024,
    "model.d_byte": 128,
    "model.encoder.window": 64,
    "model.decoder.window": 32,
    "model.trunk.layers": 1,
    "model.trunk.d_model": 256,
    "model.entropy_head.layers": 0,
    "trigger.kind": "entropy",
    "trigger.rate": 0.25,
    "training.dtype": "bfloat16",
    "mesh.data": -1,
    "mesh.tensor": 2,
    "mesh.sequence": 2,
}
ROWS = 16


@pytest.fixture(scope="module")
def config():
    return tiny.config(FIELDS)


@pytest.fixture(scope="module")
def planned(config, tmp_path_factory):
    """The plan of a small model for a host of v5p, as the command line prints it."""
    path = runs.write_config(tmp_path_factory.mktemp("plan") / "small.py", config)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *args, **_: lines.append(args[0]))
        flags = ["--topology=v5p:2x2x1", "--decode", f"--rows_per_chip={ROWS}", "--json"]
        assert cli.main(["plan", f"--config={path}", *flags]) == 0
    return json.loads(lines[-1])


@pytest.mark.skipif(not ahead_of_time.available(), reason="libtpu is not installed, and there is none for this machine")
def test_decoding_is_planned_with_the_real_compiler(config, planned):
    assert (planned["topology"], planned["chips"], planned["rows_per_chip"]) == ("v5p:2x2x1", 4, ROWS)
    assert planned["mesh"] == {"slice": 1, "data": 2, "fsdp": 1, "tensor": 2, "sequence": 1}
    held, made = planned["bytes_per_chip"], account.account(config)
    # Of its own rows and its neighbour's, a chip has one of the two heads, 64 wide; all windows are full of commits.
    assert held["trunk_cache"] == 2 * ROWS * config_lib.slots(config)[0] * 64 * 2 * 2
    m = config.model
    assert held["rings"] == ROWS * 2 * 2 * m.d_byte * (m.encoder.window + m.decoder.window)
    # Kernels take two bytes a number.
    assert held["parameters"] < 2.2 * made["parameters"]["total"]
    bytes_, trunk = planned["programs"]["bytes"], planned["programs"]["trunk"]
    assert trunk["traffic"] > held["trunk_cache"] and bytes_["traffic"] > held["rings"]
    assert trunk["collectives"]["all-reduce"]["tensor"] > 0
    full, eager, rate = planned["full"], planned["eager"], made["trunk_calls_per_byte"]
    assert (full["calls_per_byte"], eager["calls_per_byte"]) == pytest.approx((rate, 1.0), abs=1e-4)
    assert full["traffic_per_byte"] == pytest.approx(bytes_["traffic"] + rate * trunk["traffic"])
    assert full["bytes_per_second"] == pytest.approx(ROWS / (bytes_["seconds"] + rate * trunk["seconds"]))
    assert planned["fits"] and "16 rows per chip" in decode.text(planned)


def test_decoding_is_planned_for_a_topology_alone(capsys):
    flags = ["--config=experiments/scale/sp_1b.py", "--device=h200", "--decode"]
    assert cli.main(["plan", *flags]) == cli.WRONG_USAGE
    assert "--decode goes with --topology" in capsys.readouterr().err
