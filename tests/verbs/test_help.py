"""What `--help` says, and how it is reached."""

import dataclasses
import subprocess
import sys

import pytest

from scratchpatch import cli, config
from scratchpatch.verbs import VERBS
from tests.verbs.commands import Stream


def test_help_lists_every_verb_with_an_example(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in text and verb.summary in text and f"scratchpatch {name}" in text


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_teaches_flags_examples_and_exit_codes(capsys, name):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for words in (VERBS[name].summary, "usage: scratchpatch " + name, "flags:", "examples:", "exit codes:"):
        assert words in text
    assert all(f"  --{flag}  (required)" in text for flag in VERBS[name].required)
    assert (config.describe() in text) == VERBS[name].config


def test_no_verb_shows_the_help_as_wrong_usage(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "verbs:" in err


@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_on_an_ascii_terminal(monkeypatch, name):
    stream = Stream("ascii", terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main([*name.split(), "--help"]) == 0
    assert b"exit codes:" in stream.said()


def test_python_without_docstrings_has_no_words_of_a_verb():
    verb = dataclasses.replace(VERBS["eval"], text=None)
    assert verb.summary == "" and verb.help() == ("", "")


def test_console_in_its_own_process():
    def run(*argv):
        command = [sys.executable, "-X", "importtime", "-m", "scratchpatch", *argv]
        return subprocess.run(command, capture_output=True, text=True)

    helped = run("train", "--help")
    assert helped.returncode == 0 and "patching.patch_bytes = 16" in helped.stdout
    # Help answers before the heavy imports.
    imported = {line.rpartition("|")[2].strip() for line in helped.stderr.splitlines()}
    assert "scratchpatch.cli" in imported and "jax" not in imported
    refused = run("eval", "--workdir=no/such/folder")
    line = "scratchpatch: --workdir=no/such/folder: no such folder: scratchpatch train makes one"
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == line
