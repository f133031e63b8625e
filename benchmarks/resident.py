"""Resident bytes of this process, read exactly. Imports nothing, so that it may measure a process that has nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of a process: all resident, of that heap and stacks, and of that mapped files."""

    total: int
    anonymous: int
    mapped: int


def resident() -> Resident:
    """This process now, from /proc/self/smaps_rollup (exact, where /proc/self/status is batched)."""
    fields: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) * 1024
    return Resident(fields["Rss"], fields["Anonymous"], fields["Rss"] - fields["Anonymous"])
