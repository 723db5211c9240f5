"""The steps that a run has stored: what they are, whether they are whole, and which of them may go.

Nothing here reads an array: about.json describes a step, and its checksums prove the files (see manifest).
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
from pathlib import Path
from typing import Any

from scratchpatch.checkpoints import format as manifest
from scratchpatch.checkpoints.durable import Tier
from scratchpatch.checkpoints.format import Damaged, Unreadable
from scratchpatch.checkpoints.reader import TRIES, CheckpointReader
from scratchpatch.checkpoints.workdir import load_config, lock_workdir
from scratchpatch.checkpoints.writer import discard, remove, score
from scratchpatch.errors import UserError
from scratchpatch.progress import Progress

# What a disk reads in a second or two; of less, progress would only be noise.
_LARGE_BYTES = 1 << 28


def reader_of(workdir: str | Path) -> CheckpointReader:
    """The checkpoints of a run's folder."""
    return CheckpointReader(Path(workdir) / "checkpoints")


def listing(reader: CheckpointReader | Tier) -> dict[str, Any]:
    """What is stored, from every about.json alone: a file under state/ may still be damaged.

    Returns:
      'steps', oldest first, of each: 'step'; 'damaged' (None, or why about.json cannot be trusted; then nothing else is
      there), or in its place 'unread', why about.json could not be read now; 'bytes'; 'arrays'; 'written' (UTC);
      'version' of the package; 'validation_bpb' and 'validation_bytes' that it was measured on (None where that step was
      not validated); 'best' (it has the lowest) and 'newest', both among those that can be read. And 'beside': the names of
      STEP.damaged, STEP.partial and STEP.deleted.
    """
    abouts, damaged, unread = _abouts(reader)
    written = {step: when for step in abouts if (when := _written(reader.folder / str(step))) is not None}
    abouts = {step: abouts[step] for step in written}
    ranked = _ranked(abouts)
    steps = [
        {
            "step": step,
            "damaged": None,
            "bytes": _bytes_described(about),
            "arrays": len(about["arrays"]),
            "written": written[step],
            "version": about["version"],
            "validation_bpb": about["metrics"].get("validation_bpb"),
            "validation_bytes": about["metrics"].get("validation_bytes"),
            "best": ranked[:1] == [step],
            "newest": step == max(abouts),
        }
        for step, about in abouts.items()
    ]
    steps += [{"step": step, "damaged": reason} for step, reason in damaged.items()]
    steps += [{"step": step, "unread": reason} for step, reason in unread.items()]
    return {"steps": sorted(steps, key=lambda row: row["step"]), "beside": [path.name for path in _leftovers(reader)]}


def durable_listing(workdir: str | Path) -> dict[str, Any] | None:
    """`listing` of the run's durable tier, with 'folder', or that and 'unread', why it cannot be read; None: it has none."""
    folder = load_config(workdir).training.durable_dir if (Path(workdir) / "config.json").exists() else ""
    if not folder:
        return None
    try:
        return {"folder": folder} | listing(Tier(folder))
    except Exception as error:  # file systems raise their own kinds
        return {"folder": folder, "unread": manifest.first_line(error)}


def verify(reader: CheckpointReader, step: int | None = None) -> dict[str, Any]:
    """Read every file of one step (None: of every step) against its size and checksum.

    Returns:
      'steps', oldest first, of each: 'step', 'whole' (None: a read error that may pass keeps it unknown), and 'reason'
      (None where it is whole). Where every step was asked for, also 'newest_whole', the step that a resumed run goes on
      from (None: there is none).

    Raises:
      UserError: nothing is stored, or not that step.
    """
    if step is not None:
        reader.path(step)
    for _ in range(TRIES):
        rows = _verdicts(reader, reader.steps() if step is None else [step])
        if rows or not reader.steps():
            break
        if step is not None:
            reader.path(step)
    if not rows:
        raise reader.outrun() if reader.steps() else UserError(f"{reader.folder} holds no checkpoint: train first")
    newest = {"newest_whole": max((row["step"] for row in rows if row["whole"]), default=None)}
    return {"steps": rows} | (newest if step is None else {})


