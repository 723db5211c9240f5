"""The page of a run, of folders that are written as training and evaluation write them."""

import json
import re

import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.report.page import document, write_report
from tests.report import pages
from tests.report.pages import Page, evaluation, passage, sweep, write_run

METRICS = (
    *({"step": s, "bpb": 8.0 - s / 10, "head_bpb": 8.1 - s / 10} for s in range(1, 41)),
    {"step": 20, "validation_bpb": 6.125},
    {"step": 40, "validation_bpb": 4.125},
)
ACCOUNT = {"parameters": {"trunk": 1000000, "total": 1234567}}


def tiny_config():
    config = config_lib.default()
    config.data.window = 64
    config.training.batch_rows = 4
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    plain = evaluation(bpb=2.4375, trunk_calls_per_byte=0.0625, scratchpads_per_byte=0.0, compressors=None)
    results = {"validation": evaluation(), "without_scratchpads": plain, "sweep": sweep(None, 1e9, 3.5, 1.25, -1.0)}
    folder = tmp_path_factory.mktemp("page") / "sp"
    return write_run(folder, results, METRICS, tiny_config(), passage=passage(), account=ACCOUNT)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    result = evaluation(bpb=2.25, trunk_calls_per_byte=1.0, bpb_by_offset=[2.25], bytes_by_offset=[3000], step=50)
    results = {"validation": result, "without_scratchpads": None, "sweep": sweep(None)}
    folder = tmp_path_factory.mktemp("page") / "byte-level"
    return write_run(folder, results, account={"parameters": {"total": 999999}})


@pytest.fixture(scope="module")
def alone(run):
    """The page of the run, written once for all that is asked of it."""
    return read(write_report(run))


@pytest.fixture(scope="module")
def compared(run, baseline, alone):
    """The page of the run beside the baseline."""
    return read(write_report(run, baseline))


def read(path) -> str:
    return path.read_text(encoding="utf-8")


def test_steps_that_were_skipped_are_told(tmp_path):
    skipped = {"step": 2, "bpb": None, "skipped": True, "batch": 1, "reason": "the loss is not finite"}
    html = read(write_report(write_run(tmp_path / "run", None, [{"step": 1, "bpb": 8.0}, skipped])))
    assert "not finite or a spike: 1 (batches 1)" in html


def test_checkpoints_that_an_evaluator_measured_are_a_curve(tmp_path):
    folder = write_run(tmp_path / "run", None, METRICS)
    (folder / "evaluations").mkdir()
    lines = "".join(json.dumps({"step": step, "bpb": 5.0}) + "\n" for step in (20, 10))
    (folder / "evaluations" / "follow.jsonl").write_text(lines)
    assert "validation, each checkpoint in full" in figure(read(write_report(folder)), "Loss")


def figure(html: str, title: str) -> str:
    """The <figure> with this title."""
    (figure,) = [text for text in re.findall(r"<figure>.*?</figure>", html, re.S) if f"<b>{title}</b>" in text]
    return figure


def rows(html: str) -> list[list[str]]:
    """Cells of the table of numbers, without markup."""
    (table,) = re.findall(r"<table>(?:(?!</table>).)*gzip.*?</table>", html, re.S)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("</tr>")]
    return [row for row in cells if row]


