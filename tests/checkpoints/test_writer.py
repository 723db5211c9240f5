import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scratchpatch
import scratchpatch as sp
from scratchpatch import config as config_lib
from scratchpatch.checkpoints import arrays, format
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.workdir import guard_workdir
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from scratchpatch.model import weights as weights_lib
from tests import runs

# pytest resets the filter that arrays.py sets.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")

CONFIG = config_lib.default()


def make_state(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(size=(16, 32)).astype(np.float32))
    return {
        "params": {"trunk": {"kernel": w, "bias": w[0].astype(jnp.bfloat16)}, "layers": [w[:4], w[4:6] + jnp.nan]},
        "optimizer": ({"mu": w * 2}, (), jnp.int32(seed)),
        "thresholds": {"commit": w[:, 0] > 0},
        "step": jnp.int32(seed),
    }


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_same(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def store(folder, *steps, keep_last=9, metrics=None):
    checkpoints = Checkpoints(folder, CONFIG, keep_last)
    for step in steps:
        checkpoints.save(step, make_state(step), (metrics or {}).get(step))
    checkpoints.wait()
    return checkpoints


def all_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_state_comes_back_bit_for_bit_with_what_it_is(tmp_path):
    state = make_state(7)
    metrics = {"validation_bpb": jnp.float32(2.5), "bpb": np.float32("nan"), "verdict": "INVALID"}
    store(tmp_path, 7, metrics={7: metrics})
    restored = CheckpointReader(tmp_path).restore_latest(abstract(state))
    assert_same(restored.state, state)
    about = restored.metadata
    assert restored.step == about["step"] == 7
    assert config_lib.difference(config_lib.from_flat(about["config"]), CONFIG, free=True) == []
    assert about["version"] == scratchpatch.__version__
    assert about["metrics"] == {"validation_bpb": 2.5, "bpb": None, "verdict": "INVALID"}
    assert about["arrays"]["params.trunk.bias"]["shape"] == [32]
    assert about["arrays"]["params.trunk.bias"]["dtype"] == "bfloat16"


def test_files_that_no_process_calls_its_own_are_described_as_well(tmp_path, monkeypatch):
    """Orbax may name its files otherwise one day."""
    monkeypatch.setattr(arrays, "writing_process", lambda name: 7)
    store(tmp_path, 1)
    files = {str(path.relative_to(tmp_path / "1" / "state")) for path in all_files(tmp_path / "1" / "state")}
    assert set(format.read_about(tmp_path / "1")["files"]) == files


def test_an_empty_folder_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path, CONFIG, 1).restore_latest(abstract(make_state(0))) is None
    assert CheckpointReader(tmp_path / "missing").restore_latest(abstract(make_state(0))) is None


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = {"params": {str(i): jnp.full((500_000,), i, jnp.float32) for i in range(8)}}
    checkpoints = Checkpoints(tmp_path, CONFIG, 1)
    checkpoints.save(1, state)
    for _ in range(10):
        state = bump(state)
    jax.block_until_ready(state)
    checkpoints.close()
    restored = checkpoints.restore_latest(abstract(state)).state
    assert [float(x[0]) for x in restored["params"].values()] == list(range(8))


def test_the_last_ones_and_the_best_one_are_kept(tmp_path):
    bpb = {1: 3.0, 2: 2.0, 3: 2.5, 4: float("nan"), 5: 2.2}
    store(tmp_path, *range(1, 6), keep_last=2, metrics={s: {"validation_bpb": b} for s, b in bpb.items()})
    assert CheckpointReader(tmp_path).steps() == [2, 4, 5]
    again = store(tmp_path, 6, keep_last=1)
    assert again.steps() == [2, 6]
    again.save(7, make_state(7), {"validation_bpb": 1.9})
    again.wait()
    assert again.steps() == [7]


def test_a_step_saved_twice_is_written_once(tmp_path):
    checkpoints = store(tmp_path, 1)
    before = (tmp_path / "1").stat().st_mtime_ns
    checkpoints.save(1, make_state(1))
    checkpoints.close()
    assert (tmp_path / "1").stat().st_mtime_ns == before


