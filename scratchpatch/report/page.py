"""The page of a run: one HTML file that loads nothing, made of what the run's folder holds; its style is page.css.

What is missing is named on the page together with the command that makes it.
"""

import html
import os
from pathlib import Path

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.evaluation import sweep
from scratchpatch.evaluation.answered import report_file
from scratchpatch.files import replace_text
from scratchpatch.report import elements, figures, passage, tasks
from scratchpatch.report.figures import Series
from scratchpatch.report.run_folder import RunFolder, command
from scratchpatch.training import goodput

RARE = 0.002  # an offset inside the patch that holds a smaller share of the bytes is noise, and not drawn

# label, key of what `_compared` gives, format
NUMBERS = (
    ("Bits per byte (BPB)", "bpb", "{:.4f}"), ("Entropy head alone, BPB", "entropy_head_bpb", "{:.4f}"),
    ("End of document, nats", "end_of_document_nats", "{:.3f}"),
    ("Trunk calls per byte", "trunk_calls_per_byte", "{:.4f}"),
    ("Scratchpads per byte", "scratchpads_per_byte", "{:.4f}"), ("Bytes per patch", "bytes_per_patch", "{:.2f}"),
    ("FLOPs per byte, forward", "flops_per_byte", None),
    ("Trunk KV cache, bytes per byte", "kv_bytes_per_byte", "{:,.1f}"), ("Parameters", "parameters", None),
    ("gzip, BPB", "gzip", "{:.4f}"), ("bzip2, BPB", "bzip2", "{:.4f}"), ("xz, BPB", "xz", "{:.4f}"),
    ("First bytes of this text that gzip, bzip2 and xz read", "compressed_bytes", "{:,}"),
)
ONLY_IN_TABLE = ("entropy_head_bpb", "end_of_document_nats", "gzip", "bzip2", "xz", "compressed_bytes")


def write_report(workdir: str | os.PathLike, baseline: str | os.PathLike | None = None, suffix: str = "") -> Path:
    """Write WORKDIR/report.html, where there is a baseline beside that run, and return its path. suffix: of the
    evaluation that the page shows, see `run_folder.evaluation_file`; the page's name has it too. Raises UserError where
    a folder does not exist, the baseline has no evaluation, or metrics cannot be read; OSError where the page cannot be
    written: the one that is there stays.
    """
    run = RunFolder(workdir, suffix)
    other = RunFolder(baseline) if baseline is not None else None
    if other and not other.result("validation"):
        raise UserError(f"the baseline {baseline} has no evaluation: run `{command('eval', baseline)}` first")
    path = report_file(workdir, suffix)
    replace_text(path, document(f"{run.name}: scratchpatch report", body(run, other)))
    return path


