"""What the recall study trains: variants, shapes of documents, learning rates."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant on documents of one shape, with one or several learning rates."""

    variant: str
    pairs: int = 6
    distance: int = 0
    rates: tuple[float, ...] = (1e-3,)

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.pairs}-{self.distance}"

    def lanes(self, seeds: Sequence[str]) -> list[str]:
        """As `experiments.recall.worker` reads them."""
        return [f"{seed},{self.pairs},{self.distance},{rate}" for rate in self.rates for seed in seeds]


# The second one is that of the trial in which pooling seemed to hide what scratchpads give.
_BOTH = (1e-3, 3e-3)
GRID = (
    Cell("byte", rates=_BOTH),
    Cell("p3_none_cross+last"),
    Cell("p3_every_cross+last", rates=_BOTH),
    Cell("p3_every_cross", rates=_BOTH),
    Cell("p3_every_last", rates=_BOTH),
    Cell("p4_none_cross+last"),
    Cell("p4_every_cross+last"),
    Cell("p8_none_cross+last"),
    Cell("p8_stride_cross+last"),
    Cell("p8_stride_concat"),
    Cell("p8_entropy_cross+last"),
    Cell("p8_entropy_concat"),
    Cell("p8_keys_cross+last"),
    Cell("p8_keys_concat"),
    Cell("p8_every_cross+last"),
    Cell("p8_every_last"),
    Cell("p8_every_max+last"),
    Cell("p8_every_concat"),
    Cell("p16_none_cross+last"),
    Cell("p16_every_cross+last"),
    Cell("p16_every_concat"),
    Cell("byte", pairs=12),
    Cell("p8_every_cross+last", pairs=12),
    Cell("p8_every_concat", pairs=12),
    Cell("byte", distance=64),
    Cell("p8_every_cross+last", distance=64),
    Cell("p8_every_concat", distance=64),
)
