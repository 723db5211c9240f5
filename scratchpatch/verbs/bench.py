"""The verb that measures this machine: bench."""

from absl import flags

from scratchpatch import compilation_cache, output
from scratchpatch.verbs.verb import Flags, Verb, json_flag, to_stderr


def _define_bench(values: Flags) -> None:
    json_flag(values)
    flags.DEFINE_enum(
        "what",
        "all",
        ("train", "data", "linear", "kernels", "start", "peer", "all"),
        "What to measure; may be given without --what=.",
        flag_values=values,
    )


def _bench(values: Flags) -> int:
    compilation_cache.enable()
    from scratchpatch.bench import run, text

    with to_stderr():
        result = run(values.what, values.config)
    print(output.as_json(result) if values.json else text(result))
    return 0


VERBS = {
    "bench": Verb(
        "Measure speed and memory on this machine.",
        "[train|data|linear|kernels|start|peer|all] [--config=FILE] [--config.FIELD=VALUE]... [--json]",
        _bench,
        ("scratchpatch bench", "scratchpatch bench data --config=experiments/quickstart.py --json"),
        _define_bench,
        config=True,
        positional=("what",),
        details=(
            "train, peer: a training step against others; data: windows into the loop;",
            "linear: cost against window length; kernels: each attention backend that runs here;",
            "start: time to the first step.",
        ),
    ),
}
