"""The page of a run: one HTML file that loads nothing, made of what the run's folder holds.

What is missing is named on the page together with the command that makes it;
the rest is still shown.
"""

from __future__ import annotations

import html
import os
from pathlib import Path

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.report import figures, passage
from scratchpatch.report.figures import Series, quantity
from scratchpatch.report.run_folder import RunFolder, command

RARE = 0.002  # an offset inside the patch that holds a smaller share of the bytes is noise, and not drawn

CSS = """
:root{color-scheme:light dark;--ink:#1d2430;--soft:#5b6472;--line:#d9dee6;--paper:#f6f7f9;--panel:#fff;--link:#2a62c0;--pad:#2f7de0}
@media (prefers-color-scheme:dark){:root{--ink:#d7dce4;--soft:#98a2b1;--line:#333b47;--paper:#14181e;--panel:#1b2028;--link:#7fb0ff;--pad:#5aa2ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:26px 20px 60px;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:34px 0 8px}p{margin:6px 0}
.note{color:var(--soft);font-size:14px;overflow-wrap:anywhere}
.missing{border-left:3px solid #e07b22;padding:8px 14px;background:var(--panel);border-radius:0 8px 8px 0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:24px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13.5px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px;align-items:start}.grid>*{min-width:0}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
figure svg{width:100%;height:auto;display:block}figcaption{font-size:14px;color:var(--soft);margin-top:6px}
figcaption b{color:var(--ink);font-size:15px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--panel);margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:15px}
td,th{padding:6px 12px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}tr:last-child td{border-bottom:0}
th{font-weight:600}.v{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.changed td{font-weight:600}.w{overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;font-size:14px;margin:8px 0}
code{font-size:.93em}summary{cursor:pointer;color:var(--link)}
"""

# label, key of an evaluation, format
NUMBERS = (
    ("Bits per byte (BPB)", "bpb", "{:.4f}"),
    ("Entropy head alone, BPB", "entropy_head_bpb", "{:.4f}"),
    ("End of document, nats", "end_of_document_nats", "{:.3f}"),
    ("Trunk calls per byte", "trunk_calls_per_byte", "{:.4f}"),
    ("Scratchpads per byte", "scratchpads_per_byte", "{:.4f}"),
    ("Bytes per patch", "bytes_per_patch", "{:.2f}"),
    ("FLOPs per byte, forward", "flops_per_byte", None),
    ("Trunk KV cache, bytes per byte", "kv_bytes_per_byte", "{:,.1f}"),
)


def write_report(workdir: str | os.PathLike, baseline: str | os.PathLike | None = None) -> Path:
    """Write WORKDIR/report.html and return its path; `baseline` is another run's folder to compare with.

    Raises UserError when a folder does not exist, or when the baseline has no
    evaluation.
    """
    run = RunFolder(workdir)
    other = RunFolder(baseline) if baseline is not None else None
    if other and not other.result("validation"):
        raise UserError(f"the baseline {baseline} has no evaluation: run `{command('eval', baseline)}` first")
    path = run.path / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(document(f"{run.name}: scratchpatch report", _body(run, other)), encoding="utf-8")
    partial.replace(path)
    return path


