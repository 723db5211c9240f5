"""Who reads a run while it stores and removes steps as fast as it can: each read gives its result, or one line.

python -m tests.readers [--seconds=60] [--folder=DIR]
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests import quick, runs
from tests.faults import PATIENCE, Failed

# A trainer that keeps one step, and stores each.
FIELDS = runs.SHALLOW | {
    "training.steps": 10**9,
    "training.checkpoint_every": 1,
    "training.keep_last": 1,
}
# Name to the arguments after --workdir; two evaluations write the same files.
READS = {
    "eval": ["--max_bytes=64", "--compressor_bytes=0", "--json"],
    "eval again": ["--max_bytes=64", "--compressor_bytes=0"],
    "generate": ["--prompt=the cat", "--max_bytes=2"],
    "inspect": ["--text={text}", "--html={out}/inspect.html"],
    "calibrate": ["--target_scratchpads_per_byte=0.2", "--sample_bytes=256", "--json"],
    "report": [],
    "checkpoint list": ["--json"],
    "checkpoint verify": ["--json"],
    "checkpoint export": ["--out={out}/exported-{number}"],
    "load": [],
}


def beside_a_writer(folder: Path, seconds: float) -> str:
    """Read a run at work in every way at once, for so many seconds; what came of it, in one line.

    Raises:
      Failed: a traceback, two lines of complaint, a file that was seen half, or a way that never gave a result.
    """
    workdir, config = folder / "read", runs.config(folder, FIELDS)
    train = [f"--config={runs.write_config(folder / 'read.py', config)}", f"--workdir={workdir}"]
    with (folder / "read.log").open("w") as log:
        trainer = subprocess.Popen([sys.executable, "-m", "scratchpatch", "train", *train], stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not any(workdir.glob("checkpoints/[0-9]*/about.json")):
            if trainer.poll() is not None or time.monotonic() > end:
                raise Failed(f"the run that is to be read did not start:\n{(folder / 'read.log').read_text()}")
            time.sleep(0.1)
        (folder / "out").mkdir()
        command = [sys.executable, "-m", "tests.readers", f"--seconds={seconds}", f"--folder={folder}"]
        children = [
            subprocess.Popen(
                [*command, f"--read={name}"],
                stdout=subprocess.PIPE,
                stderr=(folder / f"{name}.err").open("w"),
                text=True,
            )
            for name in READS
        ]
        torn = _torn(workdir, children)
        counts, lines, stored = collections.Counter(), collections.Counter(), runs.lines(workdir)[-1]["step"]
        for name, child in zip(READS, children, strict=True):
            said = child.communicate()[0]
            if child.returncode:
                last = (folder / f"{name}.err").read_text()[-4000:]
                raise Failed(f"{name}, beside a run at work, ended with {child.returncode}:\n{last}")
            outcome = json.loads(said)
            if outcome["raw"]:
                raise Failed(f"{name}, beside a run at work: {outcome['raw'][0]}")
            if not outcome["results"]:
                raise Failed(f"{name} gave no result beside a run at work: {outcome['lines']}")
            counts += collections.Counter({"results": outcome["results"], "lines": sum(outcome["lines"].values())})
            lines += collections.Counter(outcome["lines"])
            said = f"{outcome['results']} results, {sum(outcome['lines'].values())} lines"
            print(f"{name}: {said}, {outcome['retries']} newer steps taken", flush=True)
        if torn:
            raise Failed(f"seen half written: {torn}")
        if trainer.poll() is not None:
            raise Failed(f"the run ended:\n{(folder / 'read.log').read_text()[-2000:]}")
    finally:
        trainer.terminate()
        code = trainer.wait(PATIENCE)
    if code:
        raise Failed(f"the run that was read ended with {code}:\n{(folder / 'read.log').read_text()[-2000:]}")
    shown = "; ".join(f"{count} x {line}" for line, count in lines.most_common(3))
    reads = f"readers: {sum(counts.values())} reads beside a run that stored {stored} steps"
    return f"{reads}: {counts['results']} results, {counts['lines']} lines {shown}"


def _torn(workdir: Path, children: list[subprocess.Popen]) -> list[str]:
    """Look at what evaluations write until all children are done; the names of what was not whole."""
    torn: set[str] = set()
    while any(child.poll() is None for child in children):
        with contextlib.suppress(FileNotFoundError):
            if not (workdir / "report.html").read_text().endswith("</html>\n"):
                torn.add("report.html")
        with contextlib.suppress(FileNotFoundError):
            try:
                json.loads((workdir / "evaluation.json").read_text())
            except ValueError:
                torn.add("evaluation.json")
        time.sleep(0.01)
    return sorted(torn)


def _read(name: str, seconds: float, folder: Path) -> dict:
    """What this process's reads of one kind gave."""
    import scratchpatch as sp
    from scratchpatch import cli
    from scratchpatch.checkpoints import reader as checkpoint_reader

    outcome = {"results": 0, "lines": collections.Counter(), "raw": [], "retries": 0}
    removed = checkpoint_reader.Removed.__init__

    def counted(self, *arguments):
        outcome["retries"] += 1
        removed(self, *arguments)

    checkpoint_reader.Removed.__init__ = counted
    # A read that stands still is a failure, and says where.
    faulthandler.dump_traceback_later(seconds + PATIENCE, exit=True)
    workdir, number, end = folder / "read", 0, time.monotonic() + seconds
    while time.monotonic() < end or not number:
        number += 1
        out, said = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        where = {"text": next((folder / "text").iterdir()), "out": folder / "out", "number": number}
        verb = [
            *name.removesuffix(" again").split(),
            f"--workdir={workdir}",
            *(flag.format(**where) for flag in READS[name]),
        ]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
                code = cli.main(verb) if name != "load" else int(sp.load(workdir).step < 0)
        except sp.UserError as error:
            code = 1
            said.write(f"scratchpatch: {error}\n")
        except BaseException:
            code = -1
            said.write(traceback.format_exc())
        complaints = [line for line in said.getvalue().splitlines() if line.startswith("scratchpatch: ")]
        if "Traceback" in said.getvalue() or code not in (0, 1) or (code == 1) != (len(complaints) == 1):
            outcome["raw"].append(f"exit code {code}: {said.getvalue()}")
        elif code:
            outcome["lines"][complaints[0].replace(str(folder), "")[:160]] += 1
        else:
            outcome["results"] += 1
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    given = parser.parse_args()
    quick.compile_quickly()
    if given.read:
        print(json.dumps(_read(given.read, given.seconds, given.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            print(beside_a_writer(folder, given.seconds))
        except Failed as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
