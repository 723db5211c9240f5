"""List a run's checkpoints, verify their checksums, delete those not needed, or export one as safetensors.

usage: scratchpatch checkpoint list|verify|prune|export --workdir=DIR [--step=N] [--keep_last=N --dry_run] \
[--out=DIR --layout=unstacked] [--json]

list reads each step's description alone, of training.durable_dir too. verify reads every file; exit code 1: a step
is damaged, or could not be read.
prune keeps the newest N whole steps and the one of the lowest validation_bpb, and deletes the other steps and
STEP.damaged, STEP.partial and STEP.deleted. It is refused while a trainer holds the workdir.
A step that cannot be read now stays.
export writes the parameters as model.safetensors beside a config.json; every --workdir takes the folder, also an
imported or exported one. Arrays are named by their path in the model, such as
params.trunk.stack.block.ffn.up.kernel, whose first axis is the layer; unstacked, ...block.3.ffn.up.kernel.

examples:
  scratchpatch checkpoint list --workdir=runs/quickstart
  scratchpatch checkpoint verify --workdir=runs/quickstart --json
  scratchpatch checkpoint prune --workdir=runs/quickstart --keep_last=1 --dry_run
  scratchpatch checkpoint export --workdir=runs/quickstart --out=exported
"""

from scratchpatch.errors import UserError
from scratchpatch.verbs import verb

# What can be done, and the flags that it reads.
_ACTIONS = {
    "list": ("json",), "verify": ("step", "json"), "prune": ("keep_last", "dry_run", "json"),
    "export": ("step", "out", "layout"),
}
_FLAGS = (
    verb.WORKDIR, verb.JSON, verb.switch("dry_run", "prune: only say what would be deleted."),
    verb.choice("action", "What to do; may be given without --action=.", enum_values=tuple(_ACTIONS)),
    verb.integer("step", "verify: this step alone; none: all. export: this one; none: the newest.", lower_bound=0),
    verb.integer("keep_last", "prune: newest whole steps to keep, beside the best."),
    verb.folder("out", "export: new folder for model.safetensors and config.json."),
    verb.choice("layout", "export: layers in one array, or one array each.", "stacked",
        enum_values=("stacked", "unstacked")),
)


def _check(values: verb.Flags) -> None:
    if values.action is None:
        raise UserError("say what to do: scratchpatch checkpoint list, verify, prune or export")
    if values.action == "prune" and values.keep_last is None:
        raise UserError("checkpoint prune needs --keep_last=N")
    if values.action == "export" and not values.out:
        raise UserError("checkpoint export needs --out=DIR")
    for flag in ("step", "keep_last", "dry_run", "out", "layout", "json"):
        readers = [action for action, flags in _ACTIONS.items() if flag in flags]
        if values.action not in readers and values[flag].value != values[flag].default:
            raise UserError(f"--{flag} goes with checkpoint {' or '.join(readers)} alone")


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    workdir = verb.existing(values, "workdir")
    if values.action == "prune":
        import jax

        # The lock asks JAX which process this is. A trainer may hold the accelerator, and nothing here needs one.
        jax.config.update("jax_platforms", "cpu")
    from scratchpatch.checkpoints import housekeeping

    if values.action == "list":
        answer.show(housekeeping.listing(workdir), values, housekeeping.listing_table)
    elif values.action == "verify":
        verdict = housekeeping.verify(workdir, values.step)
        answer.show(verdict, values, housekeeping.verify_table)
        if complaint := housekeeping.complaint(verdict):
            raise UserError(complaint)
    elif values.action == "prune":
        answer.show(housekeeping.prune(workdir, values.keep_last, values.dry_run), values, housekeeping.prune_table)
    else:
        from scratchpatch.inference.loading import load
        from scratchpatch.interop.export import export

        export(load(workdir, values.step), values.out, values.layout)
        answer.line(values.out)


VERB = verb.Verb("checkpoint", __doc__, _run, _FLAGS, _check, required=("workdir",), positional=("action",))
