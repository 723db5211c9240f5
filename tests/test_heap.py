"""Large pages are asked for once, and only where they can help."""

import os
import sys

import pytest

from scratchpatch import heap


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(setting, accelerator=False, library="glibc", **environment) -> what the program is started again with."""

    def start(setting="always [madvise] never", accelerator=False, library="glibc", **environment):
        started = []
        for name in [*os.environ]:
            if name.startswith(("GLIBC_TUNABLES", "MALLOC_")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "enabled"
        if setting is not None:
            file.write_text(setting)
        monkeypatch.setattr(heap, "_SETTING", file)
        monkeypatch.setattr(heap.platforms, "accelerator", lambda: accelerator)
        monkeypatch.setattr(heap.platform, "libc_ver", lambda: (library, ""))
        monkeypatch.setattr(heap.os, "execve", lambda *arguments: started.append(arguments))
        heap.use_large_pages()
        return started

    return start


def test_the_program_is_started_again_with_the_same_arguments(machine):
    ((program, arguments, environment),) = machine()
    assert program == arguments[0] == sys.executable and arguments[1:] == sys.orig_argv[1:]
    assert environment == os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    "given",
    [
        {"setting": "[always] madvise never"},
        {"setting": "always madvise [never]"},
        {"setting": None},
        {"accelerator": True},
        {"library": ""},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        {"MALLOC_ARENA_MAX": "1"},
    ],
    ids=lambda given: ",".join(f"{name}={value}" for name, value in given.items()),
)
def test_it_is_left_alone(machine, given):
    assert not machine(**given)
