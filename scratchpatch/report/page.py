"""The page of a run: one HTML file that loads nothing, made of what the run's folder holds.

What is missing is named on the page together with the command that makes it;
the rest is still shown.
"""

from __future__ import annotations

import html
import math
import os
from pathlib import Path

from scratchpatch import config as config_lib
from scratchpatch import vocabulary
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.output import quantity
from scratchpatch.report import figures, passage
from scratchpatch.report.figures import Series
from scratchpatch.report.run_folder import RunFolder, command, report_file
from scratchpatch.training import goodput

RARE = 0.002  # an offset inside the patch that holds a smaller share of the bytes is noise, and not drawn

# Ink and panel are those of the figures.
_LIGHT, _DARK = ("--ink:{};--panel:{}".format(*colours) for colours in (figures.LIGHT, figures.DARK))
_COLOURS = f"""
:root{{color-scheme:light dark;{_LIGHT};--soft:#5b6472;--line:#d9dee6;--paper:#f6f7f9;--link:#2a62c0;--pad:#2f7de0}}
@media (prefers-color-scheme:dark){{
:root{{{_DARK};--soft:#98a2b1;--line:#333b47;--paper:#14181e;--link:#7fb0ff;--pad:#5aa2ff}}}}
"""
CSS = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:26px 20px 60px;background:var(--paper);color:var(--ink);
 font:16px/1.55 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:34px 0 8px}p{margin:6px 0}
