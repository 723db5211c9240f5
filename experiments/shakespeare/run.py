"""Train every variant of the tinyshakespeare study on every seed, then write README.md beside this file.

    .venv/bin/python -m experiments.shakespeare.run --text=tinyshakespeare.txt [--seeds=0,1,2] [--workers=2] [--train=0]

Without --text, shakespeare/tinyshakespeare.txt in the folder that $SCRATCHPATCH_DATA names is read. Finished runs in
--workdir are kept: the same command goes on after a stop. --train=0 writes the page of those that are finished.
"""

import hashlib
import json
import sys
from pathlib import Path

from experiments import corpora, jobs
from experiments.shakespeare import summary
from experiments.shakespeare.config import VARIANTS
from scratchpatch.errors import UserError
from scratchpatch.files import replacing

# Of the text, the part that trains; the rest validates.
_TRAINING = 0.9
_FLAGS = {
    "text": ("", "the text, tinyshakespeare.txt"),
    "train": (1, "0: train nothing"),
}


def main() -> int:
    began_in = Path.cwd()
    flags = jobs.flags("shakespeare", __doc__, Path(__file__).parent, 2000, _FLAGS, seeds="0,1,2", reads_corpora=False)
    try:
        path = began_in / flags.text if flags.text else corpora.folder() / "shakespeare" / "tinyshakespeare.txt"
        text = path.read_bytes()
    except (OSError, UserError) as error:
        sys.exit(f"shakespeare: {error}; --text names the text")
    folder = flags.workdir / "text"
    split(text, folder)
    runs = {}
    # A seed of every variant comes before the next seed of any.
    for seed in flags.seeds:
        for variant in VARIANTS:
            place = flags.workdir / f"{variant}-{seed}"
            arguments = [variant, str(seed), str(place), str(folder), str(flags.steps), str(flags.eval_bytes)]
            runs[variant, seed] = jobs.Job(f"{variant}, {seed}", place, "experiments.shakespeare.worker", arguments)
    if flags.train:
        jobs.run(list(runs.values()), flags.workers, "shakespeare")
    results = {run: json.loads(job.result.read_text()) for run, job in runs.items() if job.result.exists()}
    if not results:
        sys.exit(f"shakespeare: no run in {flags.workdir} is finished")
    page = summary.page(results, hashlib.sha256(text).hexdigest(), len(text))
    (flags.output / "README.md").write_text(page)
    print(flags.output / "README.md")
    return 0


def split(text: bytes, folder: Path) -> None:
    """Write train.txt and validation.txt, where nanoGPT cuts the text; what is there already stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = int(_TRAINING * len(text))
    for name, part in (("train.txt", text[:cut]), ("validation.txt", text[cut:])):
        path = folder / name
        if not path.exists() or path.read_bytes() != part:
            with replacing(path) as file:
                file.write(part)


if __name__ == "__main__":
    sys.exit(main())