def _verdicts(reader: CheckpointReader, steps: list[int]) -> list[dict[str, Any]]:
    """Of those of the steps that a trainer at work has not pruned meanwhile."""
    rows = []
    for step in steps:
        bad = _damage(reader.folder / str(step))
        if (reader.folder / str(step)).exists():
            whole = None if isinstance(bad, Unreadable) else bad is None
            rows.append({"step": step, "whole": whole, "reason": bad and str(bad)})
    return rows


def complaint(verdicts: dict[str, Any]) -> str | None:
    """What the user must know of a result of `verify`: the steps not whole, what a resumed run does; None: nothing."""
    damaged = [str(row["step"]) for row in verdicts["steps"] if row["whole"] is False]
    unread = [str(row["step"]) for row in verdicts["steps"] if row["whole"] is None]
    if unread and not damaged:
        return f"could not be read now, so nothing is known of them: step{'s' if unread[1:] else ''} {', '.join(unread)}; try again"
    if not damaged:
        return None
    if "newest_whole" not in verdicts:
        then = "a resumed run goes on from the newest whole step (verify without --step names it)"
    elif verdicts["newest_whole"] is None:
        then = "no step is whole, so the run cannot go on: restore the folder from a copy, or remove it to start again"
    else:
        then = f"a resumed run goes on from step {verdicts['newest_whole']}, the newest whole one"
    return f"damaged: step{'s' if damaged[1:] else ''} {', '.join(damaged)}; {then}"


def prune(workdir: str | Path, keep_last: int, dry_run: bool) -> dict[str, Any]:
    """Delete all but the newest `keep_last` (1 or more) whole steps and the best whole one; leftovers too.

    A step counts as whole once every file of it has been read; one that cannot be read now is neither counted nor
    deleted. A kill at any moment leaves no half step. A dry run does all of it but the deleting.

    Returns:
      'kept': steps, oldest first; 'unread': to reasons, those of them that could not be read; 'deleted': of each folder its 'name', 'bytes' and 'why'; 'bytes': the sum; 'dry_run'.

    Raises:
      UserError: a trainer holds the workdir, or no step is whole: then nothing is deleted.
      OSError: a folder cannot be deleted.
    """
    reader = reader_of(workdir)
    # Before the lock, which makes a file in whatever folder it is given.
    if not reader.steps():
        raise UserError(f"{reader.folder} holds no checkpoint: train first")
    with lock_workdir(workdir):
        kept, damaged, unread = _to_keep(reader, keep_last)
        # Leftovers first: `remove` reuses the name STEP.deleted.
        doomed = [(path, "leftover", discard) for path in _leftovers(reader)]
        for step in reader.steps():
            if step not in kept and step not in unread:
                why = f"damaged: {damaged[step]}" if step in damaged else "older"
                doomed.append((reader.folder / str(step), why, remove))
        deleted = []
        for path, why, delete in doomed:
            deleted.append({"name": path.name, "bytes": _bytes_on_disk(path), "why": why})
            if not dry_run:
                delete(path)
    kept = sorted({*kept, *unread})
    return {"kept": kept, "unread": unread, "deleted": deleted, "bytes": sum(d["bytes"] for d in deleted), "dry_run": dry_run}


def listing_table(result: dict[str, Any]) -> str:
    """A result of `listing` (also under 'durable', of that tier), one line per step."""
    text = _listing_lines(result)
    durable = result.get("durable")
    if durable is None:
        return text
    rest = f"cannot be read: {durable['unread']}" if "unread" in durable else "\n" + _listing_lines(durable)
    return f"{text}\n\ndurable tier {durable['folder']} {rest}"


def _listing_lines(result: dict[str, Any]) -> str:
    lines = ["    step         MB  arrays  written               version     validation_bpb"]
    for row in result["steps"]:
        if "unread" in row:
            lines.append(f"{row['step']:8}  unread: {row['unread']}")
            continue
        if row["damaged"] is not None:
            lines.append(f"{row['step']:8}  damaged: {row['damaged']}")
            continue
        bpb = "-" if row["validation_bpb"] is None else f"{row['validation_bpb']:.4f}"
        bpb += f" on {row['validation_bytes']:,} bytes" if row["validation_bytes"] is not None else ""
        marks = " ".join(mark for mark in ("best", "newest") if row[mark])
        lines.append(
            f"{row['step']:8} {row['bytes'] / 1e6:10.1f} {row['arrays']:7}  {row['written']:20}  "
            f"{row['version']:10}  {bpb:24}  {marks}".rstrip()
        )
    if not result["steps"]:
        lines = ["no step is stored"]
    return "\n".join(lines + ([f"beside them: {', '.join(result['beside'])}"] if result["beside"] else []))