.note{color:var(--soft);font-size:14px;overflow-wrap:anywhere}
.invalid{color:#d2495d;font-weight:600}
.missing{border-left:3px solid #e07b22;padding:8px 14px;background:var(--panel);border-radius:0 8px 8px 0;
 overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:24px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13.5px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px;align-items:start}
.grid>*{min-width:0}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
figure svg{width:100%;height:auto;display:block}figcaption{font-size:14px;color:var(--soft);margin-top:6px}
figcaption b{color:var(--ink);font-size:15px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--panel);margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:15px}
td,th{padding:6px 12px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
tr:last-child td{border-bottom:0}
th{font-weight:600}.v{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.v{white-space:normal;min-width:7em}
.changed td{font-weight:600}.w{overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;
 font-size:14px;margin:8px 0}
code{font-size:.93em}summary{cursor:pointer;color:var(--link)}
"""

# label, key of what `_compared` gives, format
NUMBERS = (
    ("Bits per byte (BPB)", "bpb", "{:.4f}"),
    ("Entropy head alone, BPB", "entropy_head_bpb", "{:.4f}"),
    ("End of document, nats", "end_of_document_nats", "{:.3f}"),
    ("Trunk calls per byte", "trunk_calls_per_byte", "{:.4f}"),
    ("Scratchpads per byte", "scratchpads_per_byte", "{:.4f}"),
    ("Bytes per patch", "bytes_per_patch", "{:.2f}"),
    ("FLOPs per byte, forward", "flops_per_byte", None),
    ("Trunk KV cache, bytes per byte", "kv_bytes_per_byte", "{:,.1f}"),
    ("Parameters", "parameters", None),
    ("gzip, BPB", "gzip", "{:.4f}"),
    ("bzip2, BPB", "bzip2", "{:.4f}"),
    ("xz, BPB", "xz", "{:.4f}"),
    ("First bytes of this text that gzip, bzip2 and xz read", "compressed_bytes", "{:,}"),
)
ONLY_IN_TABLE = ("entropy_head_bpb", "end_of_document_nats", "gzip", "bzip2", "xz", "compressed_bytes")


def write_report(workdir: str | os.PathLike, baseline: str | os.PathLike | None = None, kind: str = "") -> Path:
    """Write WORKDIR/report.html and return its path; `baseline` is another run's folder to compare with.

    kind: of the evaluation that it shows, see `run_folder.evaluation_file`; the page's name has it too.

    Raises:
      UserError: a folder does not exist, the baseline has no evaluation, or metrics cannot be read.
      OSError: the page cannot be written; the one that is there stays.
    """
    run = RunFolder(workdir, kind)
    other = RunFolder(baseline) if baseline is not None else None
    if other and not other.result("validation"):
        raise UserError(f"the baseline {baseline} has no evaluation: run `{command('eval', baseline)}` first")
    path = report_file(workdir, kind)
    replace_text(path, document(f"{run.name}: scratchpatch report", _body(run, other)))
    return path


def document(title: str, body: str) -> str:
    """A whole HTML page around a body; its policy forbids scripts and every load."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_COLOURS}{CSS}{passage.CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    # Names of files may hold bytes that are no UTF-8.
    return page.encode("utf-8", "backslashreplace").decode()


def _body(run: RunFolder, other: RunFolder | None) -> str:
    # Without a trunk no context lags, and no calls trade for bits.
    patches = any(one.config.get("model.trunk.kind") != "none" for one in (run, other) if one)
    return "\n".join(
        [
            _heading(run, other),
            _tiles(run),
            '<div class="grid">',
            _loss(run),
            *(_of_patches(run, other) if patches else ()),
            "</div>",
            "<h2>Numbers</h2>",
            _numbers(run, other),
            "<h2>A passage of held-out text</h2>",
            _passage(run),
            _changes(run),
            "<h2>Config</h2>",
            _config(run),
            "<h2>Commands</h2>",
            _commands(run),
        ]
    )


def _of_patches(run: RunFolder, other: RunFolder | None) -> tuple[str, ...]:
    return (
        _lag(run, other),
        _sweep(run, other, "trunk_calls_per_byte", "trunk calls per byte"),
        _sweep(run, other, "flops_per_byte", "FLOPs per byte"),
    )


def _heading(run: RunFolder, other: RunFolder | None) -> str:
    lines = [_where("Evaluated", run)] + ([_where(f"Baseline {other.name} evaluated", other)] if other else [])
    lines += [goodput.text(run.goodput).capitalize() + " (seconds)."] if run.goodput else []
    skipped = [line["batch"] for line in run.metrics if line.get("skipped")]
    if skipped:
        shown = ", ".join(map(str, skipped[:20])) + (", ..." if len(skipped) > 20 else "")
        lines.append(f"Steps skipped, for a loss or gradient that was not finite or a spike: {len(skipped)} (batches {shown}).")
    notes = "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines if line)
    invalid = any(line.get("causality") == "INVALID" for line in run.metrics)
    warning = '<p class="invalid">INVALID: this run was trained although the causality audit failed.</p>' if invalid else ""
    return f"<h1>{html.escape(run.name)}</h1>{notes}{warning}"


def _where(what: str, run: RunFolder) -> str:
    found = run.result("validation")
    if not found:
        return ""
    at = f"{what} at step {_show(found.get('step'))} on {_show(found.get('bytes'))} bytes"
    if found.get("max_bytes") is not None:
        at += f" (of each source the first {_show(found['max_bytes'])})"
    documents, source, split = (_show(found.get(key)) for key in ("documents", "source", "split"))
    return f"{at} in {documents} documents of {source} ({split})."


def _tiles(run: RunFolder) -> str:
    tiles = [
        f'<div class="tile"><b>{_number(found[key], form)}</b><span>{label}</span></div>'
        for _, found in _compared(run, None)[:1]
        for label, key, form in NUMBERS
        if key not in ONLY_IN_TABLE and found.get(key) is not None
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _loss(run: RunFolder) -> str:
    training = [run.curve("bpb", "training"), run.curve("head_bpb", "training, entropy head")]
    validation = [run.curve("validation_bpb", "validation")]
    training, validation = ([s for s in series if s.x] for series in (training, validation))
    if not training and not validation:
        return _figure("Loss", "", _missing("metrics", command("train", run.path, "--config=FILE")))
    svg = figures.loss_curves(training, validation, run.bytes_per_step())
    many = any(len(s.x) > figures.BINS for s in training)
    binned = f" Training curves are means over {figures.BINS} bins of steps." if many else ""
    return _figure("Loss", f"Training and held-out bits per byte.{binned}", svg)


def _lag(run: RunFolder, other: RunFolder | None) -> str:
    curves = []
    for label, found in _compared(run, other):
        values, counts = found.get("bpb_by_offset") or [], found.get("bytes_by_offset") or []
        counts = counts if len(counts) == len(values) else [1] * len(values)
        enough = RARE * sum(c or 0 for c in counts)
        kept = [v if (c or 0) >= enough else None for v, c in zip(values, counts, strict=True)]
        if any(v is not None for v in kept):
            curves.append(Series(label, range(len(kept)), kept))
    if not curves:
        return _figure("Patch lag", "", _missing("BPB by offset inside the patch", command("eval", run.path)))
    note = (
        "BPB by the bytes read since the last commit: the age of the trunk's context where no scratchpad refreshes it."
    )
    note += f" Offsets with less than {RARE:.1%} of the bytes are not drawn."
    return _figure("Patch lag", note, figures.patch_lag(curves))


def _sweep(run: RunFolder, other: RunFolder | None, key: str, label: str) -> str:
    title, points = label[0].upper() + label[1:], run.result("sweep") or []
    if not points:
        return _figure(title, "", _missing(f"BPB against {label}", command("eval", run.path)))
    moved = [p for p in points if p.get("threshold") is not None]
    series = [_costs("entropy trigger, by threshold in nats", key, moved)] if moved else []
    for name, one in [("this run", run)] + ([(f"baseline {other.name}", other)] if other else []):
        as_trained = [p for p in one.result("sweep") or [] if p.get("threshold") is None]
        series += [_costs(name, key, as_trained)] if as_trained else []
    note = f"BPB against {label}" + (", on the same weights: the threshold moves after training." if moved else ".")
    read, whole = points[0].get("bytes"), run.result("validation").get("bytes")
    note += f" Measured on {_show(read)} of the {_show(whole)} bytes." if read and read != whole else ""
    return _figure(title, note, figures.compute_quality(series, label, key.replace("_", "-")))


def _costs(label: str, key: str, points: list[dict]) -> Series:
    notes = [_threshold(p.get("threshold")) for p in points]
    return Series(label, [p.get(key) for p in points], [p.get("bpb") for p in points], notes)


def _threshold(nats: float | None) -> str:
    """The name of a sweep's point: what a threshold does that every entropy or none exceeds; none as trained."""
    if nats is None:
        return ""
    if nats < 0:
        return "every byte"
    return f"{nats:.3g}" if nats < math.log(vocabulary.SIZE) else "none"


def _numbers(run: RunFolder, other: RunFolder | None) -> str:
    columns = _compared(run, other)
    if not columns:
        return _missing("evaluation", command("eval", run.path))
    head = "".join(f'<th class="v">{html.escape(label)}</th>' for label, _ in columns)
    body = ""
    for label, key, form in NUMBERS:
        values = "".join(f'<td class="v">{_number(found.get(key), form)}</td>' for _, found in columns)
        body += f"<tr><td>{label}</td>{values}</tr>"
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _passage(run: RunFolder) -> str:
    found = run.passage()
    return passage.to_html(found) if found else _missing("passage", command("eval", run.path))


def _config(run: RunFolder) -> str:
    if not run.config:
        return _missing("config.json", command("train", run.path, "--config=FILE"))
    default = config_lib.flat(config_lib.default())
    changed = [name for name in run.config if run.config[name] != default[name]]
    rows = []
    for name in changed + [name for name in run.config if name not in changed]:
        mark = ' class="changed"' if name in changed else ""
        value = html.escape(repr(run.config[name]))
        rows.append(f'<tr{mark}><td><code>{name}</code></td><td class="w"><code>{value}</code></td></tr>')
    summary = f"{len(run.config)} fields, {len(changed)} of them unlike the default (first, in bold)"
    return f'<details><summary>{summary}</summary><div class="scroll"><table>{"".join(rows)}</table></div></details>'


def _changes(run: RunFolder) -> str:
    """What held from a step on that the run resumed at; nothing where nothing changed."""
    if not run.changes:
        return ""
    rows = "".join(
        f'<tr><td class="v">from step {step:,} on</td><td class="w"><code>{html.escape("; ".join(lines))}</code></td></tr>'
        for step, lines in run.changes
    )
    return f'<h2>Changes while it ran</h2><div class="scroll"><table>{rows}</table></div>'


def _commands(run: RunFolder) -> str:
    lines = (
        command("train", run.path, "--config=FILE"),
        command("eval", run.path, "--split=test", "--json"),
        command("eval", run.path, "--override", "trigger.kind=none"),
        command("report", run.path, "--baseline=DIR"),
        command("inspect", run.path, "--text=FILE", "--html=OUT"),
        command("generate", run.path, "--prompt=TEXT", "--max_bytes=200"),
    )
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def _compared(run: RunFolder, other: RunFolder | None) -> list[tuple[str, dict]]:
    """The run, the run without scratchpads and the baseline, as far as they are evaluated.

    Each is a label and an evaluation, with `parameters` and the compressors' BPB beside its own numbers.
    """
    found = [("this run", run, "validation"), ("without scratchpads, same weights", run, "without_scratchpads")]
    if other:
        found.append((f"baseline {other.name}", other, "validation"))
    return [(label, one.result(name) | _shared(one)) for label, one, name in found if one.result(name)]


def _shared(run: RunFolder) -> dict:
    """What all evaluations of a run on its validation text have in common."""
    parameters = (run.evaluation.get("account") or {}).get("parameters") or {}
    found = run.result("validation")
    # Of no bytes there is nothing to say.
    read = {"compressed_bytes": found.get("compressed_bytes") or None}
    return {"parameters": parameters.get("total")} | (found.get("compressors") or {}) | read


def _figure(title: str, note: str, content: str) -> str:
    return f"<figure>{content}<figcaption><b>{title}</b> {html.escape(note)}</figcaption></figure>"


def _missing(what: str, how: str) -> str:
    return f'<div class="missing">No {html.escape(what)} yet: <code>{html.escape(how)}</code> makes it.</div>'


def _number(value, form: str | None) -> str:
    if not isinstance(value, (int, float)):
        return "–"
    return form.format(value) if form else quantity(value)


def _show(value) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else str(value)
