"""The verb that looks after a run's checkpoints: list, verify, prune, export."""

from absl import flags

from scratchpatch import output
from scratchpatch.errors import UserError
from scratchpatch.verbs.verb import Flags, Verb, existing, folder_flag, json_flag, say, to_stderr, workdir_flag

# Flag to the actions that read it.
_GO_WITH = {
    "step": ("verify", "export"), "keep_last": ("prune",), "dry_run": ("prune",), "out": ("export",), "layout": ("export",),
    "json": ("list", "verify", "prune"),
}  # fmt: skip


def _define(values: Flags) -> None:
    workdir_flag(values)
    json_flag(values)
    flags.DEFINE_enum(
        "action", None, ("list", "verify", "prune", "export"), "What to do; may be given without --action=.", flag_values=values
    )
    flags.DEFINE_integer(
        "step", None, "verify: this step alone; none: all. export: this one; none: the newest.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "keep_last", None, "prune: newest whole steps to keep, beside the best.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "prune: only say what would be deleted.", flag_values=values)
    folder_flag(values, "out", "export: new folder for model.safetensors and config.json.")
    flags.DEFINE_enum(
        "layout", "stacked", ("stacked", "unstacked"), "export: layers in one array, or one array each.", flag_values=values
    )


def _check(values: Flags) -> None:
    if values.action is None:
        raise UserError("say what to do: scratchpatch checkpoint list, verify, prune or export")
    if values.action == "prune" and values.keep_last is None:
        raise UserError("checkpoint prune needs --keep_last=N")
    if values.action == "export" and not values.out:
        raise UserError("checkpoint export needs --out=DIR")
    for flag, actions in _GO_WITH.items():
        if values.action not in actions and values[flag].value != values[flag].default:
            raise UserError(f"--{flag} goes with checkpoint {' or '.join(actions)} alone")


def _checkpoint(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    return {"list": _list, "verify": _verify, "prune": _prune, "export": _export}[values.action](workdir, values)


def _list(workdir: str, values: Flags) -> int:
    from scratchpatch.checkpoints.housekeeping import listing, listing_table

    result = listing(workdir)
    return say(output.as_json(result) if values.json else listing_table(result))


def _verify(workdir: str, values: Flags) -> int:
    from scratchpatch.checkpoints.housekeeping import complaint, verify, verify_table

    with to_stderr():
        result = verify(workdir, values.step)
    say(output.as_json(result) if values.json else verify_table(result))
    if problem := complaint(result):
        raise UserError(problem)
    return 0


def _prune(workdir: str, values: Flags) -> int:
    import jax

    from scratchpatch.checkpoints.housekeeping import prune, prune_table

    # The lock asks JAX which process this is. A trainer may hold the accelerator, and nothing here needs one.
    jax.config.update("jax_platforms", "cpu")
    with to_stderr():
        result = prune(workdir, values.keep_last, values.dry_run)
    return say(output.as_json(result) if values.json else prune_table(result))


def _export(workdir: str, values: Flags) -> int:
    from scratchpatch.inference.loading import load
    from scratchpatch.interop.export import export

    export(load(workdir, values.step), values.out, values.layout)
    return say(values.out)


VERBS = {
    "checkpoint": Verb(
        "List a run's checkpoints, verify their checksums, delete those not needed, or export one as safetensors.",
        "list|verify|prune|export --workdir=DIR [--step=N] [--keep_last=N --dry_run] [--out=DIR --layout=unstacked] [--json]",
        _checkpoint,
        (
            "scratchpatch checkpoint list --workdir=runs/quickstart",
            "scratchpatch checkpoint verify --workdir=runs/quickstart --json",
            "scratchpatch checkpoint prune --workdir=runs/quickstart --keep_last=1 --dry_run",
            "scratchpatch checkpoint export --workdir=runs/quickstart --out=exported",
        ),
        _define,
        _check,
        required=("workdir",),
        positional=("action",),
        details=(
            "list reads each step's description alone, of training.durable_dir too. verify reads every file; exit code 1: a step",
            "is damaged, or could not be read.",
            "prune keeps the newest N whole steps and the one of the lowest validation_bpb, and deletes the other steps and",
            "STEP.damaged, STEP.partial and STEP.deleted. It is refused while a trainer holds the workdir.",
            "A step that cannot be read now stays.",
            "export writes the parameters as model.safetensors beside a config.json; every --workdir takes the folder, also an",
            "imported or exported one. Arrays are named by their path in the model, such as",
            "params.trunk.stack.block.ffn.up.kernel, whose first axis is the layer; unstacked, ...block.3.ffn.up.kernel.",
        ),
    ),
}
