"""Verbs that bring weights in and out: import, export."""

from absl import flags

from scratchpatch.verbs.verb import Flags, Verb, existing, step_flag, workdir_flag


def _out_flag(values: Flags) -> None:
    flags.DEFINE_string("out", None, "New folder for model.safetensors and config.json.", flag_values=values)


def _define_import(values: Flags) -> None:
    _out_flag(values)
    flags.DEFINE_string("folder", None, "Hugging Face checkpoint: config.json and *.safetensors.", flag_values=values)
    flags.DEFINE_integer("window", 1024, "Bytes of a row (data.window).", lower_bound=8, flag_values=values)
    flags.DEFINE_integer(
        "max_patch_bytes", 128, "Longest patch, where the checkpoint sets none.", lower_bound=1, flag_values=values
    )


def _import(values: Flags) -> int:
    folder = existing(values.folder, "folder", folder=True)
    from scratchpatch.interop.export import export
    from scratchpatch.interop.hf_blt import load_hf_blt

    export(load_hf_blt(folder, values.window, values.max_patch_bytes), values.out)
    print(values.out)
    return 0


def _define_export(values: Flags) -> None:
    workdir_flag(values)
    _out_flag(values)
    step_flag(values)


def _export(values: Flags) -> int:
    workdir = existing(values.workdir, "workdir", folder=True)
    from scratchpatch.inference.language_model import load
    from scratchpatch.interop.export import export

    export(load(workdir, values.step), values.out)
    print(values.out)
    return 0


VERBS = {
    "import": Verb(
        "Read a Hugging Face BLT checkpoint into a folder that every --workdir takes.",
        "--folder=HF_CHECKPOINT --out=DIR [--window=N] [--max_patch_bytes=N]",
        _import,
        ("scratchpatch import --folder=checkpoints/blt-1b --out=runs/blt_1b",),
        _define_import,
        required=("folder", "out"),
        details=(
            "Then: scratchpatch eval --workdir=runs/blt_1b --override trigger.kind=entropy (with scratchpads),",
            "and to fine-tune: scratchpatch train --config=runs/blt_1b/config.json --config.training.init_from=runs/blt_1b",
            "--config.trigger.kind=entropy --workdir=runs/blt_tuned",
        ),
    ),
    "export": Verb(
        "Write a run's model as safetensors and a config.json.",
        "--workdir=DIR --out=DIR [--step=N]",
        _export,
        ("scratchpatch export --workdir=runs/quickstart --out=exported",),
        _define_export,
        required=("workdir", "out"),
        details=("Arrays are named by their path in the model, such as params.trunk.stack.block.ffn.up.kernel (BUILD.md).",),
    ),
}
