"""A config file, a workdir, and stand-ins for the functions behind the verbs."""

import sys
import types

import pytest


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text("from scratchpatch import config\n\n\ndef get_config():\n    return config.default()\n")
    return str(path)


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return str(path)


@pytest.fixture
def stand_in(monkeypatch):
    """Put functions in the place of a module: stand_in('scratchpatch.x.y', f=...) -> the calls made."""

    def place(module, **functions):
        calls = []

        def recorded(function):
            def call(*args, **kwargs):
                calls.append((args, kwargs))
                return function(*args, **kwargs)

            return call

        fake = types.ModuleType(module)
        for name, function in functions.items():
            setattr(fake, name, recorded(function))
        monkeypatch.setitem(sys.modules, module, fake)
        return calls

    return place


@pytest.fixture
def generating(stand_in):
    """Let every run's model generate the same bytes: generating(text) -> the calls made, as (workdir, prompt, ...)."""

    def place(text):
        calls = []

        def load(workdir, step, devices, mesh):
            def stream(prompt, **options):
                calls.append((workdir, step, prompt, options))
                for n, value in enumerate(text):
                    yield types.SimpleNamespace(value=value, commit=n % 4 == 0, scratchpad=n % 4 == 2)

            engine = types.SimpleNamespace(work=types.SimpleNamespace(bytes=len(text)))
            return types.SimpleNamespace(stream=stream, engine=lambda rows: engine)

        stand_in("scratchpatch.inference.loading", load=load)
        return calls

    return place
