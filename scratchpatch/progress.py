"""How far a long piece of work is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import collections
import math
import sys
import time
from collections.abc import Callable

from absl import logging
from tqdm import tqdm

from scratchpatch import output

_LINE_SECONDS, _LINE_SHARE = 10.0, 0.05
# The rate is that of the last so many seconds, sampled this often: a validation shows in it, and passes.
_RATE_SECONDS, _SAMPLE_SECONDS = 30.0, 0.5


class Progress:
    """Shows position, bytes a second, loss in BPB, and time left of work of `total` units, `first` of them done before.

    On a terminal a bar on standard error; elsewhere log lines: the first at once, then one every ten seconds or every
    twentieth of the work, whichever is rarer. Use it as a context manager; leaving it logs a summary. unit: "B" where
    units are bytes. shown: False says nothing: of several processes one is enough. moved: called by each `advance`;
    what it raises is raised there.
    """

    def __init__(
        self, total: int, first: int = 0, label: str = "training", unit: str = "steps", shown: bool = True,
        moved: Callable[[], None] = lambda: None,
    ):
        self._total, self._first, self._done = total, first, first
        self._label, self._unit, self._shown, self._moved = label, unit, shown, moved
        self._bytes, self._start = 0, time.monotonic()
        self._bpb: float | None = None
        self._samples: collections.deque[tuple[float, int, int]] = collections.deque()
        self._line_time = self._line_done = -math.inf
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total, initial=self._first, desc=output.escaped(self._label), file=sys.stderr,
                dynamic_ncols=True, unit_scale=self._unit == "B",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()
        if not self._shown:
            return
        seconds = time.monotonic() - self._start
        rate = f", {_speed(self._bytes / seconds)}" if self._bytes and seconds else ""
        state = "done" if self._done >= self._total else "stopped"
        logging.info("%s %s: %s%s in %s%s", self._label, state, self._position(), rate, _clock(seconds), self._loss())

    def advance(self, units: int, byte_count: int, bpb: float | None = None) -> None:
        """Count `units` as done, `byte_count` bytes among them; `bpb`: their loss in bits per byte, or None."""
        self._moved()
        self._done += units
        self._bytes += byte_count
        self._bpb = self._bpb if bpb is None else bpb
        now = time.monotonic()
        self._show(units, now)
        # The first sample is taken here, not at the start: what came before is mostly compilation.
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self._bytes, self._done))
        while len(self._samples) > 1 and self._samples[0][0] < now - _RATE_SECONDS:
            self._samples.popleft()

    def _show(self, units: int, now: float) -> None:
        """Draw the bar or log a line, where it is time to. What they say is made only then: steps may take less."""
        if self._bar is not None:
            if now - self._line_time >= self._bar.mininterval:
                self._line_time = now
                self._bar.set_postfix_str(self._measures(now).removeprefix(", "), refresh=False)
            self._bar.update(units)
            return
        far_enough = self._done - self._line_done >= _LINE_SHARE * (self._total - self._first)
        if self._shown and far_enough and now - self._line_time >= _LINE_SECONDS:
            self._line_time, self._line_done = now, self._done
            logging.info("%s: %s%s", self._label, self._position(), self._measures(now))

    def note(self, text: str) -> None:
        """Log a line without breaking the bar."""
        if self._bar is not None:
            self._bar.clear()
        logging.info("%s", text)
        if self._bar is not None:
            self._bar.refresh()

    def _position(self) -> str:
        share = 100 * self._done / self._total if self._total else 100
        return f"{self._done}/{self._total} {self._unit} ({share:.0f}%)"

    def _loss(self) -> str:
        return "" if self._bpb is None else f", {self._bpb:.3f} BPB"

    def _measures(self, now: float) -> str:
        """Loss, rate and time left, as far as they are known; each after a comma."""
        if not self._samples:
            return self._loss()
        since, bytes_before, done_before = self._samples[0]
        seconds = max(now - since, 1e-9)
        measures = f"{self._loss()}, {_speed((self._bytes - bytes_before) / seconds)}"
        if self._done > done_before:
            left = (self._total - self._done) * seconds / (self._done - done_before)
            measures += f", {_clock(left)} left"
        return measures


def _speed(bytes_per_second: float) -> str:
    slow = bytes_per_second < 1000
    return f"{bytes_per_second:.0f} B/s" if slow else f"{bytes_per_second / 1e3:.1f} kB/s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
