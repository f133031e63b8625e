"""What the coordinator tells the layers above: galleries, routes, coverage, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shard.drift import Drift
from shard.types import CandidateBatch


@dataclass(frozen=True, slots=True)
class GallerySpec:
    """What a gallery is created with. `embedder`: name of the network whose embeddings it holds, None if unknown.

    replicas: copies of each shard, each on a host of its own. min_in_sync: copies that must have a write before it is
    acknowledged; with fewer in sync, writes are refused.
    """

    name: str
    dim: int
    shards: int
    code_bits: int
    embedder: str | None
    replicas: int = 1
    min_in_sync: int = 1


@dataclass(frozen=True, slots=True)
class GalleryRoute:
    """A gallery and where its shards are. A copy of the catalog, valid for `version`.

    in_sync: for each shard the hosts that have every acknowledged write, the primary first. epochs: for each shard the
    number of its configuration; every change of its primary or of its hosts in sync makes it larger.
    """

    gallery_id: str
    name: str
    dim: int
    code_bits: int
    embedder: str | None
    in_sync: tuple[tuple[str, ...], ...]
    epochs: tuple[int, ...]
    model_id: str | None
    version: int
    replicas: int = 1
    min_in_sync: int = 1

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.in_sync)

    @property
    def hosts(self) -> tuple[str, ...]:
        """For each shard the host of its primary."""
        return tuple(hosts[0] for hosts in self.in_sync)

    def shards_by_host(self) -> dict[str, tuple[int, ...]]:
        """Host name to the shards whose primary it holds, hosts sorted."""
        names = sorted(set(self.hosts))
        return {name: tuple(i for i, host in enumerate(self.hosts) if host == name) for name in names}

    def epochs_of(self, shards: Sequence[int]) -> tuple[int, ...]:
        """The epochs of these shards, in their order."""
        return tuple([self.epochs[shard] for shard in shards])


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """Who holds a shard, as of an epoch. Each change has the next epoch, so that of two answers the newer is known.

    in_sync: the hosts that have every acknowledged write, the primary first, then sorted. joining: hosts that copy the
    shard and do not count for a write yet, sorted.
    """

    gallery_id: str
    shard: int
    epoch: int
    primary: str
    in_sync: tuple[str, ...]
    joining: tuple[str, ...]


UP, DOWN, DRAINING, GONE = "up", "down", "draining", "gone"
HOST_STATES = (UP, DOWN, DRAINING, GONE)
"""Serves; does not answer; serves and is to be emptied; is empty or lost for good and holds nothing any more."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A shard host as the catalog knows it. `state`: one of HOST_STATES. `since`: unix seconds of its last change."""

    host: str
    state: str
    since: float


@dataclass(frozen=True, slots=True)
class ReplicaErasure:
    """What one replica's files still hold of deleted templates.

    is_known: whether the host could be asked. dead_rows: rows whose floats are there. holds_labels: the database may
    hold labels in free pages or in its log. oldest: unix seconds of the oldest deletion of which bytes may be there.
    due: unix seconds by which they are to be gone. None where nothing is held.
    """

    gallery: str
    shard: int
    host: str
    is_in_sync: bool
    is_known: bool
    dead_rows: int
    holds_labels: bool
    oldest: int | None
    due: float | None

    @property
    def is_clean(self) -> bool:
        """Nothing of a deleted template is left, as far as the replica can tell."""
        return self.is_known and self.dead_rows == 0 and not self.holds_labels

    def is_overdue(self, now: float) -> bool:
        """Bytes that were to be gone by now (unix seconds) are there."""
        return self.due is not None and self.due < now


@dataclass(frozen=True, slots=True)
class ErasureBacklog:
    """Replicas whose files hold bytes of deleted templates: how many, and how many beyond the deadline.

    silent_hosts: how many hosts could not be asked.
    """

    held: int
    overdue: int
    silent_hosts: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many shards answered, of how many asked."""

    answered: int
    asked: int

    @property
    def is_complete(self) -> bool:
        """Every shard answered."""
        return self.answered == self.asked


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """Merged candidate lists and the shards they come from."""

    candidates: CandidateBatch
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class EnrollOutcome:
    """How many templates became durable, and how many were there already."""

    enrolled: int
    skipped: int


@dataclass(frozen=True, slots=True)
class TrainReport:
    """A model that is active on every shard, how it was trained, and in how many seconds.

    drift: of the templates that came since the training before; None for the first model or after few templates.
    """

    model_id: str
    templates: int
    sample: int
    seconds: float
    drift: Drift | None = None


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """The last rollout of a gallery: to which model, from which (None is exact search), and how far it is.

    state: preparing, activating, done, rolling_back or rolled_back. replicas: copies of shards that take part, of which
    `prepared` have the model's codes and `activated` are searched by the model that the state says. error: why it does
    not go on, or was rolled back. started_at, updated_at: seconds since 1970.
    """

    gallery: str
    model_id: str | None
    previous_model_id: str | None
    state: str
    replicas: int
    prepared: int
    activated: int
    error: str | None
    started_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class ModelData:
    """A SearchModel: id, bytes, and how many templates its gallery had when it was trained."""

    model_id: str
    data: bytes
    templates: int
