"""The comparison: its systems, a run that is stopped and goes on, its plan, and its page."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import corpora
from experiments.compare import config as compare, cost, run, summary, worker
from scratchpatch import config as config_lib
from scratchpatch.accounting import account, flops
from scratchpatch.inference.windows import Text
from scratchpatch.vocabulary import BYTES, of_tokens
from tests import runs
from tests.tiny import BOS

SIZES = {"data.window": 64, "model.encoder.window": 8, "model.decoder.window": 8, "mesh.data": 1}


@pytest.mark.parametrize("variant", compare.VARIANTS)
def test_variants_are_valid_and_differ_in_their_systems_alone(variant):
    config, other = compare.get_config(variant), compare.get_config(f"p8-{variant.split('-')[1]}")
    config_lib.check(config)
    changed = config_lib.changed(config, other)
    # A part of H-Net are learning rates by tier.
    changed = {name for name in changed if not name.endswith("_scale")}
    if variant.startswith("tokens"):
        changed -= {"data.tokenizer", "data.vocabulary", "data.window"}
    assert {name.split(".")[0] for name in changed} <= {"model", "patching", "trigger"}, changed


def test_scratchpads_have_one_rate():
    for system in compare.SYSTEMS:
        if system.endswith(("scratchpads", "stride", "random")):
            _, scratchpads = account.rates(compare.get_config(f"{system}-latin"))
            assert scratchpads == pytest.approx(compare.RATE), system


def test_no_other_variant_is_taken_for_one():
    with pytest.raises(ValueError, match="no variant 'p8-latins'; wanted one of flat-latin, "):
        compare.get_config("p8-latins")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The same variants at the smallest size, on a little text."""
    monkeypatch.setenv(corpora.VARIABLE, str(tmp_path))
    texts = [text.decode(errors="replace") for text in runs.write_text(tmp_path / "text").values()]
    for corpus in ("en_books", "code"):
        (tmp_path / corpus).mkdir()
        for split in ("train", "validation"):
            with gzip.open(tmp_path / corpus / f"{split}.jsonl.gz", "wt") as file:
                file.write("\n".join(json.dumps({"text": text}) for text in texts))
    original = compare.get_config

    def get_config(variant):
        made = original(variant)
        for name, value in (runs.SMALL | runs.SHALLOW | SIZES | {"data.cache_dir": str(tmp_path / "cache")}).items():
            config_lib.set_field(made, name, value)
        return made

    monkeypatch.setattr(worker, "get_config", get_config)
    monkeypatch.setattr(run, "get_config", get_config)
    runs.leave_out_audit(monkeypatch.setattr)
    return get_config


def test_a_run_that_is_stopped_goes_on_and_is_measured_at_equal_bytes_and_flops(small, tmp_path, monkeypatch):
    flags = SimpleNamespace(systems="p8_random", texts="latin", seeds=[0, 1], workdir=tmp_path / "runs")
    flags.megabytes, flags.eval_bytes, flags.items = 0.006, 2000, 2
    jobs = run.runs(flags)
    job = jobs["p8_random-latin", 0]
    arguments = job.arguments[0], 0, job.folder, flags.megabytes, flags.eval_bytes, flags.items
    original, wanted = worker.measure, worker.budget("latin", flags.megabytes)

    def measure(*arguments):
        if (job.folder / "points.json").exists():
            raise RuntimeError("killed")
        return original(*arguments)

    monkeypatch.setattr(worker, "measure", measure)
    with pytest.raises(RuntimeError, match="killed"):
        worker.main(*arguments)
    # Scratchpads cost more a byte than patches alone.
    assert set(json.loads((job.folder / "points.json").read_text())) == {"flops"}
    told = run.plan(jobs, flags.megabytes, 2, 10.0)
    assert "p8_random-latin,             seed 0: 100% of" in told and "0 of 2 runs are done" in told
    monkeypatch.setattr(worker, "measure", original)
    worker.main(*arguments)

    result = json.loads(job.result.read_text())
    at_bytes, at_flops = (result["points"][point] for point in ("bytes", "flops"))
    row_bytes = 2 * 64
    assert at_bytes["training_bytes"] == pytest.approx(6000, abs=2 * row_bytes)
    per_step = wanted / at_flops["steps"]
    assert at_flops["training_flops"] == pytest.approx(wanted, abs=2 * per_step)
    assert at_flops["steps"] < at_bytes["steps"] and 1 < at_bytes["bpb"] < 8
    assert at_bytes["by_corpus"].keys() == {"en_books", "code"} and result["tasks"].keys() == {
        "noise_gap", "recall_accuracy", "recall_bits",
    }
    assert run.progress(job)[0] == 1.0 and run.progress(jobs["p8_random-latin", 1]) == (0.0, None)
    # What it measures is what the model's own accounting says of these rates.
    made = small("p8_random-latin")
    rates = at_bytes["commits_per_byte"], at_bytes["scratchpads_per_byte"]
    assert at_bytes["flops_per_byte"] == pytest.approx(flops.flops_per_byte(made, *rates, 64), rel=0.05)

    summary.write(tmp_path / "page", {run: job.folder for run, job in jobs.items()}, COSTS)
    page = (tmp_path / "page" / "README.md").read_text()
    assert "1 of 2 runs are done" in page and "not done, of English books and Python code: `p8_random` (1)." in page
    assert "| every 8 bytes, random |" in page and "(one seed)" in page and "Chinese" not in page


