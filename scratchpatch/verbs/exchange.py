"""The verb that brings weights in: import (checkpoint export writes them)."""

from absl import flags

from scratchpatch.verbs.verb import Flags, Verb, existing, folder_flag


def _define_import(values: Flags) -> None:
    folder_flag(values, "out", "New folder for model.safetensors and config.json.")
    folder_flag(values, "folder", "Hugging Face checkpoint: config.json and *.safetensors.")
    flags.DEFINE_integer("window", 1024, "Bytes of a row (data.window).", lower_bound=8, flag_values=values)
    flags.DEFINE_integer(
        "max_patch_bytes", 128, "Longest patch, where the checkpoint sets none.", lower_bound=1, flag_values=values
    )


def _import(values: Flags) -> int:
    folder = existing(values.folder, "folder", folder=True)
    from scratchpatch.inference.loading import load_hf_blt
    from scratchpatch.interop.export import export, vacant

    # Reading takes minutes.
    vacant(values.out)
    export(load_hf_blt(folder, values.window, values.max_patch_bytes), values.out)
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
}
