"""What the Python API gives back: frozen values, and nothing that needs the cluster to be open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.types import Coverage
from shard.types import FloatArray


@dataclass(frozen=True, slots=True)
class Box:
    """A face in pixels of the upright image: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class EnrollResult:
    """Ids of the batch in its order; how many became durable now, and how many were there already."""

    template_ids: tuple[str, ...]
    enrolled: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A photo that was not enrolled: its path, a stable reason, and what was found."""

    path: Path
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What became of a folder: photos seen, templates enrolled and skipped (there already), refusals in path order."""

    photos: int
    enrolled: int
    skipped: int
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class SearchBatch:
    """Candidates of n probes, best first: by score descending, ties by template key.

    template_ids, identities: n rows of up to k. scores: (n, k) float32 cosine, NaN where a row is shorter than k.
    coverage: shards that answered, of those asked. threshold: the one that was used, given or from the gallery's
    calibration; None if there was none.
    """

    template_ids: tuple[tuple[str, ...], ...]
    scores: FloatArray
    identities: tuple[tuple[str | None, ...], ...]
    coverage: Coverage
    threshold: float | None = None

    def __len__(self) -> int:
        """Number of probes."""
        return len(self.template_ids)


@dataclass(frozen=True, slots=True)
class RangeBatch:
    """Every template within a threshold of n probes, in the order of SearchBatch.

    template_ids, identities: n rows. scores: (n, m) float32 cosine, m the longest row, NaN where a row is shorter.
    is_truncated: for each probe whether the limit was reached, so that there may be more.
    """

    template_ids: tuple[tuple[str, ...], ...]
    scores: FloatArray
    identities: tuple[tuple[str | None, ...], ...]
    is_truncated: tuple[bool, ...]
    coverage: Coverage

    def __len__(self) -> int:
        """Number of probes."""
        return len(self.template_ids)


@dataclass(frozen=True, slots=True)
class IdentityVerification:
    """Whether a probe is an identity's: its best cosine among that identity's templates, and of which one."""

    score: float
    threshold: float
    is_match: bool
    template_id: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One template found: cosine score, labels, and its metadata."""

    score: float
    template_id: str
    identity: str | None
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Candidates for one face of an image, best first; iterates over them. threshold: as in `SearchBatch`."""

    face: Box
    candidates: tuple[Candidate, ...]
    coverage: Coverage
    threshold: float | None = None

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, position: int) -> Candidate:
        return self.candidates[position]


@dataclass(frozen=True, slots=True)
class Template:
    """A stored template's labels and metadata."""

    template_id: str
    identity: str | None
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TemplatePage:
    """Templates of one page of a listing, and the cursor of the next one; None after the last."""

    templates: tuple[Template, ...]
    cursor: str | None

    def __len__(self) -> int:
        return len(self.templates)

    def __iter__(self) -> Iterator[Template]:
        return iter(self.templates)


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether two images show the same person: cosine score of their largest faces against a threshold."""

    score: float
    threshold: float
    is_match: bool
    face_a: Box
    face_b: Box


@dataclass(frozen=True, slots=True)
class GalleryStats:
    """A gallery's size: live templates, rows deleted but not compacted, bytes of codes in memory, bytes on disk.

    Sizes are those of one replica of each shard. hosts: those that have a replica in sync. replicas, min_in_sync: as
    at creation. in_sync: how many replicas are in sync of the shard that has the fewest.
    """

    name: str
    dim: int
    shards: int
    templates: int
    deleted: int
    code_bits: int
    code_bytes: int
    disk_bytes: int
    embedder: str | None
    model_id: str | None
    hosts: tuple[str, ...]
    replicas: int
    min_in_sync: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A shard host: what the home's catalog says of it, and what this process has observed.

    state: one of `coordinator.types.HOST_STATES`; since: unix seconds of its last change. replicas: shards it holds or
    copies; primaries: those whose writes it leads. p95_ms, breaker ("closed", "open", "half_open"), failures and
    hedges are of the reads of this process, None where it has asked the host for none; p95_ms also before there are
    enough of them (see `coordinator.health`).
    """

    host: str
    state: str
    since: float
    replicas: int
    primaries: int
    p95_ms: float | None
    breaker: str | None
    failures: int | None
    hedges: int | None


@dataclass(frozen=True, slots=True)
class ShardReplicas:
    """Who holds a shard, as of an epoch.

    in_sync: the hosts that have every acknowledged write, the primary first. joining: those that copy the shard and do
    not count yet. wanted: replicas that the gallery asks for.
    """

    gallery: str
    shard: int
    epoch: int
    primary: str
    in_sync: tuple[str, ...]
    joining: tuple[str, ...]
    wanted: int

    @property
    def missing(self) -> int:
        """Replicas that the shard lacks; 0 where it has all, or more for a while because one moves."""
        return max(0, self.wanted - len(self.in_sync))


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot in a few words. size: bytes of its objects, shared ones included; times in UTC as in its manifest."""

    snapshot_id: str
    gallery: str
    created_at: str
    expires_at: str | None
    templates: int
    shards: int
    dim: int
    embedder: str | None
    model_id: str | None
    size: int