def test_models_of_bytes_and_of_tokens_are_measured_on_the_same_text():
    stream = Text(np.array([BOS, *b"the cat", BOS, *b"sat"]), BYTES)
    of_bytes = SimpleNamespace(vocabulary=BYTES, token_bytes=None)
    assert [len(worker.beginning(of_bytes, stream, size)) for size in (1, 7, 8, 10, 99)] == [2, 8, 10, 12, 12]
    # Token 0 has three bytes, 1 four, and the BOS none.
    tokens = of_tokens(256)
    stream = Text(np.array([tokens.bos, 0, 1, tokens.bos, 0]), tokens)
    sizes = np.array([3, 4, *[0] * tokens.rows])
    of_both = SimpleNamespace(vocabulary=tokens, token_bytes=sizes)
    assert [len(worker.beginning(of_both, stream, size)) for size in (1, 7, 8, 10, 99)] == [2, 3, 5, 5, 5]


def test_an_unknown_system_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare", "--systems=flat,llama"])
    with pytest.raises(SystemExit, match="compare: --systems: no 'llama'; wanted some of flat,p8,"):
        run.main()


COSTS = [
    {"system": "flat", "patch_bytes": 1, "flops": 2e6, "trunk": 1.9e6, "seconds": 2e-5},
    {"system": "p8", "patch_bytes": 16, "flops": 5e5, "trunk": 1.5e5, "seconds": 8e-6},
]


def numbers(bpb: float, steps: int) -> dict:
    return {
        "steps": steps, "training_bytes": 2e7, "training_flops": 4e13, "bpb": bpb,
        "by_corpus": {"en_books": 2, "code": 1},
        "commits_per_byte": 0.125, "scratchpads_per_byte": 0.125, "flops_per_byte": 9e5, "kv_bytes_per_byte": 512.0,
    }


def test_the_page_says_what_reproduces_and_what_does_not(tmp_path):
    bpb = {
        "flat": 2.0, "p8": 2.1, "words": 2.3, "entropy": 2.2, "p8_scratchpads": 2.05, "words_scratchpads": 2.06,
        "entropy_scratchpads": 2.055, "p8_stride": 2.051, "p16_scratchpads": 2.004,
    }
    folders = {}
    for system, value in bpb.items():
        for seed in (0, 1) if system != "p8_stride" else (0,):
            folder = folders[f"{system}-latin", seed] = tmp_path / f"{system}-{seed}"
            folder.mkdir()
            points = {"bytes": numbers(value + 0.1 * seed, 90), "flops": numbers(value + 0.1 * seed, 99)}
            (folder / "points.json").write_text(json.dumps(points))
            tasks = {"noise_gap": 0.25, "recall_accuracy": 0.11, "recall_bits": 4.0}
            result = {"points": points, "parameters": 1e6, "flops_per_second": 2e10, "tasks": tasks}
            result["decoding_bytes_per_second"] = 900.0
            (folder / "result.json").write_text(json.dumps(result))
    folders["blt-latin", 0] = tmp_path / "none"
    summary.write(tmp_path, folders, COSTS)
    page = (tmp_path / "README.md").read_text()
    assert all(len(line) <= 120 or line.startswith("|") for line in page.splitlines())
    said = page.replace("\n  ", " ")
    spread = "of every 8 bytes, words, entropy 0.2000 BPB without, 0.0100 with; the difference -0.1900"
    assert f"| with against without | {spread} (-0.1900, -0.1900): they narrow it | " in page
    better, one_seed = "-0.2400 (-0.2400, -0.2400): better", "-0.0010 (-0.0010): one seed, no result"
    assert f"| words, scratchpads against words | {better} | {better} |" in page
    assert f"| every 8 bytes, scratchpads against every 8 bytes, stride | {one_seed} | {one_seed} |" in page
    assert "| every 16 bytes, scratchpads against flat bytes | +0.0040 (+0.0040, +0.0040): within noise | " in page
    assert "| SpaceByte against flat bytes, windows |  |  |" in page
    assert "Runs that are not done, of English books and Python code: `blt` (1)." in said
    row = "| flat bytes | 1.00M | 20.0 | 40.0 | 2.0500 ± 0.0500 | 2.000 | 1.000 | 8.00 | 0.250 | 0.90 | 512 |"
    assert f"{row} 900 |  |  |" in said and f"{row} 900 | +0.250 | 0.11 |" in said
    assert "| patches | 16 | 0.50 | 30% | 8.0 | 0.25 | 0.40 |" in said
    figure = (tmp_path / "latin.svg").read_text()
    assert "](latin.svg)" in said and not (tmp_path / "cjk.svg").exists()
    assert ">words, then with scratchpads<" in figure and ">flat bytes<" in figure and ">SpaceByte<" not in figure


def test_costs_fall_with_the_patch_size_and_to_a_floor():
    made = [(size, cost.row(cost.config_of(s, size), s, size)) for s in cost.SIZED for size in cost.SIZES]
    totals = np.array([row["flops"] for _, row in made]).reshape(len(cost.SIZED), -1)
    assert (np.diff(totals[:2]) < 0).all() and (totals[1] > totals[0]).all() and totals[0, -1] > totals[0, 0] / 4
    assert cost.row(cost.config_of("flat", 1), "flat", 1)["flops"] > totals.max()
