"""What a router or coordinator asks of a shard host, and what the host answers.

Every request is executed by `ShardHost.execute`. Data requests travel over the data plane (`frames.py`), control
requests as Ray actor calls; in one process both are plain calls. A failure is a `FacegridError`, raised by the channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from shard.types import (
    CandidateBatch,
    EnrollBatch,
    EnrollReceipt,
    FloatArray,
    IdentityCount,
    SearchParams,
    ShardStats,
    TemplateRecord,
)

# --- data plane ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Search these shards of a gallery, all on one host. probes: (n, dim) float32, unit norm."""

    gallery_id: str
    shards: tuple[int, ...]
    probes: FloatArray
    params: SearchParams


@dataclass(frozen=True, slots=True)
class SearchReply:
    """The k best of all shards asked, which shards they were, and the one model that found them, None for no model."""

    candidates: CandidateBatch
    shards: tuple[int, ...]
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """Write templates to one shard. `skip_existing`: leave out ids that are there, instead of DuplicateTemplate."""

    gallery_id: str
    shard: int
    batch: EnrollBatch
    skip_existing: bool


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Delete by template id and by identity; ids that are not there are no error."""

    gallery_id: str
    shards: tuple[int, ...]
    template_ids: tuple[str, ...]
    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteReply:
    """How many templates the request deleted, durably."""

    deleted: int


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """Labels and metadata of the templates that are there, by id, in no particular order."""

    gallery_id: str
    shards: tuple[int, ...]
    template_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordsReply:
    """One record for each id found."""

    records: tuple[TemplateRecord, ...]


@dataclass(frozen=True, slots=True)
class IdentitiesRequest:
    """Up to `limit` identities from `start` on, it included, in byte order of their UTF-8 ("" for the first page)."""

    gallery_id: str
    shards: tuple[int, ...]
    start: str
    limit: int


@dataclass(frozen=True, slots=True)
class IdentitiesReply:
    """Identities in byte order of their UTF-8; an identity lives in one shard only."""

    identities: tuple[IdentityCount, ...]


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """Seal the open tails of these shards."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """Sizes of these shards."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsReply:
    """One entry a shard, in the order asked."""

    stats: tuple[ShardStats, ...]


# --- control ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateShard:
    """Create an empty shard. One that exists empty with the same dimension is left as it is (a repeated call)."""

    gallery_id: str
    shard: int
    dim: int


@dataclass(frozen=True, slots=True)
class OpenShards:
    """Open these shards, which the host must have; CorruptData if one is missing."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropGallery:
    """Close and remove all shards of the gallery on this host, files included."""

    gallery_id: str


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Up to `rows` live embeddings drawn at random without replacement from these shards together."""

    gallery_id: str
    shards: tuple[int, ...]
    rows: int
    seed: int


@dataclass(frozen=True, slots=True)
class SampleRecent:
    """Up to `rows` live embeddings, as many of each of these shards, of those with a later LSN than `since` tells.

    since: one LSN a shard, in the order asked.
    """

    gallery_id: str
    shards: tuple[int, ...]
    rows: int
    seed: int
    since: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampleReply:
    """embeddings: (rows, dim) float32; `templates`: live templates that the sample was drawn from."""

    embeddings: FloatArray
    templates: int


@dataclass(frozen=True, slots=True)
class PrepareModel:
    """Encode every sealed row of these shards with the model, beside the codes in use. Repeatable; searches go on.

    model: what `SearchModel.to_bytes` gives. The host keeps it until `DiscardModels`.
    """

    gallery_id: str
    shards: tuple[int, ...]
    model: bytes


@dataclass(frozen=True, slots=True)
class ActivateModel:
    """Search these shards with a model that the host has, all from one moment on; None for exact searches. Repeatable.

    UnknownModel if the host has no such model; a shard that was not prepared is prepared first.
    """

    gallery_id: str
    shards: tuple[int, ...]
    model_id: str | None


@dataclass(frozen=True, slots=True)
class DiscardModels:
    """Remove codes of these shards by other models than those kept and the active one, and models nobody needs."""

    gallery_id: str
    shards: tuple[int, ...]
    keep: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelsRequest:
    """By which model each of these shards is searched."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelsReply:
    """One entry a shard, in the order asked; None for a shard that is searched exactly."""

    model_ids: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The request was carried out and there is nothing more to say."""


DataRequest: TypeAlias = (
    SearchRequest | EnrollRequest | DeleteRequest | RecordsRequest | IdentitiesRequest | FlushRequest | StatsRequest
)
ControlRequest: TypeAlias = (
    CreateShard
    | OpenShards
    | DropGallery
    | SampleRows
    | SampleRecent
    | PrepareModel
    | ActivateModel
    | DiscardModels
    | ModelsRequest
)
Request: TypeAlias = DataRequest | ControlRequest
Reply: TypeAlias = (
    SearchReply
    | EnrollReceipt
    | DeleteReply
    | RecordsReply
    | IdentitiesReply
    | StatsReply
    | SampleReply
    | ModelsReply
    | Done
)