def test_an_older_step_restored_on_purpose_is_trained_on_from(tmp_path):
    store(tmp_path, 1, 2)
    checkpoints = Checkpoints(tmp_path, CONFIG, 9)
    assert_same(checkpoints.restore(1, abstract(make_state(1))).state, make_state(1))
    checkpoints.save(2, make_state(22))
    checkpoints.close()
    assert_same(checkpoints.restore(2, abstract(make_state(2))).state, make_state(22))


def test_a_missing_step_names_those_there(tmp_path):
    store(tmp_path, 10, 20)
    with pytest.raises(UserError, match="no checkpoint of step 15; stored steps: 10, 20"):
        CheckpointReader(tmp_path).restore(15, abstract(make_state(0)))


def test_leftovers_of_a_killed_run_are_removed_by_the_next_and_only_those(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    store(tmp_path, 10)
    for name in ("20.partial", "5.deleted", "30.damaged", "notes"):
        shutil.copytree(tmp_path / "10", tmp_path / name)
    assert CheckpointReader(tmp_path).restore_latest(abstract(make_state(0))).step == 10
    assert (tmp_path / "20.partial").exists()
    Checkpoints(tmp_path, CONFIG, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "30.damaged", "notes"]
    assert "20.partial, which a killed run left behind" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s["params"]["trunk"].update(bias=jnp.zeros(32)), "bias has dtype bfloat16, this model float32"),
        (lambda s: s["params"]["trunk"].update(kernel=jnp.zeros((8, 32))), r"has shape \[16, 32\], this model \[8"),
        (lambda s: s["params"].update(extra=jnp.zeros(3)), "holds no array params.extra"),
        (lambda s: s["params"]["trunk"].pop("bias"), "holds an array params.trunk.bias that this model lacks"),
        (lambda s: s.pop("step"), "holds an array step that this model lacks"),
    ],
)
def test_another_model_is_refused_by_the_name_of_an_array(tmp_path, change, message):
    store(tmp_path, 1)
    state = make_state(1)
    change(state)
    with pytest.raises(UserError, match=message):
        CheckpointReader(tmp_path).restore_latest(abstract(state))


def test_parameters_alone_are_restored_without_reading_the_rest(tmp_path):
    store(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / "state" / "optimizer")
    reader = CheckpointReader(tmp_path)
    part = {"params": make_state(0)["params"]}
    for asked, step in ((None, 2), (1, 1)):
        assert reader.whole(asked, abstract(part)) == step
        assert_same(reader.read(step, abstract(part)).state, {"params": make_state(step)["params"]})
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        CheckpointReader(tmp_path / "none").whole(None, abstract(part))


def test_a_model_is_loaded_without_optimizer_memory(tmp_path):
    config, workdir = runs.config(tmp_path, runs.SHALLOW), tmp_path / "run"
    guard_workdir(workdir, config)
    weights = weights_lib.random(config, 0)
    checkpoints = Checkpoints(workdir / "checkpoints", config, 1)
    moments = {"mu": weights["params"], "nu": weights["params"]}
    checkpoints.save(3, weights | {"optimizer": moments, "step": jnp.int32(3)})
    checkpoints.close()
    # Nothing of it can be read, so nothing of it is.
    shutil.rmtree(workdir / "checkpoints" / "3" / "state" / "optimizer")
    before = {id(x) for x in jax.live_arrays()}
    lm = sp.load(workdir)
    made = [x for x in jax.live_arrays() if id(x) not in before]
    assert lm.step == 3 and sum(x.nbytes for x in made) == sum(x.nbytes for x in jax.tree.leaves(lm.weights))


def test_nothing_is_pickled(tmp_path, monkeypatch):
    store(tmp_path, 1)
    # What else these bytes may say to pickle, their author did not mean.
    refusals = pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, MemoryError
    for path in all_files(tmp_path / "1"):
        with pytest.raises(refusals), path.open("rb") as file:
            pickle.load(file)
    # Reading a step never asks for it either.
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    assert_same(CheckpointReader(tmp_path).restore_latest(abstract(make_state(1))).state, make_state(1))
    source = "\n".join(path.read_text() for path in Path(scratchpatch.__file__).parent.rglob("*.py"))
    assert "allow_pickle" not in source and "import pickle" not in source and "from pickle" not in source


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"cannot write checkpoints into {tmp_path / 'file' / 'x'}"):
        Checkpoints(tmp_path / "file" / "x", CONFIG, 1)
    checkpoints = Checkpoints(tmp_path / "gone", CONFIG, 1)
    shutil.rmtree(tmp_path / "gone")
    (tmp_path / "gone").write_text("")
    with pytest.raises(UserError, match=f"cannot write checkpoints into {tmp_path / 'gone'}"):
        checkpoints.save(1, make_state(1))
        checkpoints.wait()


