"""Every experiment file is a config that can be, and its docstring says what a reader needs."""

import ast
from pathlib import Path

import pytest

from experiments.blt import difficulty, entropy_corpora, published, small
from experiments.patch_lag import config as patch_lag
from scratchpatch import config as config_lib, config_flags
from scratchpatch.accounting.parameters import parameters

ROOT = Path(__file__).parents[2]
FILES = sorted(p for p in (ROOT / "experiments").rglob("*.py") if "def get_config(" in p.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_a_valid_config_and_says_what_it_is_for(path):
    config_lib.check(config_flags.load(str(path)))
    said = ast.get_docstring(ast.parse(path.read_text()))
    for word in ("Purpose:", "Hardware", "xpected", "Command"):
        assert word in said, word


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
