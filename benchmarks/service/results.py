"""What a run found, as plain values: the JSON document that docs/benchmarks.md describes is these, field by field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.judged import Judged
from benchmarks.service.paced import Paced
from benchmarks.service.wrk import Load

FORMAT = 1
"""Of the document; raised when a field is renamed or removed."""


@dataclass(frozen=True, slots=True)
class SearchLoad:
    """One load on the service. body: media type both ways; queries: probes of one request.

    queries_per_s: probes answered. server_cpu_ms: CPU of the service a query. others_cores: cores that neither the
    service nor the generator used but somebody else on this machine did, meanwhile.
    """

    gallery: str
    k: int
    recall: float
    body: str
    queries: int
    load: Load
    queries_per_s: float
    server_cpu_ms: float
    others_cores: float


@dataclass(frozen=True, slots=True)
class Fairness:
    """Single queries of one tenant at a pace: alone, and beside another's flood of batches.

    flood: what the flooding tenant got; flood_alone_per_s: probes a second when nobody else asks.
    """

    rounds: int
    alone: Paced
    beside: Paced
    flood: Load
    flood_per_s: float
    flood_alone_per_s: float


@dataclass(slots=True)
class PeerResult:
    """One peer. over: `HTTP` or `in process`. status: measured, missing or failed, with the reason.

    figures: None if it has none; see `side.Figures`. exactness: what its index does, in words.
    """

    name: str
    over: str
    exactness: str
    status: str
    versions: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    build_s: float | None = None
    recall_at_10: float | None = None
    figures: dict[str, Any] | None = None


@dataclass(slots=True)
class RunResult:
    """The whole document."""

    format: int
    started: str
    seconds: float
    options: dict[str, Any]
    machine: dict[str, Any]
    source: dict[str, Any]
    load_before: list[float]
    enrolled_per_s: dict[str, float]
    recall: dict[str, float]
    searches: list[SearchLoad] = field(default_factory=list)
    fairness: Fairness | None = None
    galleries: dict[str, Any] | None = None
    peers: list[PeerResult] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