def test_a_full_disk_is_reported_by_the_next_call_and_loses_no_earlier_step(tmp_path, caplog):
    checkpoints = store(tmp_path, 1, keep_last=1)
    big = {"params": jax.random.normal(jax.random.key(0), (100_000,))}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        checkpoints.save(2, big)
        with pytest.raises(UserError, match=f"cannot write checkpoints into {tmp_path}.*File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in caplog.text
    assert_same(Checkpoints(tmp_path, CONFIG, 1).restore_latest(abstract(make_state(1))).state, make_state(1))


def test_close_finishes_the_last_save_and_ends_the_saving(tmp_path):
    checkpoints = Checkpoints(tmp_path, CONFIG, 1)
    checkpoints.save(1, make_state(1))
    checkpoints.close()
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    with pytest.raises(RuntimeError):
        checkpoints.save(2, make_state(2))


def test_saving_adds_no_lines_of_the_library_to_the_log(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    store(tmp_path, 1)
    assert caplog.text == ""


_SAVER = """
import sys, jax, jax.numpy as jnp
from scratchpatch import config
from scratchpatch.checkpoints.writer import Checkpoints
checkpoints = Checkpoints(sys.argv[1], config.default(), 2)
make = lambda step: {"params": {str(i): jnp.full((1000, 50), step, jnp.float32) for i in range(8)}}
restored = checkpoints.restore_latest(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make(0)))
step = restored.step if restored else 0
assert all((x == step).all() for x in jax.tree.leaves(restored.state)) if restored else step == 0
print("start", step, flush=True)
while True:
    step += 1
    checkpoints.save(step, make(step))
    print("saved", step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_step_to_go_on_from(tmp_path):
    reached = 0
    for delay in (0.0, 0.013, 0.031):
        command = [sys.executable, "-c", _SAVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            first = child.stdout.readline().split()
            assert first[0] == "start" and int(first[1]) >= reached - 1
            start = int(first[1])
            while int(child.stdout.readline().split()[1]) < start + 4:
                pass
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            last = [int(line.split()[1]) for line in child.stdout]
            reached = max([start + 4, *last])
    target = {"params": {str(i): jax.ShapeDtypeStruct((1000, 50), jnp.float32) for i in range(8)}}
    restored = Checkpoints(tmp_path, CONFIG, 2).restore_latest(target)
    assert reached - 1 <= restored.step <= reached + 1
    assert all((x == restored.step).all() for x in jax.tree.leaves(restored.state))
    assert all(path.name.isdecimal() for path in tmp_path.iterdir())


_MESHES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from scratchpatch import config
from scratchpatch.checkpoints import arrays, format
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.writer import Checkpoints
kernel, bias = np.arange(512, dtype=np.float32).reshape(16, 32), np.arange(8, dtype=np.float32).astype(jnp.bfloat16)
values = {"params": {"kernel": kernel, "bias": bias}, "step": np.int32(5)}
def place(devices):
    mesh = jax.make_mesh((devices,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    specs = {"params": {"kernel": P(None, "fsdp"), "bias": P("fsdp")}, "step": P()}
    return jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
for saved_on in (1, 2, 8):
    folder = f"{sys.argv[1]}/{saved_on}"
    checkpoints = Checkpoints(folder, config.default(), 1)
    checkpoints.save(5, jax.tree.map(jax.device_put, values, place(saved_on)))
    checkpoints.close()
    for restored_on in (1, 2, 8):
        shardings = place(restored_on)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), values, shardings)
        restored = CheckpointReader(folder).restore_latest(target)
        for want, have, s in zip(*map(jax.tree.leaves, (values, restored.state, shardings)), strict=True):
            assert have.sharding == s and have.dtype == want.dtype
            np.testing.assert_array_equal(np.asarray(have), want)
print("fine on", len(jax.devices()))
"""


def test_a_state_moves_between_1_2_and_8_devices(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _MESHES, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "fine on 8\n", done.stderr
