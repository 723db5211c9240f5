"""Cost against window length: the same bytes per step in short rows and in long ones."""

import dataclasses
import math
import re

from scratchpatch import config as config_lib, timing
from scratchpatch.bench.results import Result, at_most
from scratchpatch.bench.train import Subject

_SHORT, _LONG, _SECONDS = 2048, 8192, 30.0
# Two long rows, so that rows can be spread over cores at either length.
_STEP_BYTES = 2 * _LONG
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[(\d+(?:,\d+)*)\]")


def measure(config) -> Result:
    """Bytes/s and compiled memory per byte of both, and the largest arrays in the compiled steps."""
    subjects = {f"window {window}": Subject(at_window(config, window, _STEP_BYTES)) for window in (_SHORT, _LONG)}
    short, long = subjects
    times = timing.take_turns(subjects, _SECONDS)
    numbers, all_squares = {}, []
    for name, subject in subjects.items():
        slots, in_program = sum(config_lib.slots(subject.config)), arrays(subject.compiled.as_text())
        all_squares += [str(a) for a in squares(in_program, slots, subject.widths)]
        numbers[name] = {
            "bytes_per_second": subject.bytes / times.median(name), "rows": subject.config.training.batch_rows,
            "trunk_slots_per_row": slots, "memory_bytes_per_byte": subject.memory_bytes / subject.bytes,
            "largest_array": str(in_program[0]), "largest_array_bytes": in_program[0].bytes,
        }
    growth = numbers[long]["memory_bytes_per_byte"] / numbers[short]["memory_bytes_per_byte"]
    return Result(
        f"cost against window length, {_STEP_BYTES} bytes per step",
        numbers,
        (
            at_most(f"time per byte at {_LONG} over {_SHORT}", times.ratio(long, short), 1.3),
            at_most(f"memory per byte at {_LONG} over {_SHORT}", growth, 1.05),
            at_most("arrays with two axes as long as the row's slots", len(all_squares), 0),
        ),
        tuple(all_squares),
    )


def at_window(config, window: int, step_bytes: int):
    """`config` with rows of `window` bytes, `step_bytes` of them in a step, on one device."""
    fields = dict.fromkeys(("training.accumulation", "mesh.data", "mesh.fsdp", "mesh.tensor"), 1)
    fields |= {"data.window": window, "training.batch_rows": max(step_bytes // window, 1)}
    return config_lib.from_flat(config_lib.flat(config) | fields)


@dataclasses.dataclass(frozen=True)
class Array:
    """Type and shape of a value in a compiled program, such as f32[8,512,64]."""

    kind: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.kind == "pred" else int(self.kind.lstrip("bfsu"))
        return math.prod(self.shape) * bits // 8

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(map(str, self.shape))}]"


def arrays(text: str) -> list[Array]:
    """Every distinct array in the text of an HLO module, largest first, those inside fusions included."""
    distinct = {Array(kind, tuple(map(int, shape.split(",")))) for kind, shape in _SHAPE.findall(text)}
    return sorted(distinct, key=lambda a: (-a.bytes, a.kind, a.shape))


def squares(arrays: list[Array], length: int, widths: frozenset[int]) -> list[Array]:
    """Arrays with two axes of `length` (a row's slots) or more, the model's own widths not counted, nor two or three of
    them beside each other (`layers.shared`).
    """
    own = {times * n for n in widths for times in (1, 2, 3)}
    return [a for a in arrays if sum(n >= length and n not in own for n in a.shape) >= 2]
