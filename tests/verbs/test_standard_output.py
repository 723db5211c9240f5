"""Results reach a terminal without what would steer it, and a pipe as they are."""

import sys
import types

import pytest

from scratchpatch import cli
from tests.verbs.commands import Stream

HOSTILE = "a\x1b[31m\x07\u202e\udcff é\n"


@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        (Stream(), "a\x1b[31m\x07\u202e".encode() + b"\xff \xc3\xa9\n"),
        (Stream("ascii"), b"a\x1b[31m\x07\\u202e\xff \\xe9\n"),
        (Stream(terminal=True), b"a\\x1b[31m\\x07\\u202e\\xff \xc3\xa9\n"),
        (Stream("ascii", terminal=True), b"a\\x1b[31m\\x07\\u202e\\xff \\xe9\n"),
    ],
    ids=["pipe", "ascii pipe", "terminal", "ascii terminal"],
)
def test_a_result_is_shown_on_a_terminal_and_goes_into_a_pipe_as_it_is(monkeypatch, stand_in, workdir, stream, wanted):
    stand_in("scratchpatch.report.page", write_report=lambda *_, **__: HOSTILE.rstrip("\n"))
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["report", f"--workdir={workdir}"]) == 0
    assert stream.said() == wanted and stream.errors == "strict"


GENERATED = "sí\t".encode() + b"\x1b]0;owned\x07\n\xff\xe2\x80\xae"
SHOWN = "sí⇥‹1b›]0;owned‹07›⏎\n‹ff›‹e2›‹80›‹ae›\n"


@pytest.mark.parametrize(
    ("stream", "flags", "wanted"),
    [
        (Stream(), [], GENERATED),
        (Stream(terminal=True), ["--raw"], GENERATED),
        (Stream(terminal=True), [], SHOWN.encode()),
        (Stream("ascii"), [], GENERATED),
        (Stream("ascii", terminal=True), [], SHOWN.encode("ascii", "backslashreplace")),
    ],
    ids=["pipe", "raw", "terminal", "ascii pipe", "ascii terminal"],
)
def test_generated_bytes_do_not_steer_a_terminal(monkeypatch, generating, workdir, stream, flags, wanted):
    generating(GENERATED)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x", *flags]) == 0
    assert stream.said() == wanted


def test_standard_output_that_is_closed_takes_what_it_is_given(capsys, monkeypatch, generating, workdir):
    generating(GENERATED)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x"]) == 0
    assert cli.main(["--help"]) == 0 and sys.stdout is None
    assert capsys.readouterr().err == ""


def test_what_was_written_before_an_interruption_stays(capsys, monkeypatch, stand_in, workdir):
    def stream(prompt, **options):
        yield from (types.SimpleNamespace(value=value) for value in "sí".encode())
        yield types.SimpleNamespace(value=0xE2)
        raise KeyboardInterrupt

    engine = types.SimpleNamespace(work=types.SimpleNamespace(bytes=4))
    model = types.SimpleNamespace(stream=stream, engine=lambda rows: engine)
    stand_in("scratchpatch.inference.loading", load=lambda workdir, step, devices, mesh: model)
    for terminal, wanted in ((False, "sí".encode() + b"\xe2"), (True, "sí‹e2›\n".encode())):
        out = Stream(terminal=terminal)
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x"]) == 130
        assert out.said() == wanted and capsys.readouterr().err == "scratchpatch: interrupted\n"