def document(title: str, body: str) -> str:
    """A whole HTML page around a body; its policy forbids scripts and every load."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}{passage.CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(run: RunFolder, other: RunFolder | None) -> str:
    return "\n".join(
        [
            _heading(run),
            _tiles(run),
            '<div class="grid">',
            _loss(run),
            _lag(run, other),
            _sweep(run, other),
            "</div>",
            "<h2>Numbers</h2>",
            _numbers(run, other),
            "<h2>A passage of held-out text</h2>",
            _passage(run),
            "<h2>Config</h2>",
            _config(run),
            "<h2>Commands</h2>",
            _commands(run),
        ]
    )


def _heading(run: RunFolder) -> str:
    found = run.result("validation")
    where = ""
    if found:
        where = f"Evaluated at step {_show(found.get('step', run.evaluation.get('step')))} on {_show(found.get('bytes'))} bytes"
        where += f" in {_show(found.get('documents'))} documents of {_show(found.get('source'))} ({_show(found.get('split'))})."
    return f'<h1>{html.escape(run.name)}</h1><p class="note">{html.escape(where)}</p>'


def _tiles(run: RunFolder) -> str:
    found = run.result("validation")
    wanted = [(label, found.get(key), form) for label, key, form in NUMBERS if key not in ("entropy_head_bpb", "end_of_document_nats")]
    wanted.append(("Parameters", _parameters(run), None))
    tiles = [f'<div class="tile"><b>{_number(value, form)}</b><span>{label}</span></div>' for label, value, form in wanted if value is not None]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _loss(run: RunFolder) -> str:
    training = [run.curve("bpb", "training"), run.curve("entropy_head_bpb", "training, entropy head")]
    validation = [run.curve("validation_bpb", "validation")]
    training, validation = ([s for s in series if s.x] for series in (training, validation))
    if not training and not validation:
        return _figure("Loss", "", _missing("metrics", command("train", run.path, "--config=FILE")))
    svg = figures.loss_curves(training, validation, run.bytes_per_step())
    many = any(len(s.x) > figures.BINS for s in training)
    note = "Training and held-out bits per byte." + f" Training curves are means over {figures.BINS} bins of steps." * many
    return _figure("Loss", note, svg)


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
    note = "BPB of a byte by its distance from the last commit: context that is not refreshed grows stale. "
    note += f"Offsets with less than {RARE:.1%} of the bytes are not drawn."
    if not run.result("without_scratchpads"):
        note += " There is no evaluation without scratchpads on the same weights."
    return _figure("Patch lag", note, figures.patch_lag(curves))


def _sweep(run: RunFolder, other: RunFolder | None) -> str:
    points = [p for p in run.result("sweep") or [] if isinstance(p, dict)]
    series = []
    if points:
        x, y = ([p.get(key) for p in points] for key in ("trunk_calls_per_byte", "bpb"))
        series.append(Series("trigger threshold (nats)", x, y, [f"{p['threshold']:.3g}" if "threshold" in p else "" for p in points]))
    for label, found in _compared(run, other):
        series.append(Series(label, [found.get("trunk_calls_per_byte")], [found.get("bpb")]))
    if not series:
        return _figure("Compute", "", _missing("sweep of trigger thresholds", command("eval", run.path)))
    note = "BPB against trunk calls per byte on the same weights: the trigger threshold moves after training."
    if not points:
        note = "The evaluation holds no sweep: only an entropy trigger has a threshold to move."
    return _figure("Compute", note, figures.compute_quality(series))


def _numbers(run: RunFolder, other: RunFolder | None) -> str:
    columns = _compared(run, other)
    if not columns:
        return _missing("evaluation", command("eval", run.path))
    rows = [[label] + [_number(found.get(key), form) for _, found in columns] for label, key, form in NUMBERS]
    runs = [run, run, other] if run.result("without_scratchpads") else [run, other]
    rows.append(["Parameters"] + [_number(_parameters(one), None) for one in runs[: len(columns)]])
    for name in ("gzip", "bzip2", "xz"):
        rows.append([f"{name} on the same bytes, BPB"] + [_number((found.get("compressors") or {}).get(name), "{:.4f}") for _, found in columns])
    head = "".join(f'<th class="v">{html.escape(label)}</th>' for label, _ in columns)
    body = "".join("<tr><td>" + row[0] + "</td>" + "".join(f'<td class="v">{v}</td>' for v in row[1:]) + "</tr>" for row in rows)
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
        rows.append(f'<tr{mark}><td><code>{name}</code></td><td class="w"><code>{html.escape(repr(run.config[name]))}</code></td></tr>')
    summary = f"{len(run.config)} fields, {len(changed)} of them unlike the default (first, in bold)"
    return f'<details><summary>{summary}</summary><div class="scroll"><table>{"".join(rows)}</table></div></details>'


def _commands(run: RunFolder) -> str:
    lines = (
        command("train", run.path, "--config=FILE"),
        command("eval", run.path, "--split=test", "--json"),
        command("eval", run.path, "--override", "trigger.kind=none"),
        command("inspect", run.path, "--text=FILE", "--html=OUT"),
        command("generate", run.path, "--prompt=TEXT", "--max_bytes=200"),
    )
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def _compared(run: RunFolder, other: RunFolder | None) -> list[tuple[str, dict]]:
    """(label, evaluation) of the run, the run without scratchpads and the baseline, as far as there are any."""
    found = [("this run", run.result("validation")), ("without scratchpads, same weights", run.result("without_scratchpads"))]
    if other:
        found.append((f"baseline {other.name}", other.result("validation")))
    return [(label, one) for label, one in found if one]


def _parameters(run: RunFolder):
    account = run.evaluation.get("account") or {}
    return (account.get("parameters") or {}).get("total")


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
