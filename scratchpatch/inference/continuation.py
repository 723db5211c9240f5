"""The continuation of a file of prompts, by one process or by several that do the same on one mesh.

Of several, the first one has the file of results: it says which rows are there, and writes those that end.
"""

import contextlib
import time
from pathlib import Path

from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.inference import prompts as prompts_lib, results
from scratchpatch.inference.options import Options
from scratchpatch.inference.prompts import Survey
from scratchpatch.progress import Progress


def survey(path: str | Path, defaults: Options) -> Survey:
    """`prompts.survey`, in every process. Raises UserError in all of them, also where one reads another file."""
    read = processes.together(lambda: prompts_lib.survey(path, defaults))
    processes.agree({f"the prompts in {path}": read.sha256})
    return read


def continue_file(engine, path: str, out: Path, survey: Survey, defaults: Options, made_of: dict[str, str]) -> dict:
    """Continue the prompts of a file that `results.Results` has not yet, and finish the file of results. All processes
    of the engine's mesh must call this.

    Args:
      defaults: see `prompts.read`; without a patch_threshold, which is the engine's model's.
      made_of: see `results.Results`.
    Returns:
      rows; written, those of this call; and of this call bytes (of which stop strings may take some back), what
      `prompts.speed` says, trunk_calls_per_byte and rows_per_trunk_call.

    Raises UserError, before anything is written, where a line turns a dial that the model lacks; and see `Results`.
    """
    if survey.dialled is not None:
        number, options = survey.dialled
        try:
            prompts_lib.check(options, engine.check)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    began, moments = time.monotonic(), []
    with contextlib.ExitStack() as closed:
        rows: list[results.Results] = []

        def done() -> list[int]:
            rows.append(closed.enter_context(results.Results(out, made_of)))
            return sorted(rows[0].done)

        before = set(processes.first(done))
        left = (prompt for prompt in prompts_lib.read(path, defaults) if prompt.number not in before)
        count, shown = len(before), processes.is_first()
        with Progress(survey.count, count, label="generating", unit="rows", shown=shown) as progress:
            for ended, byte_count in prompts_lib.continued(engine, left):
                for mine in rows:
                    mine.add(ended)
                count += len(ended)
                progress.advance(len(ended), byte_count)
                moments = moments or [(time.monotonic(), engine.work.bytes)]
        if count != survey.count:
            raise UserError(f"{path} was changed while it was read: start again, with another --out")
        processes.first(lambda: rows[0].finish())
    work = engine.work
    moments.append((time.monotonic(), work.bytes))
    return {
        "rows": survey.count,
        "written": survey.count - len(before),
        "bytes": work.bytes,
        **prompts_lib.speed(began, moments),
        "trunk_calls_per_byte": work.slots / max(work.bytes, 1),
        "rows_per_trunk_call": work.slots / max(work.trunk_calls, 1),
    }
