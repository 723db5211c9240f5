"""What tasks have measured, as tables and figures of a page. What an answer lacks is left out."""

import html
from collections.abc import Iterator, Sequence
from typing import Any

from scratchpatch import json_files
from scratchpatch.evaluation import sweep
from scratchpatch.report import elements, figures
from scratchpatch.report.figures import Series
from scratchpatch.report.run_folder import Answer
from scratchpatch.tasks.compute import TRAINED
from scratchpatch.tasks.task import file_name
from scratchpatch.training.metrics import TASK

# Results that have a table, or a figure, of their own.
_GROUPS, _SPREAD = "groups", "spread"
_OWN = (_GROUPS, _SPREAD, sweep.TRIGGER, sweep.PATCHIFIER)
# Columns of the table of groups, and formats.
_COLUMNS = (
    ("Bits per byte", "bpb", "{:.3f}"), ("Bytes", "bytes", "{:,}"), ("Characters", "characters", "{:,}"),
    ("Bits per character", "bits_per_character", "{:.3f}"), ("Bits per sentence", "bits_per_sentence", "{:,.0f}"),
    ("Bytes per patch", "bytes_per_patch", "{:.2f}"), ("Trunk calls per byte", "trunk_calls_per_byte", "{:.3f}"),
    ("Trunk calls per sentence", "trunk_calls_per_sentence", "{:.1f}"), ("Bytes, premium", "bytes_premium", "{:.2f}"),
    ("Bits, premium", "bits_premium", "{:.2f}"), ("Trunk calls, premium", "trunk_calls_premium", "{:.2f}"),
)
# What is measured in seconds: title, x, y and what to say of it.
_SECONDS = (
    (
        "Scoring: microseconds per byte", "scoring_seconds_per_byte", "scoring_bpb",
        "Rows as long as the window, with arrays of slots as large as the rate needs.",
    ),
    (
        "Generation: microseconds per byte", "generation_seconds_per_byte", "bpb",
        "One row from its caches. BPB is that of scoring without a budget.",
    ),
)
# Of a protocol: what is told elsewhere, or tells a reader nothing; characters of a text that is told.
_UNTOLD, _SHORT = ("name", "source", "checksum", "asked"), 40
# Numbers that say least about how good a model is.
_LAST = ("items", "seconds")


def table(answers: Sequence[Answer], config: dict[str, Any]) -> str:
    """A line for each number of each task, but for those of its groups. config: of the run; with what the task was
    measured instead stands below its name, as its options do.
    """
    rows = "<tr><th>Task</th><th>Number</th><th class=\"v\">Value</th></tr>"
    for answer in answers:
        name = html.escape(answer["task"])
        if how := _how(answer, config):
            name += f'<br><span class="note">{html.escape(how)}</span>'
        numbers = [*_numbers(answer["results"]), ("seconds", elements.number(answer["seconds"], "{:,.1f}"))]
        for label, value in sorted(numbers, key=lambda pair: pair[0] in _LAST):
            rows += f'<tr><td>{name}</td><td>{html.escape(label)}</td><td class="v">{html.escape(value)}</td></tr>'
            name = ""
    return elements.scrolled(rows)


def groups(answer: Answer) -> str:
    """The table of a task's groups, folded up; '' where there are none of which this page knows what they mean."""
    found = {name: group for name, group in _objects(answer["results"].get(_GROUPS)).items() if "bpb" in group}
    columns = [column for column in _COLUMNS if any(column[1] in group for group in found.values())]
    if not found:
        return ""
    rows = "".join(f'<th class="v">{label}</th>' for label, _, _ in columns)
    rows = f"<tr><th>{html.escape(_by(answer))}</th>{rows}</tr>"
    for name, group in found.items():
        cells = "".join(f'<td class="v">{elements.number(group.get(key), form)}</td>' for _, key, form in columns)
        rows += f"<tr><td>{html.escape(name)}</td>{cells}</tr>"
    summary = f"{html.escape(answer['task'])}: {len(found)} groups, by {html.escape(_by(answer))}"
    return f"<details><summary>{summary}</summary>{elements.scrolled(rows)}</details>"


def drawn(answer: Answer) -> list[str]:
    """The figures of a task, with captions."""
    return [elements.figure(f"{answer['task']}: {title}", note, svg) for title, note, svg in _figures(answer)]


def files(answer: Answer) -> dict[str, str]:
    """The figures of a task as SVG, by names for files."""
    return {f"{_key(answer)}-{_slug(title)}": svg for title, _, svg in _figures(answer)}


