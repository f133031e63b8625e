"""Finds the fastest setting of a peer that reaches a recall: by galloping along curves, then by the clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from benchmarks.engine.peer import Curve, Setting
from benchmarks.engine.recall import Quality

Measure = Callable[[Setting], Quality]
Clock = Callable[[Setting], float]


class Tuner:
    """Picks settings of one opened peer. Every setting is measured once."""

    def __init__(self, curves: Iterable[Curve], measure: Measure, clock: Clock) -> None:
        """measure: quality by mated probes; clock: milliseconds of one query."""
        self._curves = list(curves)
        self._measure, self._clock = measure, clock
        self._qualities: dict[str, Quality] = {}
        self._times: dict[str, float] = {}

    def quality(self, setting: Setting) -> Quality:
        """Of a setting."""
        key = json.dumps(setting)
        if key not in self._qualities:
            self._qualities[key] = self._measure(setting)
        return self._qualities[key]

    def fastest(self, recall: float) -> Setting | None:
        """The fastest of each curve's first setting with recall@1 >= recall, or None if no curve reaches it."""
        found = self.explore(recall)
        return min(found, key=self._milliseconds) if len(found) > 1 else next(iter(found), None)

    def best_recall(self) -> float:
        """The highest recall@1 seen so far; 0.0 if nothing was measured."""
        return max((quality.recall_1 for quality in self._qualities.values()), default=0.0)

    def explore(self, recall: float) -> list[Setting]:
        """Each curve's first setting with recall@1 >= recall, of those that have one. Needs no quiet machine."""
        return [setting for curve in self._curves if (setting := self._first(curve, recall)) is not None]

    def _first(self, curve: Curve, recall: float) -> Setting | None:
        """Galloping from the cheap end, then bisection; noise may let an earlier one reach it too, by the noise."""
        low, step = 0, 1
        while low + step <= len(curve) and not self._reaches(curve[low + step - 1], recall):
            low, step = low + step, 2 * step
        high = min(low + step - 1, len(curve))
        while low < high:
            middle = (low + high) // 2
            if self._reaches(curve[middle], recall):
                high = middle
            else:
                low = middle + 1
        return curve[low] if low < len(curve) else None

    def _reaches(self, setting: Setting, recall: float) -> bool:
        return self.quality(setting).recall_1 >= recall

    def _milliseconds(self, setting: Setting) -> float:
        key = json.dumps(setting)
        if key not in self._times:
            self._times[key] = self._clock(setting)
        return self._times[key]
