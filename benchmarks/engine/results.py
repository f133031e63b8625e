"""What a run found, as plain values: the JSON document that docs/benchmarks.md describes is these, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.engine.peer import Setting
from benchmarks.engine.recall import Quality

FORMAT = 1
"""Of the document; raised when a field is renamed or removed."""
Status = Literal["measured", "missing", "not built", "failed"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one round. p50_ms, p99_ms: one probe at a time, one thread; queries: how many were timed. busy_cores: CPU time
    over wall time meanwhile, about 1 if the peer kept to one thread."""

    p50_ms: float
    p99_ms: float
    queries: int
    busy_cores: float


@dataclass(slots=True)
class Row:
    """One setting of one peer. labels: what it is (`default`, `exact`), and `>=R` for each recall@1 it was tuned to.

    mated, strangers: against exact search, and rank-1 identification. single: one timing a round. batch_per_second:
    searches a second in batches of 1,024 on all cores, one a round.
    """

    labels: list[str]
    setting: Setting
    mated: Quality
    strangers: Quality
    single: list[Timing] = field(default_factory=list)
    batch_per_second: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes per template above the process that has only imported the library. anonymous: heap, which cannot be taken
    back; mapped: pages of files, which the kernel takes back at need. reopened: just opened; searched: after up to
    1,000 single searches more."""

    reopened_anonymous: float
    reopened_mapped: float
    searched_anonymous: float
    searched_mapped: float


@dataclass(slots=True)
class PeerResult:
    """One peer on one dataset. reason: why it has no rows, where it has none. unreached: targets that no setting on its
    curves reached, with the best recall@1 there was."""

    name: str
    status: Status
    reason: str | None = None
    distribution: str | None = None
    version: str | None = None
    how: str | None = None
    build_seconds: float | None = None
    open_seconds: float | None = None
    disk_bytes: float | None = None
    resident: Resident | None = None
    unreached: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster Facegrid is, round by round (the peer's time over Facegrid's) and the median of rounds."""

    facegrid: str
    peer: str
    peer_row: str
    single: list[float]
    single_median: float
    batch: list[float]
    batch_median: float


@dataclass(slots=True)
class DatasetResult:
    """One gallery. exact_rank1: rank-1 identification of exact search."""

    name: str
    templates: int
    dim: int
    identities: int
    mated_probes: int
    stranger_probes: int
    exact_rank1: float
    seconds: dict[str, float]
    peers: list[PeerResult] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)


@dataclass(slots=True)
class RunResult:
    """The whole document. machine, source: see `benchmarks.engine.machine`. options: as given or defaulted."""

    format: int
    started: str
    seconds: float
    options: dict[str, Any]
    machine: dict[str, Any]
    source: dict[str, Any]
    datasets: list[DatasetResult]
