"""Who runs the verbs, and where: without a home, on an ASCII terminal, with libtpu and no TPU, under any name."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from scratchpatch import cli
from scratchpatch.planning import ahead_of_time
from scratchpatch.report import page

# Bytes that are no UTF-8, that steer a terminal, and that mean something in HTML.
STRANGE = os.fsdecode(b"\xff\x1b[31m\xe2\x80\xae<script>'\"&")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of a strange name with the text, workdir) of a run."""
    folder = tmp_path_factory.mktemp("users")
    (folder / STRANGE).mkdir()
    (folder / STRANGE / f"{STRANGE}.txt").write_bytes(b"</script>&")
    shutil.copytree(Path(__file__).parent / "training" / "schema_1" / "run", folder / "run")
    about = json.loads((folder / "run" / "config.json").read_text())
    about["config"]["data.sources"] = [[f"text:{folder}/{STRANGE}/*.txt", 1.0]]
    about["config"]["data.cache_dir"] = f"{folder}/{STRANGE}/cache"
    (folder / "run" / "config.json").write_text(json.dumps(about))
    return folder / STRANGE, folder / "run"


# As for a user without an entry in the password file.
ELSEWHERE = """
import pwd, sys
def unknown(_):
    raise KeyError
pwd.getpwuid = unknown
from scratchpatch import cli
print("codes", [cli.main(argv.split("\\t")) for argv in sys.argv[1:]])
"""


def test_without_a_home_a_locale_or_a_tpu_the_verbs_say_nothing_but_their_own(run, tmp_path):
    """libtpu, which is installed, is not asked: it would print errors, and look for a metadata server."""
    text, workdir = run
    gone = ("HOME", "JAX_PLATFORMS", "SCRATCHPATCH_CACHE", "LANG")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in gone and not name.startswith(("LC_", "TPU_", "XDG_"))
    }
    environment |= {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "TMPDIR": str(tmp_path),
    }
    # Without it every start would compile: that the folder is another without a home has tests of its own.
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    verbs = (
        f"checkpoint\tlist\t--workdir={workdir}",
        f"inspect\t--workdir={workdir}\t--text={text}/{STRANGE}.txt\t--html={text}/page.html",
        "eval\t--workdir=~/run",
    )
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *verbs], env=environment, cwd=Path(__file__).parents[1], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"\ncodes [0, 0, 2]\n") and b"\\u2502 a patch ends" in done.stdout
    said = done.stderr.decode("ascii").splitlines()
    assert said[-1] == (
        "scratchpatch: ~/run: this user has no home folder (HOME is not set): write the whole path "
        "(see scratchpatch eval --help)"
    )
    assert {line.split(":")[0] for line in said[:-1]} <= {"window", "staircase"}
    if ahead_of_time.available():
        assert "tpu" not in done.stderr.decode().lower()
    made = (text / "page.html").read_text(encoding="utf-8")
    assert "<script" not in made and "</script" not in made
    assert "&lt;script&gt;&#x27;&quot;&amp;.txt in patches</title>" in made


def test_a_page_holds_no_half_of_a_character():
    assert page.document("\udcff", "\ud800").count("\\ud") == 2


@pytest.mark.parametrize("verb", ["report", "checkpoint list", "checkpoint verify"])
def test_names_of_every_kind_of_byte_on_an_ascii_terminal(run, monkeypatch, verb):
    _, workdir = run
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, encoding="ascii")
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main([*verb.split(), f"--workdir={workdir}"]) == 0
    stream.flush()
    said = out.getvalue().decode("ascii")
    assert said and all(c.isprintable() or c == "\n" for c in said)


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--workdir=NAME"],
        ["eval", "--workdir=NAME"],
        ["checkpoint", "export", "--workdir=x", "--out=NAME"],
        ["prepare", "--source=text:x", "--out=NAME"],
        ["import", "--folder=x", "--out=NAME"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_folder_of_arrays_whose_name_is_no_utf8_is_refused_before_anything_begins(run, capsys, monkeypatch, argv):
    """Orbax and array_record take no such name, and would say so after the first steps."""
    text, _ = run
    for name in (f"{text}/new", "new"):
        monkeypatch.chdir(text)
        assert cli.main([each.replace("NAME", name) for each in argv]) == 2
        said = capsys.readouterr().err
        assert "which is no UTF-8, and the libraries that store arrays take no other names; rename it, " in said
        assert "or name a link to it" in said
        assert said.count("\n") == 1 and "\x1b" not in said


def test_a_working_directory_that_is_gone_is_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["eval", "--workdir=run"]) == 2
    said = "scratchpatch: the working directory: No such file or directory (see scratchpatch eval --help)\n"
    assert capsys.readouterr().err == said
