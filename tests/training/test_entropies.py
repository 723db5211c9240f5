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

from scratchpatch import cli, config as config_lib
from scratchpatch.bench.train import Subject
from scratchpatch.data import entropies
from scratchpatch.data.batches import Batches
from scratchpatch.data.index import IndexedStream
from scratchpatch.data.mixture import streams_for
from scratchpatch.data.shards import Shard, Writer
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.model import weights as weights_lib
from scratchpatch.training import entropies as entropies_lib
from scratchpatch.training.entropies import compute, fingerprint
from scratchpatch.training.loop import train
from scratchpatch.training.start import given_weights
from scratchpatch.training.step import Trainer
from scratchpatch.vocabulary import BYTES
from tests import child, runs, tiny

# The model whose entropies decide: untrained, with logits far enough apart.
ALONE = runs.ENTROPY_MODEL
FIELDS = {
    **runs.SHALLOW,
    **runs.WITH_ENTROPY_MODEL,
    "patching.threshold": 3.2,
    "patching.capacity": 1.0,
    "trigger.threshold": 2.8,
    "training.steps": 2,
}
NO_ENTROPY_MODEL = {"model.entropy_model.layers": 0, "model.entropy_head.weight": 1.0}
WINDOW = runs.FIELDS["data.window"]


def config(folder: Path, fields=None):
    """A config whose entropy model is an untrained run in folder/alone."""
    if not (folder / "alone").exists():
        runs.untrained(folder / "alone", ALONE | {"data.sources": (("stdlib:prose", 1.0),)}, tiny.weights)
    workdir = {"model.entropy_model.workdir": str(folder / "alone" / "run")}
    return runs.config(folder, FIELDS | workdir | (fields or {}))


def with_fields(made, fields):
    """A copy of a config that was made here, with other fields."""
    return config_lib.from_flat(config_lib.flat(made) | fields)


_weights = {}


def weights(made):
    """Random weights with the entropy model's in place, as a new run has them; made once for equal configs."""
    key = json.dumps(config_lib.flat(made))
    if key not in _weights:
        given = given_weights(made, weights_lib.shardings(made, mesh_lib.make(made)))
        _weights[key] = weights_lib.random(made, 0) | given
    return _weights[key]


def name_of_model(made) -> str:
    return fingerprint(made, weights(made)["frozen"])


def forward(made):
    """Compiled (weights, tokens_BL, entropy_BL or None) -> Output."""
    definition, _ = weights_lib.abstract(made)
    return jax.jit(
        lambda w, tokens_BL, entropy_BL: weights_lib.merge(definition, w)(tokens_BL, entropy_BL=entropy_BL)
    )


