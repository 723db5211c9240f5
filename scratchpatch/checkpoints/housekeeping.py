"""What `scratchpatch checkpoint` does with the steps of a run: list them, verify them, delete those not needed.

Nothing here reads an array: about.json describes a step, and its checksums prove the files (see `format`).
"""

import datetime
import itertools
import math
from pathlib import Path
from typing import Any

from scratchpatch.checkpoints import durable, format
from scratchpatch.checkpoints.format import NotWhole, StepFolder, Unreadable
from scratchpatch.checkpoints.reader import TRIES, CheckpointReader
from scratchpatch.checkpoints.workdir import load_config, lock_workdir
from scratchpatch.checkpoints.writer import discard, remove
from scratchpatch.data import paths
from scratchpatch.errors import UserError, first_line
from scratchpatch.progress import Progress

# A disk reads so many bytes in a second or two, for which progress would only be noise.
_LARGE_BYTES = 1 << 28


def listing(workdir: str | Path) -> dict[str, Any]:
    """What a run has stored, from every about.json alone: a file under state/ may still be damaged.

    Returns 'steps', oldest first, of each: 'step'; 'damaged' (None, or why about.json cannot be trusted; then nothing
    else is there), or in its place 'unread', why about.json could not be read now; 'bytes'; 'arrays'; 'written' (UTC);
    'version' of the package; 'validation_bpb' and 'validation_bytes' that it was measured on (None where that step was
    not validated); 'best' (it has the lowest) and 'newest', both among those that can be read. 'beside': the names of
    STEP.damaged, STEP.partial and STEP.deleted. 'durable': None, or the same of the run's durable tier with its
    'folder', or that and 'unread', why the tier cannot be read.
    """
    folder = load_config(workdir).training.durable_dir if (Path(workdir) / "config.json").exists() else ""
    copies = None
    if folder:
        try:
            copies = {"folder": folder} | _listing(durable.Tier(folder))
        except Exception as error:  # file systems raise their own kinds
            copies = {"folder": folder, "unread": first_line(error)}
    return _listing(_reader(workdir)) | {"durable": copies}