def document(title: str, content: str) -> str:
    """A whole HTML page around its body's content; its policy forbids scripts and every load."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{passage.STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{content}\n</body>\n</html>\n"
    )
    # Names of files may hold bytes that are no UTF-8.
    return page.encode("utf-8", "backslashreplace").decode()


def body(run: RunFolder, other: RunFolder | None = None) -> str:
    """What the page says about a run, with another run beside it where there is one."""
    curves, shown = [_loss(run)], run.passage()
    # Without a trunk no context lags, and no calls trade for bits.
    if any(one.config.get("model.trunk.kind") != "none" for one in (run, other) if one):
        curves += [
            _lag(run, other),
            _sweep(run, other, "trunk_calls_per_byte", "trunk calls per byte"),
            _sweep(run, other, "flops_per_byte", "FLOPs per byte"),
        ]
    curves += _boundaries(run)
    sections = [
        _heading(run, other), _tiles(run),
        '<div class="grid">', *curves, "</div>",
        "<h2>Numbers</h2>", _numbers(run, other),
        *_tasks(run),
        "<h2>A passage of held-out text</h2>",
        passage.to_html(shown) if shown else elements.missing("passage", command("eval", run.path)),
        _changes(run), "<h2>Config</h2>", _config(run), "<h2>Commands</h2>", _commands(run),
    ]
    return "\n".join(sections)


def _heading(run: RunFolder, other: RunFolder | None) -> str:
    lines = [_where("Evaluated", run)] + ([_where(f"Baseline {other.name} evaluated", other)] if other else [])
    lines += [goodput.text(run.goodput).capitalize() + " (seconds)."] if run.goodput else []
    skipped = [line["batch"] for line in run.metrics if line.get("skipped")]
    if skipped:
        batches = ", ".join(map(str, skipped[:20])) + (", ..." if len(skipped) > 20 else "")
        reason = "for a loss or gradient that was not finite or a spike"
        lines.append(f"Steps skipped, {reason}: {len(skipped)} (batches {batches}).")
    notes = "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines if line)
    warning = '<p class="invalid">INVALID: this run was trained although the causality audit failed.</p>'
    leaks = any(line.get("causality") == "INVALID" for line in run.metrics)
    return f"<h1>{html.escape(run.name)}</h1>{notes}{warning if leaks else ''}"


def _where(what: str, run: RunFolder) -> str:
    result = run.result("validation")
    if not result:
        return ""
    step, size, documents, source, split = (
        _show(result.get(key)) for key in ("step", "bytes", "documents", "source", "split")
    )
    most = result.get("max_bytes")
    beginning = f" (of each source the first {_show(most)})" if most is not None else ""
    return f"{what} at step {step} on {size} bytes{beginning} in {documents} documents of {source} ({split})."


def _tiles(run: RunFolder) -> str:
    tiles = [
        f'<div class="tile"><b>{elements.number(numbers[key], form)}</b><span>{label}</span></div>'
        for _, numbers in _compared(run, None)[:1]
        for label, key, form in NUMBERS
        if key not in ONLY_IN_TABLE and numbers.get(key) is not None
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _loss(run: RunFolder) -> str:
    training = [run.curve("bpb", "training"), run.curve("head_bpb", "training, entropy head")]
    validation = [run.curve("validation_bpb", "validation")]
    validation.append(run.curve("bpb", "validation, each checkpoint in full", followed=True))
    training, validation = ([one for one in series if one.x] for series in (training, validation))
    if not training and not validation:
        return elements.figure("Loss", "", elements.missing("metrics", command("train", run.path, "--config=FILE")))
    note = "Training and held-out bits per byte."
    if any(len(one.x) > figures.BINS for one in training):
        note += f" Training curves are means over {figures.BINS} bins of steps."
    return elements.figure("Loss", note, figures.loss_curves(training, validation, run.bytes_per_step()))


def _lag(run: RunFolder, other: RunFolder | None) -> str:
    curves = []
    for label, numbers in _compared(run, other):
        values, counts = numbers.get("bpb_by_offset") or [], numbers.get("bytes_by_offset") or []
        counts = counts if len(counts) == len(values) else [1] * len(values)
        enough = RARE * sum(count or 0 for count in counts)
        drawn = [v if (count or 0) >= enough else None for v, count in zip(values, counts, strict=True)]
        if any(value is not None for value in drawn):
            curves.append(Series(label, range(len(drawn)), drawn))
    if not curves:
        missing = elements.missing("BPB by offset inside the patch", command("eval", run.path))
        return elements.figure("Patch lag", "", missing)
    note = (
        "BPB by the bytes read since the last commit: the age of the trunk's context where no scratchpad refreshes it."
        f" Offsets with less than {RARE:.1%} of the bytes are not drawn."
    )
    return elements.figure("Patch lag", note, figures.patch_lag(curves))


def _boundaries(run: RunFolder) -> list[str]:
    """What a router asked for while it learnt; nothing of a run without one."""
    names = {"boundaries_per_byte": "asked for", "boundary_probability": "mean probability"}
    curves = [curve for name, label in names.items() if (curve := run.curve(name, label)).x]
    if not curves:
        return []
    note = "Boundaries that the router asks for, whatever the budget grants, and the mean of their probabilities."
    drawn = figures.by_step(curves, "boundaries per byte", "boundaries")
    return [elements.figure("Learned boundaries", note, drawn)]


def _sweep(run: RunFolder, other: RunFolder | None, key: str, label: str) -> str:
    title, points = label[0].upper() + label[1:], run.result("sweep") or []
    if not points:
        return elements.figure(title, "", elements.missing(f"BPB against {label}", command("eval", run.path)))
    moved = [point for point in points if point.get("threshold") is not None]
    series = [_costs("entropy trigger, by threshold in nats", key, moved)]
    for name, one in [("this run", run)] + ([(f"baseline {other.name}", other)] if other else []):
        series.append(_costs(name, key, [p for p in one.result("sweep") or () if p.get("threshold") is None]))
    note = f"BPB against {label}" + (", on the same weights: the threshold moves after training." if moved else ".")
    size, whole = points[0].get("bytes"), run.result("validation").get("bytes")
    note += f" Measured on {_show(size)} of the {_show(whole)} bytes." if size and size != whole else ""
    return elements.figure(title, note, figures.compute_quality(series, label, key.replace("_", "-")))


def _costs(label: str, key: str, points: list[dict]) -> Series:
    notes = [sweep.label(sweep.TRIGGER, point.get("threshold")) for point in points]
    return Series(label, [point.get(key) for point in points], [point.get("bpb") for point in points], notes)


def _numbers(run: RunFolder, other: RunFolder | None) -> str:
    columns = _compared(run, other)
    if not columns:
        return elements.missing("evaluation", command("eval", run.path))
    head = "".join(f'<th class="v">{html.escape(label)}</th>' for label, _ in columns)
    rows = ""
    for label, key, form in NUMBERS:
        values = "".join(f'<td class="v">{elements.number(numbers.get(key), form)}</td>' for _, numbers in columns)
        rows += f"<tr><td>{label}</td>{values}</tr>"
    return elements.scrolled(f"<tr><th></th>{head}</tr>{rows}")


def _tasks(run: RunFolder) -> list[str]:
    """What tasks have measured, in training and after it; nothing where none has."""
    drawn = [*tasks.curves(run.metrics), *(each for answer in run.tasks for each in tasks.drawn(answer))]
    sections = ["<h2>Tasks</h2>"] if drawn or run.tasks else []
    sections += [tasks.table(run.tasks, run.config)] if run.tasks else []
    sections += ['<div class="grid">', *drawn, "</div>"] if drawn else []
    return sections + [tasks.groups(answer) for answer in run.tasks]


def _config(run: RunFolder) -> str:
    if not run.config:
        return elements.missing("config.json", command("train", run.path, "--config=FILE"))
    default = config_lib.flat(config_lib.default())
    changed = [name for name in run.config if run.config[name] != default[name]]
    rows = ""
    for name in changed + [name for name in run.config if name not in changed]:
        mark = ' class="changed"' if name in changed else ""
        value = html.escape(repr(run.config[name]))
        rows += f'<tr{mark}><td><code>{name}</code></td><td class="w"><code>{value}</code></td></tr>'
    summary = f"{len(run.config)} fields, {len(changed)} of them unlike the default (first, in bold)"
    return f"<details><summary>{summary}</summary>{elements.scrolled(rows)}</details>"


def _changes(run: RunFolder) -> str:
    """What held from a step on that the run resumed at; nothing where nothing changed."""
    rows = ""
    for step, lines in run.changes:
        change = html.escape("; ".join(lines))
        rows += f'<tr><td class="v">from step {step:,} on</td><td class="w"><code>{change}</code></td></tr>'
    return f"<h2>Changes while it ran</h2>{elements.scrolled(rows)}" if rows else ""


def _commands(run: RunFolder) -> str:
    lines = (
        command("train", run.path, "--config=FILE"), command("eval", run.path, "--split=test", "--json"),
        command("eval", run.path, "--task=compute"),
        command("eval", run.path, "--override", "trigger.kind=none"), command("report", run.path, "--baseline=DIR"),
        command("inspect", run.path, "--text=FILE", "--html=OUT"),
        command("generate", run.path, "--prompt=TEXT", "--max_bytes=200"),
    )
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def _compared(run: RunFolder, other: RunFolder | None) -> list[tuple[str, dict]]:
    """(label, evaluation) of the run, the run without scratchpads and the baseline, as far as they are evaluated."""
    columns = [("this run", run, "validation"), ("without scratchpads, same weights", run, "without_scratchpads")]
    if other:
        columns.append((f"baseline {other.name}", other, "validation"))
    return [(label, one.result(name) | _shared(one)) for label, one, name in columns if one.result(name)]


def _shared(run: RunFolder) -> dict:
    result = run.result("validation")
    return (result.get("compressors") or {}) | {
        "parameters": run.evaluation.get("account", {}).get("parameters", {}).get("total"),
        # Of no bytes there is nothing to say.
        "compressed_bytes": result.get("compressed_bytes") or None,
    }


def _show(value) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else str(value)
