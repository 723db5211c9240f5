"""Continue a prompt with a run's newest checkpoint."""

from scratchpatch.inference.loading import load


def generate_text(workdir, prompt: bytes, max_bytes: int, temperature: float = 0.0, seed: int = 0) -> bytes:
    """The bytes that follow `prompt`; see `LanguageModel.generate`."""
    return load(workdir).generate(prompt, max_bytes, temperature=temperature, seed=seed)