def verify(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """Read every file of one step (None: of every step) against its size and checksum. Returns 'steps', oldest first,
    of each: 'step', 'whole' (None: a read error that may pass keeps it unknown), and 'reason' (None where it is whole).
    Where every step was asked for, also 'newest_whole', the step that a resumed run goes on from (None: there is none).
    Raises UserError where nothing is stored, or not that step.
    """
    reader = _reader(workdir)
    for _ in range(TRIES):
        rows = []
        for each in reader.steps() if step is None else [int(reader.path(step).name)]:
            error = _reason_not_whole(reader.folder / str(each))
            # A trainer at work may have pruned it meanwhile.
            if each in reader.steps():
                whole = None if isinstance(error, Unreadable) else error is None
                rows.append({"step": each, "whole": whole, "reason": error and str(error)})
        if rows:
            newest = max((row["step"] for row in rows if row["whole"]), default=None)
            return {"steps": rows} | ({"newest_whole": newest} if step is None else {})
        if step is None and not reader.steps():
            raise UserError(f"{reader.folder} holds no checkpoint: train first")
    raise reader.outrun()


def complaint(verdicts: dict[str, Any]) -> str | None:
    """What the user must know of a result of `verify`: the steps not whole, what a resumed run does; None: nothing."""
    whole = {row["step"]: row["whole"] for row in verdicts["steps"]}
    bad = [str(step) for step in whole if whole[step] is False] or [str(step) for step in whole if whole[step] is None]
    steps = f"step{'s' if bad[1:] else ''} {', '.join(bad)}"
    if False not in whole.values():
        return f"could not be read now, so nothing is known of them: {steps}; try again" if bad else None
    if "newest_whole" not in verdicts:
        then = "a resumed run goes on from the newest whole step (verify without --step names it)"
    elif verdicts["newest_whole"] is None:
        then = "no step is whole, so the run cannot go on: restore the folder from a copy, or remove it to start again"
    else:
        then = f"a resumed run goes on from step {verdicts['newest_whole']}, the newest whole one"
    return f"damaged: {steps}; {then}"


def prune(workdir: str | Path, keep_last: int, dry_run: bool) -> dict[str, Any]:
    """Delete all but the newest `keep_last` (1 or more) whole steps and the best whole one; leftovers too.

    A step counts as whole once every file of it has been read; one that cannot be read now is neither counted nor
    deleted. A kill at any moment leaves no half step. A dry run does all of it but the deleting. Returns 'kept': steps,
    oldest first; 'unread': to reasons, the kept steps that could not be read; 'deleted': of each folder its 'name',
    'bytes' and 'why'; 'bytes': the sum; 'dry_run'. Raises UserError where a trainer holds the workdir, or no step is
    whole: then nothing is deleted; OSError where a folder cannot be deleted.
    """
    reader = _reader(workdir)
    # This comes before the lock, which makes a file in whatever folder it is given.
    if not reader.steps():
        raise UserError(f"{reader.folder} holds no checkpoint: train first")
    with lock_workdir(workdir):
        abouts, errors = _descriptions(reader)

        def is_whole(step: int) -> bool:
            if step not in errors:
                errors[step] = _reason_not_whole(reader.folder / str(step))
            return errors[step] is None

        # Filters are lazy: of the older steps, none is read that need not be.
        newest = itertools.islice(filter(is_whole, reversed(abouts)), keep_last)
        best = itertools.islice(filter(is_whole, _best_first(abouts)), 1)
        whole = {*newest, *best}
        if not whole:
            says = f"no step in {reader.folder} is whole"
            raise UserError(f"{says}: nothing is deleted (scratchpatch checkpoint verify says why)")
        unread = {step: str(error) for step, error in errors.items() if isinstance(error, Unreadable)}
        # Leftovers come first, because `remove` reuses the name STEP.deleted.
        doomed = [(reader.folder / name, "leftover", discard) for name in reader.beside()]
        for step in reader.steps():
            if step not in whole and step not in unread:
                why = f"damaged: {errors[step]}" if errors.get(step) else "older"
                doomed.append((reader.folder / str(step), why, remove))
        deleted = []
        for path, why, delete in doomed:
            deleted.append({"name": path.name, "bytes": _bytes_on_disk(path), "why": why})
            if not dry_run:
                delete(path)
    size = sum(each["bytes"] for each in deleted)
    return {"kept": sorted({*whole, *unread}), "unread": unread, "deleted": deleted, "bytes": size, "dry_run": dry_run}


def listing_table(result: dict[str, Any]) -> str:
    """A result of `listing`, one line per step."""
    lines = ["    step         MB  arrays  written               version     validation_bpb"] if result["steps"] else []
    for row in result["steps"]:
        if problem := next((f"{kind}: {row[kind]}" for kind in ("unread", "damaged") if row.get(kind)), None):
            lines.append(f"{row['step']:8}  {problem}")
            continue
        bpb = "-" if row["validation_bpb"] is None else f"{row['validation_bpb']:.4f}"
        bpb += f" on {row['validation_bytes']:,} bytes" if row["validation_bytes"] is not None else ""
        marks = " ".join(mark for mark in ("best", "newest") if row[mark])
        lines.append(
            f"{row['step']:8} {row['bytes'] / 1e6:10.1f} {row['arrays']:7}  {row['written']:20}  "
            f"{row['version']:10}  {bpb:24}  {marks}".rstrip()
        )
    lines = lines or ["no step is stored"]
    lines += [f"beside them: {', '.join(result['beside'])}"] if result["beside"] else []
    if copies := result.get("durable"):
        rest = f"cannot be read: {copies['unread']}" if "unread" in copies else "\n" + listing_table(copies)
        lines.append(f"\ndurable tier {copies['folder']} {rest}")
    return "\n".join(lines)


def verify_table(result: dict[str, Any]) -> str:
    """A result of `verify`, one line per step."""
    words = {True: "whole", False: "damaged: ", None: "unread: "}
    return "\n".join(f"{row['step']:8}  {words[row['whole']]}{row['reason'] or ''}" for row in result["steps"])


def prune_table(result: dict[str, Any]) -> str:
    """A result of `prune`, one line per deleted folder, then what is left."""
    done, freed = ("would delete", "would free") if result["dry_run"] else ("deleted", "freed")
    lines = [f"{done} {each['name']}  {each['bytes'] / 1e6:.1f} MB  {each['why']}" for each in result["deleted"]]
    lines += [f"cannot read {step} now, so it stays: {reason}" for step, reason in result["unread"].items()]
    kept = ", ".join(map(str, result["kept"]))
    return "\n".join([*(lines or ["nothing to delete"]), f"{freed} {result['bytes'] / 1e6:.1f} MB; kept: {kept}"])


def _reader(workdir: str | Path) -> CheckpointReader:
    return CheckpointReader(Path(workdir) / "checkpoints")


def _listing(store: StepFolder) -> dict[str, Any]:
    abouts, errors = _descriptions(store)
    best = _best_first(abouts)[:1]
    rows = [
        {
            "step": step, "damaged": None, "bytes": _bytes_described(about), "arrays": len(about["arrays"]),
            "written": _time_written(store.location(step)), "version": about["version"],
            "validation_bpb": about["metrics"].get("validation_bpb"),
            "validation_bytes": about["metrics"].get("validation_bytes"), "best": best == [step],
            "newest": step == max(abouts),
        }
        for step, about in abouts.items()
    ]
    for step, error in errors.items():
        rows.append({"step": step, "unread" if isinstance(error, Unreadable) else "damaged": str(error)})
    return {"steps": sorted(rows, key=lambda row: row["step"]), "beside": store.beside()}


def _descriptions(store: StepFolder) -> tuple[dict[int, dict[str, Any]], dict[int, NotWhole]]:
    """The description of each step, oldest first; and of the other steps why there is none."""
    abouts, errors = {}, {}
    for step in store.steps():
        try:
            abouts[step] = format.read_about(store.location(step))
        except NotWhole as error:
            # A trainer at work may have pruned it meanwhile.
            if step in store.steps():
                errors[step] = error
    return abouts, errors


def _best_first(abouts: dict[int, dict[str, Any]]) -> list[int]:
    """The steps that were validated, best first; of equal ones the older first, as a trainer keeps them."""
    scores = {step: format.score(about) for step, about in abouts.items()}
    return sorted((step for step in scores if scores[step] < math.inf), key=scores.__getitem__)


def _reason_not_whole(path: Path) -> NotWhole | None:
    """Why a step is not known to be whole, every file read; None: it is whole."""
    try:
        about = format.read_about(path)
        size = _bytes_described(about)
        if size < _LARGE_BYTES:
            format.check_files(path, about)
        else:
            with Progress(size, label=f"step {path.name}", unit="B") as progress:
                format.check_files(path, about, advance=lambda count: progress.advance(count, count))
    except NotWhole as error:
        return error
    return None


def _bytes_described(about: dict[str, Any]) -> int:
    return sum(size for size, _ in about["files"].values())


def _bytes_on_disk(path: Path) -> int:
    """Bytes of the files of a folder; what a link leads to does not count."""
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_symlink() or not each.is_dir())


def _time_written(step: str) -> str:
    """When about.json was written, by the clock of its file system."""
    try:
        about = paths.join(step, format.ABOUT)
        return paths.system(about).modified(about).astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # no date of any calendar, or the step is gone by now
        return "?"
