"""Compile the train step for a TPU pod that is not here: does it fit, what does it send, how long does it take.

usage: scratchpatch plan --config=FILE --topology=KIND:SHAPE [--slices=N] [--decode] [--config.FIELD=VALUE]... [--json]

Memory, shapes and collectives are those of the real compiler (extra tpu: bash launch/setup.sh tpu).
Time is an estimate of ours: 80% of the data sheet, networks beside the work. --device needs no compiler,
and is an estimate throughout. --decode plans generation instead: of the programs that read and write one byte of each
row and that call the trunk, memory, traffic and time. Exit code 0 also where it does not fit: the first lines say so.

examples:
  scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v5p:8x8x8
  scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v6e:16x16 --slices=2 --json
  scratchpatch plan --config=experiments/scale/sp_1b.py --device=h200 --count=8 --config.mesh.fsdp=8
  scratchpatch plan --config=experiments/scale/sp_1b.py --topology=v5p:2x2x1 --decode --config.mesh.fsdp=1
"""

from scratchpatch.accounting import chips
from scratchpatch.errors import UserError
from scratchpatch.planning import topology
from scratchpatch.verbs import verb

# Rows per chip of --decode.
_ROWS = 32

_FLAGS = (
    verb.JSON, verb.integer("count", "Devices of --device.", 1),
    verb.text("topology", "TPU pod: v4, v5e, v5p, v6e or tpu7x with its shape, such as v5e:4x4 or v5p:8x8x8."),
    verb.integer("slices", "Pods of that shape, joined by the data-centre network.", 1),
    verb.choice("device", "Instead of --topology: estimate without compiling, on so many --count.",
        enum_values=chips.NAMES),
    verb.integer("rows_per_chip", "Set training.batch_rows to so many per chip: how a run scales with its batch. "
        f"With --decode: the rows that are continued; none: {_ROWS}."),
    verb.switch("decode", "Plan the continuation of rows as long as data.window instead of training."),
    verb.switch("full", "Compile to the machine code: minutes instead of seconds."),
    verb.switch("policies", "Also estimate the other policies of training.remat, and name the fastest that fits.",
        default=True),
    verb.switch("smallest", "Also look for the smallest pod of the kind that fits.", default=True),
)


def _check(values: verb.Flags) -> None:
    if (values.topology is None) == (values.device is None):
        raise UserError("plan needs one of --topology=KIND:SHAPE and --device=CHIP")
    if values.topology is not None:
        topology.parse(values.topology, values.slices)
        if values.count != 1:
            raise UserError("--count goes with --device: a topology's shape says its chips")
    elif values.slices != 1 or values.full:
        raise UserError("--slices and --full go with --topology alone")
    if values.decode and (values.topology is None or values.full):
        raise UserError("--decode goes with --topology, and without --full: its programs are compiled to the end")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    import jax

    # The compiler runs in a child process, and nothing here needs a device.
    jax.config.update("jax_platforms", "cpu")
    from scratchpatch.planning import decode, plan

    config = values.config.copy_and_resolve_references()
    pod = topology.parse(values.topology, values.slices) if values.topology else None
    if values.decode:
        answer.show(decode.plan_decode(config, pod, values.rows_per_chip or _ROWS), values, decode.text)
        return
    if values.rows_per_chip:
        config.training.batch_rows = values.rows_per_chip * (pod.chips if pod else values.count)
    if pod:
        result = plan.plan_tpu(config, pod, values.full, values.smallest, values.policies)
    else:
        result = plan.plan_device(config, chips.named(values.device), values.count, values.policies)
    answer.show(result, values, plan.text)


VERB = verb.Verb("plan", __doc__, _run, _FLAGS, _check, config=True, required=("config",))