def test_a_whole_page(run, compared):
    assert (run / "report.html").exists()
    page = Page(compared)
    assert page.open == [] and pages.loads(compared) == []
    assert len(page.ids) == len(set(page.ids))
    assert len(page.named("svg")) == 4
    assert "missing" not in {attributes.get("class") for attributes in page.named("div")}
    policy = [m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    for text in (
        "Evaluated at step 40 on 3,000 bytes in 12 documents of stdlib:code (validation).",
        "Baseline byte-level evaluated at step 50 on 3,000 bytes",
    ):
        assert text in page.text


def test_the_same_run_gives_the_same_page(run, alone):
    assert read(write_report(run)) == alone


def test_loss_curves(alone):
    loss = figure(alone, "Loss")
    # 40 steps of 4 windows of 64 bytes.
    for text in ("training", "training, entropy head", "validation", "40", "10k"):
        assert f">{text}</text>" in loss, text
    assert "means over" not in loss


def test_lag_curves_with_and_without_scratchpads_and_of_the_baseline(alone, compared):
    labels = ("this run", "without scratchpads, same weights", "baseline byte-level")
    lag = figure(compared, "Patch lag")
    assert [label for label in labels if f">{label}</text>" in lag] == list(labels)
    assert lag.count("stroke-dasharray") == 2  # the baseline's level, and its line in the legend
    lag = figure(alone, "Patch lag")
    assert [label for label in labels if f">{label}</text>" in lag] == list(labels[:2])


def test_rare_offsets_are_not_drawn(tmp_path):
    def offsets(values, counts):
        results = {"validation": evaluation(bpb_by_offset=values, bytes_by_offset=counts)}
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "r"
        return figure(read(write_report(write_run(folder, results))), "Patch lag")

    assert offsets([2.0, 2.1, 9.0], [5000, 5000, 1]) == offsets([2.0, 2.1], [5000, 5000])
    assert offsets([2.0, 2.1, 9.0], [5000, 5000, 100]) != offsets([2.0, 2.1], [5000, 5000])


@pytest.mark.parametrize("title", ["Trunk calls per byte", "FLOPs per byte"])
def test_cost_of_a_sweep_of_thresholds(compared, title):
    cost = figure(compared, title)
    for text in ("none", "3.5", "1.25", "every byte", "this run", "baseline byte-level"):
        assert f">{text}</text>" in cost, text
    assert "entropy trigger, by threshold in nats" in cost
    assert "Measured on 500 of the 3,000 bytes." in cost


def test_cost_of_a_model_without_thresholds(tmp_path):
    results = {"validation": evaluation(bytes=500), "sweep": sweep(None)}
    cost = figure(read(write_report(write_run(tmp_path / "r", results))), "Trunk calls per byte")
    assert ">this run</text>" in cost and "threshold" not in cost and "Measured" not in cost


def test_a_model_without_a_trunk_has_neither_lag_nor_sweep(tmp_path, run):
    config = tiny_config()
    config.model.trunk.kind = "none"
    result = evaluation(
        trunk_calls_per_byte=0.0, bytes_per_patch=None, kv_bytes_per_byte=0.0, bpb_by_offset=[], bytes_by_offset=[]
    )
    results = {"validation": result, "without_scratchpads": None, "sweep": sweep(None)}
    folder = write_run(tmp_path / "bytes", results, METRICS, config, passage=passage(), account=ACCOUNT)
    page = Page(read(write_report(folder)))
    assert len(page.named("svg")) == len(page.named("figure")) == 1
    assert " yet: " not in page.text and "Bytes per patch" in page.text
    # Beside a run that has one, what they cost is compared.
    html = read(write_report(folder, run))
    assert "baseline sp" in figure(html, "Patch lag") and "this run" not in figure(html, "Patch lag")
    assert ">this run</text>" in figure(html, "FLOPs per byte")


def test_numbers(compared):
    head, *others = rows(compared)
    assert head == ["", "this run", "without scratchpads, same weights", "baseline byte-level"]
    numbers = {row[0]: row[1:] for row in others}
    assert numbers["Bits per byte (BPB)"] == ["2.3125", "2.4375", "2.2500"]
    assert numbers["Trunk calls per byte"] == ["0.2500", "0.0625", "1.0000"]
    assert numbers["FLOPs per byte, forward"] == ["1.25M"] * 3
    assert numbers["Trunk KV cache, bytes per byte"] == ["256.0"] * 3
    assert numbers["Parameters"] == ["1.23M", "1.23M", "1M"]
    for name, value in (("gzip", "2.6250"), ("bzip2", "2.1250"), ("xz", "2.0625")):
        assert numbers[f"{name}, BPB"] == [value] * 3
    assert numbers["First bytes of this text that gzip, bzip2 and xz read"] == ["4,096"] * 3


def test_passage_config_and_commands(alone):
    page = Page(alone)
    assert "".join(text for _, text in page.cells) == "def f():⏎⇥return 1⏎"
    assert f"{len(config_lib.FIELDS)} fields, 2 of them unlike the default" in page.text
    assert "data.window64" in page.text and "training.batch_rows4" in page.text
    for command in ("train --config=FILE", "eval --split=test --json", "report --baseline=DIR", "inspect --text=FILE"):
        assert f"scratchpatch {command}" in page.text


def test_what_is_missing_is_named_with_its_command(tmp_path):
    folder = write_run(tmp_path / "a run")
    page = Page(read(write_report(folder)))
    quoted = f"--workdir='{folder}'"
    for what, how in (
        ("metrics", f"scratchpatch train --config=FILE {quoted}"),
        ("BPB by offset inside the patch", f"scratchpatch eval {quoted}"),
        ("BPB against trunk calls per byte", f"scratchpatch eval {quoted}"),
        ("evaluation", f"scratchpatch eval {quoted}"),
        ("passage", f"scratchpatch eval {quoted}"),
        ("config.json", f"scratchpatch train --config=FILE {quoted}"),
    ):
        assert f"No {what} yet: {how} makes it." in page.text
    assert not page.named("svg")


def test_a_run_that_is_not_evaluated_shows_its_losses(tmp_path):
    page = Page(read(write_report(write_run(tmp_path / "r", metrics=METRICS[:1], config=tiny_config()))))
    assert len(page.named("svg")) == 1 and "No evaluation yet" in page.text and "No metrics" not in page.text


def test_nulls_show_as_dashes(tmp_path):
    nothing = {name: None for name in evaluation()}
    page = read(write_report(write_run(tmp_path / "r", {"validation": nothing}, [{"step": 1, "bpb": None}])))
    assert "No metrics yet" in page and "No BPB by offset inside the patch yet" in page
    assert {cell for row in rows(page)[1:] for cell in row[1:]} == {"–"}
    assert "None" not in Page(page).text and "nan" not in Page(page).text


def test_an_evaluation_of_no_bytes(tmp_path):
    empty = evaluation(bpb=None, bytes=0, bpb_by_offset=[], bytes_by_offset=[])
    page = read(write_report(write_run(tmp_path / "r", {"validation": empty, "sweep": []})))
    assert "on 0 bytes" in page and "No BPB by offset inside the patch yet" in page


def test_hostile_names_are_escaped(tmp_path):
    name = "<script>alert(1)&<b onclick=x>"
    results = {"validation": evaluation(source=f"text:{name}"), "sweep": sweep(None)}
    config = tiny_config()
    config.data.sources = ((f"text:{name}", 1.0),)
    other = write_run(tmp_path / f"other {name}", results)
    html = read(write_report(write_run(tmp_path / name, results, METRICS, config), other))
    page = Page(html)
    assert not page.named("script") and pages.loads(html) == []
    assert all("onclick" not in attributes for _, attributes in page.tags)
    assert f"baseline other {name}" in page.text and f"text:{name}" in page.text
    assert page.open == []


def test_a_baseline_without_an_evaluation_is_refused(tmp_path):
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    with pytest.raises(UserError, match="the baseline .*/other has no evaluation: run `scratchpatch eval --workdir="):
        write_report(run, other)
    assert not (run / "report.html").exists()
    with pytest.raises(UserError, match="no run at"):
        write_report(run, tmp_path / "nowhere")


def test_document_escapes_its_title():
    assert "<title>&lt;/title&gt;&amp;</title>" in document("</title>&", "")


def test_a_run_that_failed_the_audit_says_so(tmp_path):
    def page_of(name, line):
        return read(write_report(write_run(tmp_path / name, None, [line], tiny_config())))

    assert "INVALID: this run was trained" in page_of("leak", {"step": 1, "bpb": 8.0, "causality": "INVALID"})
    assert "INVALID" not in page_of("clean", {"step": 1, "bpb": 8.0})


def test_where_the_time_went_is_said_if_it_is_known(tmp_path):
    run = write_run(tmp_path / "run", None, METRICS, tiny_config())
    assert "Goodput" not in read(write_report(run))
    lines = (
        {"time": 13.0, "step": 0, "spent": {"start": 3.0}, "began": 10.0},
        {"time": 20.0, "step": 9, "spent": {"productive": 7.0}},
    )
    (run / "goodput.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Goodput 70%: 7 s productive; start 3, compile 0, " in read(write_report(run))
