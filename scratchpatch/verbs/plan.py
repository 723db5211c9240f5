"""The verb that plans a run on chips that are not here."""

from absl import flags, logging

from scratchpatch import output
from scratchpatch.accounting import chips
from scratchpatch.errors import UserError
from scratchpatch.planning import topology
from scratchpatch.verbs.verb import Flags, Verb, json_flag, to_stderr


def _define(values: Flags) -> None:
    json_flag(values)
    flags.DEFINE_string("topology", None, "TPU pod: v4, v5e, v5p, v6e or tpu7x with its shape, such as v5e:4x4 or v5p:8x8x8.", flag_values=values)
    flags.DEFINE_integer("slices", 1, "Pods of that shape, joined by the data-centre network.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("device", None, chips.NAMES, "Instead of --topology: estimate without compiling, on so many --count.", flag_values=values)
    flags.DEFINE_integer("count", 1, "Devices of --device.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "rows_per_chip", None, "Set training.batch_rows to so many per chip: how a run scales with its batch.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool("full", False, "Compile to the machine code: minutes instead of seconds.", flag_values=values)
    flags.DEFINE_bool("smallest", True, "Also look for the smallest pod of the kind that fits.", flag_values=values)


def _check(values: Flags) -> None:
    if (values.topology is None) == (values.device is None):
        raise UserError("plan needs one of --topology=KIND:SHAPE and --device=CHIP")
    if values.topology is not None:
        topology.parse(values.topology, values.slices)
        if values.count != 1:
            raise UserError("--count goes with --device: a topology's shape says its chips")
    elif values.slices != 1 or values.full:
        raise UserError("--slices and --full go with --topology alone")


def _plan(values: Flags) -> int:
    import jax

    # The compiler runs in a child process, and nothing here needs a device.
    jax.config.update("jax_platforms", "cpu")
    from scratchpatch.planning import plan

    config = values.config.copy_and_resolve_references()
    pod = topology.parse(values.topology, values.slices) if values.topology else None
    if values.rows_per_chip:
        config.training.batch_rows = values.rows_per_chip * (pod.chips if pod else values.count)
    with to_stderr():
        if pod:
            found = plan.plan_tpu(config, pod, values.full, values.smallest, lambda line: logging.info("%s", line))
        else:
            found = plan.plan_device(config, chips.named(values.device), values.count)
    print(output.as_json(found) if values.json else plan.text(found))
    return 0


VERBS = {
    "plan": Verb(
        "Compile the train step for a TPU pod that is not here: does it fit, what does it send, how long does it take.",
        "--config=FILE --topology=KIND:SHAPE [--slices=N] [--config.FIELD=VALUE]... [--json]",
        _plan,
        (
            "scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v5p:8x8x8",
            "scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v6e:16x16 --slices=2 --json",
            "scratchpatch plan --config=experiments/scale/sp_1b.py --device=h200 --count=8 --config.mesh.fsdp=8",
        ),
        _define,
        _check,
        config=True,
        required=("config",),
        details=(
            "Memory, shapes and collectives are those of the real compiler (extra tpu: bash launch/setup.sh tpu).",
            "Time is an estimate of ours: 80% of the data sheet, networks beside the work. --device needs no compiler,",
            "and is an estimate throughout. Exit code 0 also where the step does not fit: the first lines say so.",
        ),
    ),
}