def curves(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """What tasks measured in training, by step: a figure for each kind of number that some task has first."""
    by_task: dict[str, dict[str, None]] = {}
    for line in metrics:
        for name in line:
            if name.startswith(TASK):
                task, _, number = name.removeprefix(TASK).partition("/")
                by_task.setdefault(task, {})[number] = None
    by_number: dict[str, list[str]] = {}
    for task, numbers in by_task.items():
        chief = next((number for number in numbers if number not in _LAST), None)
        if chief is not None:
            by_number.setdefault(chief, []).append(task)
    return [
        elements.figure(
            f"{_words(number).capitalize()}, in training",
            "On a sample of each task, by step.",
            figures.by_step([_curve(metrics, task, number) for task in tasks], _words(number), f"task-{_slug(number)}"),
        )
        for number, tasks in by_number.items()
    ]


def _words(number: str) -> str:
    """The name of a number as people read it."""
    words = number.replace("/", ", ").replace("_", " ").split(" ")
    return " ".join("bits per byte" if word == "bpb" else word for word in words)


def _curve(metrics: Sequence[dict[str, Any]], task: str, number: str) -> Series:
    name = f"{TASK}{task}/{number}"
    lines = [line for line in metrics if name in line]
    return Series(task, [line["step"] for line in lines], [line[name] for line in lines])


def _figures(answer: Answer) -> Iterator[tuple[str, str, str]]:
    """(title, note, SVG) of each."""
    results = answer["results"]
    dials = {dial: _objects(results.get(dial)) for dial in (sweep.TRIGGER, sweep.PATCHIFIER)}
    for title, x, y, note in _SECONDS:
        series = [_points(f"by {dial}", points, x, y) for dial, points in dials.items() if len(points) > 1]
        trained = next((points[TRAINED] for points in dials.values() if TRAINED in points), {})
        series.append(_points(TRAINED, {"": trained}, x, y))
        if len(series) > 1 and any(value is not None for one in series for value in one.x):
            label = f"microseconds per byte on {results.get('device', 'an unknown device')}"
            yield title, note, figures.compute_quality(series, label, f"{_key(answer)}-{_slug(title)}")
    by_group = {
        name: group.get("trunk_calls_per_sentence") for name, group in _objects(results.get(_GROUPS)).items()
    }
    if sum(value is not None for value in by_group.values()) > 2:
        title, label = "Trunk calls per sentence", f"trunk calls per sentence, by {_by(answer)}"
        reference = [name for name in [results.get("reference")] if isinstance(name, str)]
        svg = figures.ranked(by_group, label, f"{_key(answer)}-calls", reference)
        yield title, f"Each bar is a {_by(answer)}; some are named.", svg


def _points(label: str, points: dict[str, dict], x: str, y: str) -> Series:
    moved = {name: point for name, point in points.items() if name != TRAINED}
    micro = [value * 1e6 if isinstance(value := point.get(x), (int, float)) else None for point in moved.values()]
    return Series(label, micro, [point.get(y) for point in moved.values()], list(moved))


def _numbers(results: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, value with its standard error) of the numbers and short texts of results."""
    for name, value in results.items():
        label = f"{above}{name}".replace("_", " ")
        if isinstance(value, dict) and not (name in _OWN and not above):
            yield from _numbers(value, f"{above}{name}, ")
        elif isinstance(value, (int, float)) and not name.endswith("stderr"):
            error = results.get("stderr" if name == "mean" else f"{name}_stderr")
            beside = f" ± {error:.2g}" if isinstance(error, (int, float)) else ""
            yield label, f"{value:,}{beside}" if isinstance(value, int) else f"{value:.4g}{beside}"
        elif isinstance(value, str):
            yield label, value


def _how(answer: Answer, config: dict[str, Any]) -> str:
    """What tells a task from others of its name: its options, as far as they are short, the most items, and what of the
    model's config was another one than the run's.
    """
    protocol = answer["protocol"]
    options, model = (each if isinstance(each := protocol.get(key), dict) else {} for key in ("task", "model"))
    told = {name: value for name, value in options.items() if name not in _UNTOLD and _is_short(value)}
    if protocol.get("limit") is not None:
        told["limit"] = protocol["limit"]
    told |= {name: value for name, value in model.items() if name in config and config[name] != value}
    return ", ".join(f"{name} = {value}" for name, value in told.items())


def _is_short(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or isinstance(value, str) and 0 < len(value) <= _SHORT


def _key(answer: Answer) -> str:
    """A name for files and elements that no other answer has."""
    return f"{file_name(answer['task'])}-{json_files.seal(answer['protocol'])[:8]}"


def _objects(value: Any) -> dict[str, dict]:
    """The objects that an object holds."""
    return {name: each for name, each in value.items() if isinstance(each, dict)} if isinstance(value, dict) else {}


def _by(answer: Answer) -> str:
    by = answer["results"].get("by")
    return by if isinstance(by, str) else "group"


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
