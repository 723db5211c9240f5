"""Read a Hugging Face BLT checkpoint into a folder that every --workdir takes.

usage: scratchpatch import --folder=HF_CHECKPOINT --out=DIR [--window=N] [--max_patch_bytes=N]

Then: scratchpatch eval --workdir=runs/blt_1b --override trigger.kind=entropy (with scratchpads),
and to fine-tune: scratchpatch train --config=runs/blt_1b/config.json --config.training.init_from=runs/blt_1b
--config.trigger.kind=entropy --workdir=runs/blt_tuned

examples:
  scratchpatch import --folder=checkpoints/blt-1b --out=runs/blt_1b
"""

from scratchpatch.verbs import verb

_FLAGS = (
    verb.folder("out", "New folder for model.safetensors and config.json."),
    verb.folder("folder", "Hugging Face checkpoint: config.json and *.safetensors."),
    verb.integer("window", "Bytes of a row (data.window).", 1024, lower_bound=8),
    verb.integer("max_patch_bytes", "Longest patch, where the checkpoint sets none.", 128),
)


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    checkpoint = verb.existing(values, "folder")
    from scratchpatch.inference.loading import load_hf_blt
    from scratchpatch.interop.export import export, vacant

    # Reading takes minutes.
    vacant(values.out)
    export(load_hf_blt(checkpoint, values.window, values.max_patch_bytes), values.out)
    answer.line(values.out)


VERB = verb.Verb("import", __doc__, _run, _FLAGS, required=("folder", "out"))
