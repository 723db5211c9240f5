"""Entropies that are computed once, and training that reads them.

Legend: T positions of a stream, B rows, L positions of a row.
"""

import itertools
import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from scratchpatch import cli
from scratchpatch import config as config_lib
from scratchpatch.bench.train import Subject
from scratchpatch.data import entropies
from scratchpatch.data.batches import Batches
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.stream import IndexedStream
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.model import weights as weights_lib
from scratchpatch.patching import layout
from scratchpatch.training import fingerprint, initial
from scratchpatch.training.entropies import compute
from scratchpatch.training.loop import train
from scratchpatch.vocabulary import BOS, PAD
from tests import child, runs, tiny

# The model whose entropies decide: untrained, with logits far enough apart.
ALONE = runs.ENTROPY_MODEL
FIELDS = {
    **runs.WITH_ENTROPY_MODEL,
    "patching.threshold": 3.2,
    "patching.capacity": 1.0,
    "trigger.threshold": 2.8,
    "training.steps": 2,
}
WINDOW = runs.FIELDS["data.window"]


def config(folder: Path, fields=None):
    """A config whose entropy model is an untrained run in folder/alone."""
    if not (folder / "alone").exists():
        runs.untrained(folder / "alone", ALONE | {"data.sources": (("stdlib:prose", 1.0),)}, tiny.weights)
    workdir = {"model.entropy_model.workdir": str(folder / "alone" / "run")}
    return runs.config(folder, FIELDS | workdir | (fields or {}))


