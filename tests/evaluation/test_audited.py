"""A model that passed its audit on this machine is not audited again, unless it or the code has changed."""

import pytest

from scratchpatch.evaluation import audit as audit_lib, audited, made_of
from tests import tiny

LEAK = audit_lib.Finding("suffix", "trunk", 7, "row 1")


@pytest.fixture
def audits(tmp_path, monkeypatch):
    """The configs that were really audited; `audits.findings` is what the audit says next."""
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "cache"))

    class Audits(list):
        findings = ()

    asked = Audits()

    def audit(config, weights):
        asked.append(config)
        return audit_lib.AuditReport(asked.findings, {"rows": 8}, 0.5)

    monkeypatch.setattr(audit_lib, "audit", audit)
    return asked


def test_a_verdict_holds_for_the_model_and_not_for_the_run(audits):
    assert audited.audit(tiny.config(), None) == (True, "the causality audit passed (8 rows; 0.5 s)")
    other_run = {"seed": 1, "optimizer.learning_rate": 0.1, "training.steps": 7, "data.sources": (("text:other", 1.0),)}
    causal, text = audited.audit(tiny.config(other_run), None)
    assert causal and "passed (8 rows; 0.5 s) on 20" in text and "not run again" in text
    assert len(audits) == 1


@pytest.mark.parametrize(
    "field, value", [("model.pooling.kind", "mean"), ("trigger.threshold", 1.0), ("training.dtype", "bfloat16")]
)
def test_another_model_is_audited(audits, field, value):
    for fields in ({}, {field: value}):
        audited.audit(tiny.config(fields), None)
    assert len(audits) == 2


def test_other_code_is_audited(audits, monkeypatch):
    audited.audit(tiny.config(), None)
    monkeypatch.setattr(made_of, "_code", lambda: "changed")
    audited.audit(tiny.config(), None)
    assert len(audits) == 2


def test_a_leak_is_found_at_every_start(audits):
    audits.findings = (LEAK,)
    for _ in range(2):
        causal, text = audited.audit(tiny.config(), None)
        assert not causal and "the trunk leaks at position 7" in text
    assert len(audits) == 2


def test_a_damaged_verdict_is_none(audits, tmp_path):
    audited.audit(tiny.config(), None)
    (path,) = tmp_path.glob("cache/audits/*.json")
    path.write_text('{"passed": 3}')
    assert audited.audit(tiny.config(), None)[0] and len(audits) == 2
    assert audited.audit(tiny.config(), None)[0] and len(audits) == 2


def test_without_a_folder_to_write_every_start_audits(audits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert audited.audit(tiny.config(), None)[0]
    assert len(audits) == 2
