"""Whose the processor was while something was measured: the service's, or somebody's who has nothing to do with it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU seconds so far: of the machine, and of one process with its threads; and when."""

    at: float
    machine_s: float
    process_s: float

    @classmethod
    def of(cls, pid: int) -> Moment:
        """Now. OSError if the process is gone."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, nice, system, _idle, _wait, irq, soft = (int(x) for x in _machine()[:7])
        return cls(
            time.perf_counter(),
            (user + nice + system + irq + soft) / _TICK,
            (int(fields[11]) + int(fields[12])) / _TICK,
        )


def _machine() -> list[str]:
    return Path("/proc/stat").read_text().splitlines()[0].split()[1:]


def others_cores(before: Moment, after: Moment, ours_s: float) -> float:
    """Cores that were used between two moments by anything but the process and what else was ours (CPU seconds)."""
    ours = after.process_s - before.process_s + ours_s
    return max(0.0, (after.machine_s - before.machine_s - ours) / (after.at - before.at))
