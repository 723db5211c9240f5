"""What a server has done, in the text format of Prometheus (version 0.0.4)."""

import bisect
from collections import Counter as Counts
from collections.abc import Callable, Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counter:
    """Grows, for each value of one label, or without any."""

    def __init__(self, name: str, label: str = "", values: tuple[str, ...] = ()):
        self._name, self._counts = name, Counts(dict.fromkeys([f'{{{label}="{value}"}}' for value in values], 0))
        if not label:
            self._counts[""] = 0

    def add(self, amount: int = 1, **labels: str | int) -> None:
        inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
        self._counts[f"{{{inner}}}" if inner else ""] += amount

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self._name} counter"
        yield from (f"{self._name}{labels} {count}" for labels, count in self._counts.items())


class Histogram:
    """How many of the observed durations, in seconds, are at most each of some bounds."""

    def __init__(self, name: str):
        self._name, self._counts, self._sum = name, [0] * (len(_SECONDS) + 1), 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self._name} histogram"
        total = 0
        for bound, count in zip((*_SECONDS, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{self._name}_bucket{{le="{bound}"}} {total}'
        yield f"{self._name}_sum {self._sum}"
        yield f"{self._name}_count {total}"


class Metrics:
    """All that a server counts. gauges: name to what gives its value now."""

    def __init__(self):
        self.requests = Counter("scratchpatch_requests_total", "status", ("200", "400", "429", "499", "500", "503"))
        self.prompt_bytes = Counter("scratchpatch_prompt_bytes_total")
        self.generated_bytes = Counter("scratchpatch_generated_bytes_total")
        self.trunk_calls = Counter("scratchpatch_trunk_calls_total", "kind", ("commit", "scratchpad"))
        self.first_byte = Histogram("scratchpatch_first_byte_seconds")
        self.per_byte = Histogram("scratchpatch_byte_seconds")
        self.gauges: dict[str, Callable[[], float]] = {}

    def text(self) -> str:
        series = (self.requests, self.prompt_bytes, self.generated_bytes, self.trunk_calls)
        lines = [line for each in (*series, self.first_byte, self.per_byte) for line in each.lines()]
        for name, value in self.gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value()}"]
        return "\n".join(lines) + "\n"
