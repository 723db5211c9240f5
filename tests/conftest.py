"""Tests run on the CPU, and share one folder of compiled programs among processes and runs."""

import gc
import os
import secrets
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SCRATCHPATCH_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "scratchpatch")
# Configs of experiments name files in this folder, which no test reads.
os.environ.setdefault("SCRATCHPATCH_DATA", os.devnull)

import jax
import pytest
from hypothesis import settings

from scratchpatch import compilation_cache
from tests import quick

# Ignored where the tests run in the background of a script or under nohup, and then in every process that they start.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

quick.compile_quickly()
compilation_cache.enable()
# Tracing makes many small objects, among as many that live as long as the process: to collect garbage as often as
# Python does by itself takes a fifth of it.
gc.freeze()
gc.set_threshold(50_000, 20, 20)
# Simulated devices, for the tests of meshes; in this process alone, not in those that tests start.
jax.config.update("jax_num_cpu_devices", 8)

# The first example of a property compiles, which no deadline should count.
settings.register_profile("scratchpatch", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("scratchpatch")


# Drawn here, where it can be said; the processes of pytest-xdist inherit it.
_SEED = os.environ.setdefault("SCRATCHPATCH_HYPOTHESIS_SEED", str(secrets.randbelow(1 << 32)))


def pytest_addoption(parser):
    help_text = "Let tests/test_fuzz.py go on for so long; 0: for some examples."
    parser.addoption("--fuzz_minutes", type=float, default=0, help=help_text)


# What starts processes, and waits for them: at the end of a run one worker would wait for it alone.
_LONGEST = (
    *("test_generate.py", "test_processes.py", "test_end_to_end.py", "test_fuzz.py", "test_resume.py"),
    "test_harness.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if "CI" not in os.environ and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = _SEED


@pytest.fixture(scope="module")
def libtpu_without_flags():
    """libtpu reads XLA_FLAGS too, and ends a process that has the CPU's among them."""
    jax.devices()  # the CPU's compiler has read them
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Names that are no UTF-8, in a log, would end pytest-xdist."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter, config):
    seed = config.option.hypothesis_seed
    repeat = f"--hypothesis-seed={seed} repeats these examples"
    how = "examples derived from the tests' names" if seed is None else repeat
    terminalreporter.write_line(f"property tests: {how}")