def verify_table(result: dict[str, Any]) -> str:
    """A result of `verify`, one line per step."""
    said = {True: "whole", False: "damaged: ", None: "unread: "}
    return "\n".join(f"{row['step']:8}  {said[row['whole']]}{row['reason'] or ''}" for row in result["steps"])


def prune_table(result: dict[str, Any]) -> str:
    """A result of `prune`, one line per deleted folder, then what is left."""
    done, freed = ("would delete", "would free") if result["dry_run"] else ("deleted", "freed")
    lines = [f"{done} {d['name']}  {d['bytes'] / 1e6:.1f} MB  {d['why']}" for d in result["deleted"]]
    lines += [f"cannot read {step} now, so it stays: {reason}" for step, reason in result["unread"].items()]
    kept = ", ".join(map(str, result["kept"]))
    return "\n".join([*(lines or ["nothing to delete"]), f"{freed} {result['bytes'] / 1e6:.1f} MB; kept: {kept}"])


def _abouts(reader: CheckpointReader | Tier) -> tuple[dict[int, dict[str, Any]], dict[int, str], dict[int, str]]:
    """What describes each step, oldest first; the steps whose description is damaged, and those where it is unread."""
    abouts, damaged, unread = {}, {}, {}
    for step in reader.steps():
        path = reader.folder / str(step)
        try:
            abouts[step] = manifest.read(path)
        except (Damaged, Unreadable) as error:
            # A trainer at work may have pruned it meanwhile.
            if path.exists():
                (unread if isinstance(error, Unreadable) else damaged)[step] = str(error)
    return abouts, damaged, unread


def _ranked(abouts: dict[int, dict[str, Any]]) -> list[int]:
    """The steps that were validated, best first; of equal ones the older first, as a trainer keeps them."""
    scores = {step: score(about["metrics"]) for step, about in abouts.items()}
    return sorted((step for step in scores if scores[step] < math.inf), key=scores.__getitem__)


def _to_keep(reader: CheckpointReader, keep_last: int) -> tuple[set[int], dict[int, str], dict[int, str]]:
    """The newest `keep_last` whole steps and the best whole one; and those found damaged or unread on the way.

    Raises UserError where no step is known to be whole.
    """
    kept: set[int] = set()
    abouts, damaged, unread = _abouts(reader)

    def whole(step: int) -> bool:
        bad = _damage(reader.folder / str(step))
        if bad is not None:
            (unread if isinstance(bad, Unreadable) else damaged)[step] = str(bad)
        return bad is None

    for step in reversed(abouts):
        if len(kept) == keep_last:
            break
        if whole(step):
            kept.add(step)
    if not kept:
        raise UserError(f"no step in {reader.folder} is whole: nothing is deleted (scratchpatch checkpoint verify says why)")
    for step in _ranked(abouts):
        if step in kept or (step not in damaged and step not in unread and whole(step)):
            kept.add(step)
            break
    return kept, damaged, unread


def _damage(path: Path) -> Damaged | Unreadable | None:
    """Why a step is not known to be whole, every file read; None: it is whole."""
    try:
        about = manifest.read(path)
        size = _bytes_described(about)
        if size < _LARGE_BYTES:
            manifest.check(path, about, skipped=())
        else:
            with Progress(size, label=f"step {path.name}", unit="B") as progress:
                manifest.check(path, about, skipped=(), seen=lambda count: progress.advance(count, count))
    except (Damaged, Unreadable) as error:
        return error
    return None


def _leftovers(reader: CheckpointReader | Tier) -> list[Path]:
    return reader.beside("damaged", "partial", "deleted")


def _bytes_described(about: dict[str, Any]) -> int:
    return sum(size for size, _ in about["files"].values())


def _bytes_on_disk(path: Path) -> int:
    """Of the files of a folder that are still there; what a link leads to does not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _written(path: Path) -> str | None:
    """When a step was finished, by the clock of its file system; None: it is gone by now."""
    try:
        seconds = manifest.finished(path)
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except FileNotFoundError:
        return None
    except (ValueError, OverflowError, OSError):
        return "?"
