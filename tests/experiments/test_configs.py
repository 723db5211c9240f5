"""Every experiment file is a config that can be and that trains, and its docstring says what a reader needs."""

import ast
import collections
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.blt import difficulty, entropy_corpora, published, small
from experiments.flat import config as flat
from experiments.megabyte import config as megabyte
from experiments.patch_lag import config as patch_lag
from experiments.spacebyte import config as spacebyte
from scratchpatch import config as config_lib, config_flags
from scratchpatch.accounting.parameters import parameters
from scratchpatch.distributed import mesh
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer
from tests import tiny

ROOT = Path(__file__).parents[2]
FILES = sorted(p for p in (ROOT / "experiments").rglob("*.py") if "def get_config(" in p.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_a_valid_config_and_says_what_it_is_for(path):
    config_lib.check(config_flags.load(str(path)))
    said = ast.get_docstring(ast.parse(path.read_text()))
    for word in ("Purpose:", "Hardware", "xpected", "Command"):
        assert word in said, word


def smallest(config) -> str:
    """The same kinds of everything at the smallest size, as JSON: files that differ in sizes alone are one model."""
    sections, made = ("model.", "patching.", "trigger."), config_lib.flat(tiny.config(SMALL))
    for name, value in config_lib.flat(config).items():
        if not name.startswith(sections) or name.endswith(("workdir", "entropy_head.layers")):
            continue
        if isinstance(value, (str, bool)):
            made[name] = value
        elif name.endswith(("layers", ".width", ".gain")):
            made[name] = min(value, SMALL.get(name, 1))
    made["model.encoder.ngrams"] = [2, 3] if config.model.encoder.ngrams else []
    made["model.entropy_head.weight"] = min(config.model.entropy_head.weight, 1.0)
    if config.model.trunk.kind == "ssm":
        made["model.trunk.kv_heads"] = 0
    made["patching.capacity"] = 1.0 if config.patching.commit_bos else 0.0
    if config.data.tokenizer:
        made |= {"data.tokenizer": "any.json", "data.vocabulary": 300}
    return json.dumps(made)


# Beside the sizes of tests/tiny.py.
SMALL = {
    "model.encoder.ngram_rows": 50,
    "model.entropy_head.layers": 0,
    "model.entropy_model.d_byte": 16,
    "model.entropy_model.heads": 2,
    "model.entropy_model.window": 12,
    "model.benefit.width": 4,
    "model.benefit.share": 1.0,
    "model.trunk.kv_heads": 0,
    "model.trunk.layers": 1,
    "patching.gain": 0.02,
    "trigger.gain": 0.02,
    "optimizer.learning_rate": 1e-2,
    "optimizer.schedule": "constant",
}


def models() -> dict[str, list[str]]:
    """The smallest models, each with the files that it stands for."""
    files = collections.defaultdict(list)
    for path in FILES:
        files[smallest(config_flags.load(str(path)))].append(str(path.relative_to(ROOT / "experiments")))
    return files


@pytest.mark.parametrize("values", [pytest.param(values, id=",".join(files)) for values, files in models().items()])
def test_every_files_model_trains_at_the_smallest_size(values):
    made = config_lib.from_flat(json.loads(values))
    config_lib.check(made)
    trainer, rows_BM, nats = Trainer(made, mesh.make(made)), tiny.batch(rows=8), []
    step = trainer.compile()
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), trainer.abstract_state()) | tiny.weights(made)
    state = jax.device_put(state, trainer.shardings)
    for index in range(20):
        settings = trainer.place_settings(optimizer.settings(made, index))
        state, sums = step(state, trainer.place(rows_BM), settings)
        assert not sums["skipped"]
        nats.append(float(sums["nats"] + sums["end_nats"]) / float(sums["targets"]))
    assert np.isfinite(nats).all() and np.mean(nats[-5:]) < np.mean(nats[:5]) - 0.3


@pytest.mark.parametrize("path", [*FILES, ROOT / "experiments/scale/sizes.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_config_sets_one_field_a_line(path):
    """So that a diff shows what an experiment changes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and any(isinstance(x, ast.Attribute) for x in ast.walk(node.targets[0])):
            assert len(node.targets) == 1 and not isinstance(node.targets[0], ast.Tuple), ast.unparse(node)


@pytest.mark.parametrize("variant", difficulty.VARIANTS)
def test_variants_of_the_difficulty_experiment_differ_in_rule_and_text_alone(variant):
    rule, corpus = variant.split("-")
    changed = set(config_lib.changed(small.get_config(), difficulty.get_config(variant)))
    assert changed <= {"patching.kind", "patching.capacity", "data.sources", "data.validation_sources"}
    config = difficulty.get_config(variant)
    assert config.patching.kind == rule and config.patching.patch_bytes == 4
    assert entropy_corpora.CORPORA[corpus] in config.data.sources[0][0]


@pytest.mark.parametrize("variant", patch_lag.VARIANTS)
def test_variants_of_the_patch_lag_study_are_valid(variant):
    config_lib.check(patch_lag.get_config(variant))


SYSTEMS = {"flat": flat, "megabyte": megabyte, "spacebyte": spacebyte}


@pytest.mark.parametrize("name, variant", [(name, v) for name, module in SYSTEMS.items() for v in module.VARIANTS])
def test_variants_of_a_system_are_valid_and_no_other_is_taken_for_one(name, variant):
    config_lib.check(SYSTEMS[name].get_config(variant))
    with pytest.raises(ValueError, match="no variant 'large'; wanted one of"):
        SYSTEMS[name].get_config("large")


@pytest.mark.parametrize("variant", spacebyte.VARIANTS)
def test_spacebyte_has_the_papers_proportions(variant):
    config = spacebyte.get_config(variant)
    m, half = config.model, config.model.trunk.d_model // 2
    assert (m.d_byte, m.encoder.window, m.decoder.window) == (half, half, half)
    assert m.encoder.layers == m.decoder.layers == m.trunk.layers / 2
    # Its code counts 12 d^2 weights a layer, as SwiGLU has here.
    if variant == "paper":
        counts = parameters(config)
        assert counts["trunk"] == pytest.approx(16 * 12 * 768**2, rel=2e-3)
        local = 2 * 8 * 12 * 384**2
        embeddings = 2 * 264 * 384 + 768 * 384
        assert counts["encoder"] + counts["decoder"] == pytest.approx(local + embeddings, rel=2e-3)


def test_flat_models_have_one_shape_and_see_differently_far():
    full, windows = flat.get_config("full"), flat.get_config("windows")
    assert full.model.trunk.layers == windows.model.encoder.layers and windows.model.encoder.window == 128
    layers = [sum(parameters(c).values()) for c in (full, windows)]
    # The way into the trunk and out of it, twice 128 x 128, beside vectors.
    assert layers[0] - layers[1] == pytest.approx(2 * 128 * 128, rel=0.02)


def test_the_small_entropy_model_is_the_run_that_trains_it():
    alone, within = entropy_corpora.get_config(), config_lib.entropy_model(small.get_config())
    for name in ("d_byte", "ffn_multiplier", "rope_theta", "norm_eps", "target_rows"):
        assert alone.model[name] == within.model[name], name
    assert alone.model.encoder == within.model.encoder


def test_the_published_1b_model_has_the_published_parameters():
    found = parameters(published.get_config("1b-4"))
    # 4,533,879,808 in the checkpoint, whose 260 rows are 264 here, with a null context of the trunk's width.
    extra = 2 * 4 * 1024 + 2048
    found.pop("entropy model")
    # Our pooling keeps no norm that theirs lacks.
    assert sum(found.values()) - extra == 4_533_879_808