def read(made, split="train"):
    """(stream, float32 [T] computed) of the only source."""
    ((stream, _),) = streams_for(made, split)
    stored = entropies.open_entropies(stream, name_of_model(made), made.data.cache_dir)
    return stream, stored.read_windows(np.zeros(1, int), len(stream))[0]


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A config, and what `compute` said about its text."""
    made = config(tmp_path_factory.mktemp("entropies"))
    return made, compute(made)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A config whose entropies are computed: two documents fill a row, BOS and all, but for the last ones."""
    folder, rng = tmp_path_factory.mktemp("aligned"), np.random.default_rng(0)
    (folder / "text").mkdir()
    for i in range(200):
        (folder / "text" / f"{i:03}.txt").write_bytes(bytes(tiny.text(rng, WINDOW // 2 - 1).astype(np.uint8)))
    made = config(folder)
    compute(made)
    return made


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
    assert [line["computed"] for line in compute(with_fields(made, {"patching.threshold": 1.0}))] == [0, 0]


def test_decisions_are_those_of_the_model_in_the_step_on_rows_that_begin_with_a_bos(aligned):
    batches, w, run = Batches(aligned), weights(aligned), forward(aligned)
    batches.open_entropies(name_of_model(aligned))
    for step in range(4):
        tokens_BM, entropy_BL = batches.arrays(step)
        tokens_BL = tokens_BM[:, :-1]
        assert (tokens_BL[:, 0] == BYTES.bos).all() and (tokens_BL == BYTES.bos).sum() == 2 * len(tokens_BL)
        own = run(w, tokens_BL, None)
        np.testing.assert_allclose(entropy_BL, own.entropy_BL, atol=1e-5)
        # Clear of the thresholds by more than rounding.
        assert min(np.abs(entropy_BL - t).min() for t in (2.8, 3.2)) > 1e-5
        given = run(w, tokens_BL, entropy_BL)
        for name in ("commit_BL", "scratchpad_BL"):
            np.testing.assert_array_equal(getattr(given.layout, name), getattr(own.layout, name))
        assert own.layout.scratchpad_BL.any() and 0 < own.layout.commit_BL.mean() < 1


def test_training_on_computed_entropies_is_training_with_the_model_in_the_step(aligned, tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    lines = {}
    for reads in (False, True):
        train(with_fields(aligned, {"training.accumulation": 2, "data.entropies": reads}), tmp_path / str(reads))
        lines[reads] = [line for line in runs.lines(tmp_path / str(reads)) if "bpb" in line]
    assert len(lines[True]) == 2
    for with_them, without in zip(lines[True], lines[False], strict=True):
        assert with_them == pytest.approx(without, rel=1e-4)
        assert with_them["scratchpads_per_byte"] > 0


def test_the_entropies_of_the_batch_decide(computed):
    """Where a row begins inside a document they are not those of the row alone; the step reads the batch's."""
    made = with_fields(computed[0], {"data.entropies": True})
    step, batches = Subject(made), Batches(made)
    step()
    batches.open_entropies(name_of_model(made))
    tokens_BM, entropy_BL = batches.arrays(0)
    tokens_BL = tokens_BM[:, :-1]
    wanted = tiny.decide(made, tokens_BL, entropy_BL)
    positions = (tokens_BL != BYTES.pad).sum()
    rates = tuple(float(x.sum() / positions) for x in (wanted.commit_BL, wanted.scratchpad_BL))
    taken = tuple(step.sums[name] / step.sums["positions"] for name in ("commits", "scratchpads"))
    assert taken == pytest.approx(rates, rel=1e-6) and min(rates) > 0
    own_BL = forward(made)(weights(made), tokens_BL, None).entropy_BL
    inside_B = tokens_BL[:, 0] != BYTES.bos
    assert inside_B.any() and (np.abs(own_BL - entropy_BL)[inside_B, 0] > 1e-3).all()


@pytest.mark.parametrize("processes", (1, 2))
def test_each_row_has_the_entropies_of_its_own_bytes(computed, processes):
    made, _ = computed
    stream, found_T = read(made)
    at = {tuple(stream.read(i, WINDOW + 1)): i for i in range(0, len(stream), WINDOW)}
    parts = [Batches(made, "train", rows) for rows in np.array_split(np.arange(made.training.batch_rows), processes)]
    for part in parts:
        part.open_entropies(name_of_model(made))
    for part in parts:
        for step, tokens_BM, entropy_BL in itertools.islice(part.iterate(3), 4):
            np.testing.assert_array_equal(tokens_BM, part.batch(step))
            assert entropy_BL.shape == (2 // processes, WINDOW) and entropy_BL.dtype == np.float32
            for tokens_M, entropy_L in zip(tokens_BM, entropy_BL, strict=True):
                wanted_T = found_T[at[tuple(tokens_M)] :][:WINDOW]
                np.testing.assert_array_equal(entropy_L[: len(wanted_T)], wanted_T)
                assert not entropy_L[len(wanted_T) :].any()


def test_a_run_killed_while_it_computes_goes_on_from_its_groups(computed, tmp_path, monkeypatch):
    made = with_fields(computed[0], {"data.cache_dir": str(tmp_path / "cache")})
    argv = ["entropies", f"--config={runs.write_config(tmp_path / 'experiment.py', made)}"]
    assert child.run(argv, tmp_path / "log", ("part", 3)) == -signal.SIGKILL, (tmp_path / "log").read_text()
    (partial,) = (tmp_path / "cache" / "entropies").iterdir()
    torn = partial.read_bytes()
    assert partial.name.endswith(".f32.partial") and len(torn) > 2 * WINDOW * 4
    monkeypatch.setattr(entropies_lib, "GROUP_POSITIONS", 64)
    again = compute(made)
    # The half of the third group is computed anew, what was before it is not.
    assert 0 < again[0]["positions"] - again[0]["computed"] < len(torn) // 4 and again[1]["computed"]
    for line, whole in zip(again, computed[1], strict=True):
        data, wanted = (Path(each["path"]).read_bytes() for each in (line, whole))
        assert line["split"] != "train" or data[: 2 * WINDOW * 4] == torn[: 2 * WINDOW * 4]
        # The same windows in groups of another size are batched otherwise.
        np.testing.assert_allclose(np.frombuffer(data, np.float32), np.frombuffer(wanted, np.float32), atol=1e-5)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_damaged_file_is_computed_again(computed):
    made, said = computed
    path = Path(said[0]["path"])
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
    said = f"cannot write {tmp_path}/x.f32.partial .No space left on device.; free space there, or set data.cache_dir"
    with pytest.raises(UserError, match=said):
        with entropies.writer(tmp_path / "x.f32") as out:
            assert out.written == 3
            out.append(np.ones(3))


def test_text_that_falls_into_other_documents_is_other_text(tmp_path):
    def stream(starts):
        writer = Writer(tmp_path, "all")
        for start, end in zip(starts, [*starts[1:], 9], strict=True):
            writer.begin_document()
            writer.write(bytes(end - start - 1))
        return IndexedStream("text:x", "all", [Shard(str(tmp_path), writer.finish())], "same bytes")

    places = {entropies.place(stream(starts), "model", "cache") for starts in ([0], [0, 4], [0, 5], [0, 4])}
    assert len(places) == 3


def test_training_without_computed_entropies_names_the_command(computed, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "compile", lambda self: None)
    said = "holds none of text:.* by this entropy model: run scratchpatch entropies --config=FILE"
    # Of a text with none, and of a text that has some by a model that runs otherwise.
    for fields in ({"data.cache_dir": str(tmp_path / "cache")}, {"training.dtype": "bfloat16"}):
        with pytest.raises(UserError, match=said):
            train(with_fields(computed[0], fields | {"data.entropies": True}), tmp_path / "run")


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"model.entropy_model.workdir": ""}, "model.entropy_model.workdir"),
        (NO_ENTROPY_MODEL, "model.entropy_model.layers = 0 is no separate"),
        ({"model.entropy_model.d_byte": 32}, "model.d_byte is 16 there, 32 by model.entropy_model"),
    ],
)
def test_what_cannot_be_computed_is_named(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        compute(config(tmp_path, fields))


def test_computed_entropies_need_an_entropy_model(tmp_path):
    with pytest.raises(UserError, match="data.entropies = True reads what a separate entropy model computed"):
        config(tmp_path, NO_ENTROPY_MODEL | {"data.entropies": True})


def test_the_name_of_a_model_tells_weights_and_fields_but_not_meshes(computed):
    made, _ = computed
    frozen = weights(made)["frozen"]
    name = fingerprint(made, frozen)
    other = with_fields(made, {"mesh.data": 2, "mesh.fsdp": 4, "training.batch_rows": 8})
    placed = given_weights(other, weights_lib.shardings(other, mesh_lib.make(other)))["frozen"]
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(placed))
    assert fingerprint(other, placed) == fingerprint(made, jax.device_get(frozen)) == name
    assert fingerprint(made, jax.tree.map(lambda x: x.at[(0,) * x.ndim].add(1e-3), frozen)) != name
    for field, value in {"model.entropy_model.window": 9, "data.window": 32, "training.dtype": "bfloat16"}.items():
        assert fingerprint(with_fields(made, {field: value}), frozen) != name


def test_the_verb_says_what_it_did(computed, capsys, tmp_path):
    made, said = computed
    argv = ["entropies", f"--config={runs.write_config(tmp_path / 'experiment.py', made)}"]
    assert cli.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"streams": [line | {"computed": 0} for line in said]}
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and f"[train]: {said[0]['positions']:,} entropies, 0 computed now: " in lines[0]
