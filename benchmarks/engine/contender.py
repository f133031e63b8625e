"""One peer on one dataset, from build to last timing: what the parent does with its processes, and its `PeerResult`.

A contender that is missing, not built or failed says so in its result and takes no further part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.engine.datasets import Dataset
from benchmarks.engine.options import Options
from benchmarks.engine.peer import Setting
from benchmarks.engine.process import PeerFailed, PeerMissing, PeerProcess, Reply
from benchmarks.engine.recall import Quality, mated_quality, stranger_quality
from benchmarks.engine.results import PeerResult, Resident, Row, Status, Timing
from benchmarks.engine.tuning import Tuner

_QUICK_SECONDS = 0.05  # of the clock that decides between curves
_MEMORY_SECONDS = 0.5  # of searching, before resident bytes are read
_GRACE_SECONDS = 60.0  # for a build that heeds the budget itself, to save and to answer
_PILOT_SHARE = 8


class Contender:
    """Drives one peer through the phases of `benchmarks.engine.run`."""

    def __init__(self, name: str, target: str, dataset: Dataset, options: Options, cores: int) -> None:
        self.result = PeerResult(name, "measured")
        self._target, self._dataset, self._options, self._cores = target, dataset, options, cores
        self._folder = dataset.folder / f"index-{name}"
        self._process: PeerProcess | None = None
        self._opened: Reply = {}
        self.default_recall: float | None = None

    @property
    def is_in(self) -> bool:
        """Whether it still takes part."""
        return self.result.status == "measured"

    def attempt(self, phase: Callable[..., None], *arguments: Any) -> None:
        """Run one of its phases; if the peer fails there, it is out, and the result says why."""
        if not self.is_in:
            return
        try:
            phase(*arguments)
        except PeerMissing as error:
            self._out("missing", str(error))
        except PeerFailed as error:
            self._out("failed", str(error))

    def _out(self, status: Status, reason: str) -> None:
        self.result.status, self.result.reason = status, reason
        self.close()

    def build(self) -> None:
        """Build and save in a process of its own, on all cores."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        limit = self._options.max_build_seconds
        with PeerProcess(self._target, self._dataset.folder, self._folder, self._cores) as process:
            hello = process.hello()
            self.result.distribution, self.result.version = hello["distribution"], hello["version"]
            self.result.how = hello["how"]
            try:
                built = process.ask(
                    "build", max_seconds=limit, timeout=limit + _GRACE_SECONDS * hello["is_incremental"]
                )
            except TimeoutError:
                built = {"too_slow": self._pilot(limit)}
        if "too_slow" in built:
            slow = built["too_slow"]
            took = f"n={slow['rows']:,}, which took {slow['seconds']:.0f} s"
            self._out("not built", f"would take about {slow['would_take']:,.0f} s (extrapolated from {took})")
            return
        self.result.build_seconds = built["seconds"]
        self.result.disk_bytes = built["disk_bytes"] / len(self._dataset.rows)

    def _pilot(self, limit: float) -> Reply:
        """What a build that had to be stopped would take, from one of an eighth of the rows."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        rows = len(self._dataset.rows) // _PILOT_SHARE
        with PeerProcess(self._target, self._dataset.folder, self._folder, self._cores) as process:
            try:
                seconds = process.ask("build", max_seconds=limit, rows=rows, timeout=limit)["seconds"]
            except TimeoutError:
                raise PeerFailed(f"build: stopped after {limit:.0f} s, and so was one of {rows:,} rows") from None
        return {"rows": rows, "seconds": seconds, "would_take": max(limit, seconds * _PILOT_SHARE)}

    def start(self, threads: int) -> None:
        """Start the fresh process that `open` and all searches go to."""
        self._process = PeerProcess(self._target, self._dataset.folder, self._folder, threads)

    def open(self) -> None:
        """Open what was built; keep what is resident and the settings there are."""
        assert self._process is not None
        self._opened = self._process.ask("open")
        self.result.open_seconds = self._opened["seconds"]

    def close(self) -> None:
        """Stop the process that searches. Idempotent."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def remove(self) -> None:
        """Delete what was built."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def measure_default(self) -> None:
        """Find recall@1 of the peer's default setting."""
        self.default_recall = self._measure({}).recall_1

    def explore(self, targets: Sequence[float]) -> None:
        """Measure the recalls that `tune` will ask for. No clock is read, so peers may do it side by side."""
        self._tuner = Tuner(self._opened["curves"], self._measure, self._clock)
        for setting in self._opened["fixed"].values():
            self._tuner.quality(setting)
        for target in targets:
            self._tuner.explore(target)

    def tune(self, targets: Sequence[float]) -> None:
        """Make the rows: the fixed settings, and the fastest that reaches each target. After `explore`."""
        tuner = self._tuner
        for label, setting in self._opened["fixed"].items():
            self._add_row(label, setting, tuner.quality(setting))
        if not self._opened["curves"]:
            return
        for target in targets:
            setting = tuner.fastest(target)
            if setting is None:
                self.result.unreached[tuned_label(target)] = tuner.best_recall()
            else:
                self._add_row(tuned_label(target), setting, tuner.quality(setting))

    def _add_row(self, label: str, setting: Setting, mated: Quality) -> None:
        for row in self.result.rows:
            if row.setting == setting:
                row.labels.append(label)
                return
        strangers = stranger_quality(self._dataset, self._answers("strangers", setting))
        self.result.rows.append(Row([label], setting, mated, strangers))

    def _measure(self, setting: Setting) -> Quality:
        return mated_quality(self._dataset, self._answers("mated", setting))

    def _clock(self, setting: Setting) -> float:
        return float(self._ask("latency", setting, seconds=_QUICK_SECONDS)["p50_ms"])

    def _answers(self, probes: str, setting: Setting) -> np.ndarray:
        return np.array(self._ask("answers", setting, probes=probes)["rows"], dtype=np.int64)

    def _ask(self, do: str, setting: Setting, **arguments: Any) -> Reply:
        assert self._process is not None
        return self._process.ask(do, setting=setting, k=self._options.k, **arguments)

    def time_single(self) -> None:
        """One round of single queries for every row."""
        for row in self.result.rows:
            row.single.append(Timing(**self._ask("latency", row.setting, seconds=self._options.timing_seconds)))

    def time_batch(self) -> None:
        """One round of batches for every row."""
        for row in self.result.rows:
            timed = self._ask("batch", row.setting, seconds=self._options.timing_seconds)
            row.batch_per_second.append(timed["per_second"])

    def measure_resident(self) -> None:
        """Bytes per template of the process just opened, and after single searches of the last row's setting."""
        assert self._process is not None
        last = self.result.rows[-1].setting
        self._ask("latency", last, seconds=_MEMORY_SECONDS)
        now = self._process.ask("resident")
        self.result.resident = Resident(
            *(
                (state[kind] - self._opened["empty"][kind]) / len(self._dataset.rows)
                for state in (self._opened["resident"], now)
                for kind in ("anonymous", "mapped")
            )
        )


def tuned_label(recall: float) -> str:
    """How a row tuned to a recall@1 is called."""
    return f">={recall:g}"