def write_aligned(folder: Path) -> None:
    """Documents of which two fill a row, BOS and all, in every split but for the last of them."""
    rng = np.random.default_rng(0)
    (folder / "text").mkdir(parents=True)
    for i in range(200):
        (folder / "text" / f"{i:03}.txt").write_bytes(bytes(tiny.text(rng, WINDOW // 2 - 1).astype(np.uint8)))


def weights(made):
    """Random weights with the entropy model's in place, as a new run has them."""
    mesh = mesh_lib.make(made)
    return weights_lib.random(made, 0) | initial.load(made, weights_lib.shardings(made, mesh))


def read(made, split="train"):
    """(stream, float32 [T] computed) of the only source."""
    ((stream, _),) = streams_for(made, split)
    found = entropies.open_entropies(stream, fingerprint.of(made, weights(made)["frozen"]), made.data.cache_dir)
    return stream, found.read_windows(np.zeros(1, int), len(stream))[0]


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A config, and what `compute` said about its text."""
    made = config(tmp_path_factory.mktemp("entropies"))
    return made, compute(made)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    runs.compile_quickly(monkeypatch.setattr)


@pytest.mark.parametrize("split", ("train", "validation"))
def test_every_position_has_the_entropy_that_the_language_model_gives_it(computed, split):
    made, said = computed
    stream, found_T = read(made, split)
    lm = LanguageModel(made, weights(made))
    wanted_T = np.concatenate([p.entropy for p in lm.positions(stream)])
    np.testing.assert_allclose(found_T, wanted_T, atol=1e-5)
    assert np.ptp(found_T) > 1
    (line,) = [line for line in said if line["split"] == split]
    assert line["positions"] == line["computed"] == len(stream) == len(found_T)
    assert line["source"] == stream.spec and Path(line["path"]).stat().st_size == 4 * len(stream)


def test_what_is_there_is_not_computed_again(computed):
    made, said = computed
    before = [Path(line["path"]).stat().st_mtime_ns for line in said]
    again = compute(made)
    assert [line["computed"] for line in again] == [0, 0]
    assert [Path(line["path"]).stat().st_mtime_ns for line in again] == before
    # Neither decisions nor devices are part of the name.
    assert [line["computed"] for line in compute(config(Path(made.data.cache_dir).parent, {"patching.threshold": 1.0}))] == [0, 0]


def test_decisions_are_those_of_the_model_in_the_step_on_rows_that_begin_with_a_bos(tmp_path):
    write_aligned(tmp_path)
    made = config(tmp_path)
    compute(made)
    batches, w = Batches(made), weights(made)
    batches.open_entropies(fingerprint.of(made, w["frozen"]))
    definition, _ = weights_lib.abstract(made)
    run = jax.jit(lambda w, t, e: weights_lib.merge(definition, w)(t, entropy_BL=e), compiler_options=tiny.QUICK)
    for step in range(4):
        tokens_BM, entropy_BL = batches.arrays(step)
        tokens_BL = tokens_BM[:, :-1]
        assert (tokens_BL[:, 0] == BOS).all() and (tokens_BL == BOS).sum() == 2 * len(tokens_BL)
        own = run(w, tokens_BL, None)
        np.testing.assert_allclose(entropy_BL, own.entropy_BL, atol=1e-5)
        # Clear of the thresholds by more than rounding.
        assert min(np.abs(entropy_BL - t).min() for t in (2.8, 3.2)) > 1e-5
        given = run(w, tokens_BL, entropy_BL)
        for name in ("commit_BL", "scratchpad_BL"):
            np.testing.assert_array_equal(getattr(given.layout, name), getattr(own.layout, name))
        assert own.layout.scratchpad_BL.any() and 0 < own.layout.commit_BL.mean() < 1


@pytest.mark.parametrize("accumulation", (1, 2))
def test_training_on_computed_entropies_is_training_with_the_model_in_the_step(tmp_path, monkeypatch, accumulation):
    runs.leave_out_audit(monkeypatch.setattr)
    write_aligned(tmp_path)
    fields = {"training.accumulation": accumulation}
    compute(config(tmp_path, fields))
    lines = {}
    for read_them in (False, True):
        made = config(tmp_path, fields | {"data.entropies": read_them})
        train(made, tmp_path / str(read_them))
        lines[read_them] = [line for line in runs.lines(tmp_path / str(read_them)) if "bpb" in line]
    assert len(lines[True]) == 2
    for with_them, without in zip(lines[True], lines[False], strict=True):
        assert with_them == pytest.approx(without, rel=1e-4)
        assert with_them["scratchpads_per_byte"] > 0


def test_the_entropies_of_the_batch_decide(computed):
    """Where a row begins inside a document they are not those of the row alone; the step reads the batch's."""
    made = config_lib.from_flat(config_lib.flat(computed[0]) | {"data.entropies": True})
    step, batches = Subject(made), Batches(made)
    step()
    batches.open_entropies(fingerprint.of(made, weights(made)["frozen"]))
    tokens_BM, entropy_BL = batches.arrays(0)
    wanted = layout.decide(made, tokens_BM[:, :-1], entropy_BL, layout.initial_thresholds(made))
    positions = (tokens_BM[:, :-1] != PAD).sum()
    rates = tuple(float(x.sum() / positions) for x in (wanted.commit_BL, wanted.scratchpad_BL))
    found = tuple(step.sums[name] / step.sums["positions"] for name in ("commits", "scratchpads"))
    assert found == pytest.approx(rates, rel=1e-6) and min(rates) > 0
    definition, _ = weights_lib.abstract(made)
    own_BL = weights_lib.merge(definition, weights(made))(tokens_BM[:, :-1]).entropy_BL
    inside_B = tokens_BM[:, 0] != BOS
    assert inside_B.any() and (np.abs(own_BL - entropy_BL)[inside_B, 0] > 1e-3).all()


@pytest.mark.parametrize("processes", (1, 2))
def test_each_row_has_the_entropies_of_its_own_bytes(computed, processes):
    made, _ = computed
    stream, found_T = read(made)
    at = {tuple(stream.read(i, WINDOW + 1)): i for i in range(0, len(stream), WINDOW)}
    parts = [Batches(made, "train", rows) for rows in np.array_split(np.arange(made.training.batch_rows), processes)]
    for part in parts:
        part.open_entropies(fingerprint.of(made, weights(made)["frozen"]))
    for part in parts:
        for step, tokens_BM, entropy_BL in itertools.islice(part.iterate(3), 4):
            np.testing.assert_array_equal(tokens_BM, part.batch(step))
            assert entropy_BL.shape == (2 // processes, WINDOW) and entropy_BL.dtype == np.float32
            for tokens_M, entropy_L in zip(tokens_BM, entropy_BL, strict=True):
                wanted_T = found_T[at[tuple(tokens_M)] :][:WINDOW]
                np.testing.assert_array_equal(entropy_L[: len(wanted_T)], wanted_T)
                assert not entropy_L[len(wanted_T) :].any()


def test_a_run_killed_while_it_computes_goes_on_from_its_parts(tmp_path):
    made = config(tmp_path)
    argv = ["entropies", f"--config={runs.write_config(tmp_path / 'experiment.py', made)}"]
    assert child.run(argv, tmp_path / "log", ("part", 3)) == -signal.SIGKILL, (tmp_path / "log").read_text()
    folder = tmp_path / "cache" / "entropies"
    (partial,) = folder.iterdir()
    left = partial.stat().st_size // 4
    assert partial.name.endswith(".f32.partial") and left > 2 * WINDOW
    torn = partial.read_bytes()
    # Another part of the third is written this time, and a kill comes in the next but one.
    assert child.run(argv, tmp_path / "log", ("part", 2)) == -signal.SIGKILL
    grown = partial.read_bytes()
    assert len(grown) > len(torn) and grown[: len(torn)] == torn
    assert child.run(argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert "[train]" in (tmp_path / "log").read_text()

    whole = sorted(folder.iterdir())
    assert len(whole) == 2 and not [path for path in whole if path.suffix == ".partial"]
    found = {path.name: path.read_bytes() for path in whole}
    for path in whole:
        path.unlink()
    assert all(line["computed"] == line["positions"] for line in compute(made))
    # The same windows in parts of another size are batched otherwise.
    for name, data in found.items():
        np.testing.assert_allclose(*(np.frombuffer(x, np.float32) for x in (data, (folder / name).read_bytes())), atol=1e-5)


def test_a_damaged_file_is_computed_again(tmp_path):
    made = config(tmp_path)
    path = Path(compute(made)[0]["path"])
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    with pytest.raises(UserError, match="run scratchpatch entropies"):
        read(made)
    assert [line["computed"] > 0 for line in compute(made)] == [True, False]
    assert path.read_bytes() == data


def test_two_processes_do_not_write_one_file(tmp_path):
    with entropies.writer(tmp_path / "x.f32"):
        with pytest.raises(UserError, match="another process writes .*x.f32.partial: wait"):
            with entropies.writer(tmp_path / "x.f32"):
                pass


def test_beginnings_that_nobody_goes_on_with_are_removed_after_a_month(tmp_path):
    old, young, held = (tmp_path / f"{name}.f32.partial" for name in ("old", "young", "held"))
    for path in (old, young):
        path.write_bytes(b"1234")
    with entropies.writer(tmp_path / "held.f32"):
        for path in (old, held):
            os.utime(path, (time.time() - 40 * 86_400,) * 2)
        with entropies.writer(tmp_path / "x.f32"):
            assert sorted(path.name for path in tmp_path.iterdir()) == [held.name, "x.f32.partial", young.name]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with entropies.writer(tmp_path / "x.f32") as out:
        out.append(np.ones(3))
    monkeypatch.setattr(entropies.os, "fsync", fail)
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/x.f32.partial .No space left on device.; free space there, or set data.cache_dir"):
        with entropies.writer(tmp_path / "x.f32") as out:
            assert out.written == 3
            out.append(np.ones(3))


def test_text_that_falls_into_other_documents_is_other_text():
    def stream(starts):
        return IndexedStream("text:x", "all", np.zeros(9, np.uint8), np.array(starts), 0, "same bytes")

    places = {entropies.place(stream(starts), "model", "cache") for starts in ([0], [0, 4], [0, 5], [0, 4])}
    assert len(places) == 3


def test_training_without_computed_entropies_names_the_command(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    made = config(tmp_path, {"data.entropies": True})
    with pytest.raises(UserError, match="holds none of text:.* by this entropy model: run scratchpatch entropies --config=FILE"):
        train(made, tmp_path / "run")
    compute(made)
    train(made, tmp_path / "run")
    # The same text by a model that runs otherwise is not there.
    other = config(tmp_path, {"data.entropies": True, "training.dtype": "bfloat16"})
    with pytest.raises(UserError, match="run scratchpatch entropies"):
        train(other, tmp_path / "other")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"model.entropy_model.workdir": ""}, "model.entropy_model.workdir"),
        ({"model.entropy_model.layers": 0, "model.entropy_head.weight": 1.0}, "model.entropy_model.layers = 0 is no separate"),
        ({"model.entropy_model.d_byte": 32}, "model.d_byte is 16 there, 32 by model.entropy_model"),
    ],
)
def test_what_cannot_be_computed_is_named(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        compute(config(tmp_path, fields))


def test_computed_entropies_need_an_entropy_model(tmp_path):
    with pytest.raises(UserError, match="data.entropies = True reads what a separate entropy model computed"):
        config(tmp_path, {"data.entropies": True, "model.entropy_model.layers": 0, "model.entropy_head.weight": 1.0})


def test_the_name_of_a_model_tells_weights_and_fields_but_not_meshes(computed):
    made, _ = computed
    frozen = weights(made)["frozen"]
    name = fingerprint.of(made, frozen)
    other = config_lib.from_flat(config_lib.flat(made) | {"mesh.data": 2, "mesh.fsdp": 4, "training.batch_rows": 8})
    placed = initial.load(other, weights_lib.shardings(other, mesh_lib.make(other)))["frozen"]
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(placed))
    assert fingerprint.of(other, placed) == fingerprint.of(made, jax.device_get(frozen)) == name
    assert fingerprint.of(made, jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1e-3), frozen)) != name
    for field, value in {"model.entropy_model.window": 9, "data.window": 32, "training.dtype": "bfloat16"}.items():
        assert fingerprint.of(config_lib.from_flat(config_lib.flat(made) | {field: value}), frozen) != name


def test_the_verb_says_what_it_did(computed, capsys, tmp_path):
    made, said = computed
    argv = ["entropies", f"--config={runs.write_config(tmp_path / 'experiment.py', made)}"]
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"streams": [line | {"computed": 0} for line in said]}
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and f"[train]: {said[0]['positions']:,} entropies, 0 computed now: " in lines[0]
