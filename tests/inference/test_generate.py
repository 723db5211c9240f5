from scratchpatch.inference import generate
from tests.inference.models import language_model


def test_a_prompt_is_continued_by_the_runs_newest_model(monkeypatch):
    asked = []
    monkeypatch.setattr(generate, "load", lambda workdir: asked.append(workdir) or language_model())
    made = generate.generate_text("runs/x", b"\xffab", 5)
    assert made == language_model().generate(b"\xffab", 5)
    assert generate.generate_text("runs/x", b"ab", 5, temperature=1.0, seed=3) == language_model().generate(
        b"ab", 5, temperature=1.0, seed=3
    )
    assert asked == ["runs/x", "runs/x"]
