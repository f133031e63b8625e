"""What a router or coordinator asks of a shard host, and what the host answers.

Every request is executed by `ShardHost.execute`. Data requests travel over the data plane (`frames.py`), control
requests as Ray actor calls; in one process both are plain calls. A failure is a `FacegridError`, raised by the channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from coordinator.types import ShardConfig
from shard.export import ExportedRows, MovedRange, RowRange, ShardPoint
from shard.log import Changes, Entry, Position, SegmentState
from shard.types import (
    CandidateBatch,
    EnrollBatch,
    EnrollReceipt,
    ErasureState,
    FloatArray,
    IdentityCount,
    IdentityDraw,
    KeyArray,
    SearchParams,
    ShardStats,
    TemplateRecord,
)

# --- data plane ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Search these shards of a gallery, all on one host. probes: (n, dim) float32, unit norm.

    epochs, here and in the other reads: for each of `shards` the epoch of the route that the request was made from; a
    replica of another epoch answers StaleRoute.
    """

    gallery_id: str
    shards: tuple[int, ...]
    probes: FloatArray
    params: SearchParams
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SearchReply:
    """The k best of all shards asked, which shards they were, and the one model that found them, None for no model.

    has_departures, here and in the replies to other reads: templates have left one of the shards for another while the
    read may have been under way; see `Shard.has_fresh_departures`.
    """

    candidates: CandidateBatch
    shards: tuple[int, ...]
    model_id: str | None = None
    has_departures: bool = False


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """Write templates to one shard, at its primary. `skip_existing`: leave out ids that are there.

    epoch: the configuration of the shard that the caller knows; another one is StaleRoute. operation: 16 random bytes
    of this write, the same when it is repeated, so that it is done once.
    """

    gallery_id: str
    shard: int
    epoch: int
    operation: bytes
    batch: EnrollBatch
    skip_existing: bool


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Delete by template id and by identity, at the primaries; ids that are not there are no error.

    epochs: of each shard; operation: as in EnrollRequest.
    """

    gallery_id: str
    shards: tuple[int, ...]
    epochs: tuple[int, ...]
    operation: bytes
    template_ids: tuple[str, ...]
    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteReply:
    """How many templates the request deleted, durably.

    has_departures: templates have left one of the shards for another lately, or may have; see `Shard.has_departures`.
    """

    deleted: int
    has_departures: bool = False


@dataclass(frozen=True, slots=True)
class AmendRequest:
    """Give templates other metadata, at the primaries: entry i of `metadata` to id i; other ids are no error.

    epochs: of each shard; operation: as in EnrollRequest.
    """

    gallery_id: str
    shards: tuple[int, ...]
    epochs: tuple[int, ...]
    operation: bytes
    template_ids: tuple[str, ...]
    metadata: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class AmendReply:
    """How many of the templates are there and have their labels now, durably. has_departures: as in DeleteReply."""

    amended: int
    has_departures: bool = False


@dataclass(frozen=True, slots=True)
class RenameRequest:
    """Give up to `limit` templates of an identity another one, in one shard, at its primary; an AmendReply answers."""

    gallery_id: str
    shard: int
    epoch: int
    operation: bytes
    identity: str
    into: str
    limit: int


@dataclass(frozen=True, slots=True)
class MoveOutRequest:
    """Delete templates of an identity that another shard has by now, and tell the next, at the primary; an ExportedRows
    answers. See `Shard.move_out`."""

    gallery_id: str
    shard: int
    epoch: int
    operation: bytes
    identity: str
    departed: tuple[str, ...]
    hold_s: float
    limit: int


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    """Labels and metadata of the templates that are there, by id, in no particular order."""

    gallery_id: str
    shards: tuple[int, ...]
    template_ids: tuple[str, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecordsReply:
    """One record for each id found."""

    records: tuple[TemplateRecord, ...]
    has_departures: bool = False


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Claim ids that one shard keeps by their template keys (n,) uint64, at its primary: all of them or none.

    token: 16 random bytes of this claim, the same when it is repeated. hold_s: how long it holds if it is not given
    back. See `coordinator.claims`.
    """

    gallery_id: str
    shard: int
    epoch: int
    token: bytes
    keys: KeyArray
    hold_s: float


@dataclass(frozen=True, slots=True)
class ClaimReply:
    """Whether the ids are the claimant's; if not, somebody else has one of them."""

    is_granted: bool


@dataclass(frozen=True, slots=True)
class GiveBackRequest:
    """End a claim at the primary of one shard."""

    gallery_id: str
    shard: int
    epoch: int
    token: bytes


@dataclass(frozen=True, slots=True)
class GiveBackReply:
    """Whether the claim held until now: nobody else could have one of its ids."""

    was_held: bool


@dataclass(frozen=True, slots=True)
class IdentitiesRequest:
    """Up to `limit` identities from `start` on, it included, in byte order of their UTF-8 ("" for the first page)."""

    gallery_id: str
    shards: tuple[int, ...]
    start: str
    limit: int
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IdentitiesReply:
    """Identities in byte order of their UTF-8; an identity lives in one shard only."""

    identities: tuple[IdentityCount, ...]


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Up to `limit` template ids after one ("" for the first) in listing order, see `shard.keys`.

    identity: of this one only; None for all.
    """

    gallery_id: str
    shards: tuple[int, ...]
    after: str
    limit: int
    identity: str | None
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ListReply:
    """Template ids of all shards asked, in listing order, each once."""

    template_ids: tuple[str, ...]
    has_departures: bool = False


@dataclass(frozen=True, slots=True)
class FlushRequest:
    """Seal the open tails of these shards, at their primaries. epochs: of each shard."""

    gallery_id: str
    shards: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """Sizes of these shards."""

    gallery_id: str
    shards: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsReply:
    """One entry a shard, in the order asked."""

    stats: tuple[ShardStats, ...]


@dataclass(frozen=True, slots=True)
class PointRequest:
    """The moment and the layout of one shard, to export its rows; the answer is a `ShardPoint`.

    This and exports are answered by the primary of that epoch alone, StaleRoute by anybody else.
    """

    gallery_id: str
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A piece of a range of one shard's rows; nothing but its fingerprint where that is `known` (empty: none is).

    The answer is an `ExportedRows` of at most 16 MiB of floats and about as much of labels.
    """

    gallery_id: str
    shard: int
    epoch: int
    rows: RowRange
    known: bytes


@dataclass(frozen=True, slots=True)
class ExportMovedRequest:
    """A piece of what compaction has moved in one shard since its point was taken; the answer is an `ExportedRows`."""

    gallery_id: str
    shard: int
    epoch: int
    moved: MovedRange


# --- between hosts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplicateRequest:
    """A primary's entries for one backup, in their order; none, to ask how far the backup is."""

    gallery_id: str
    shard: int
    epoch: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class AbsorbRequest:
    """A piece of the primary's state for a replica that lacks more than entries; see `shard.catchup`."""

    gallery_id: str
    shard: int
    epoch: int
    changes: Changes


@dataclass(frozen=True, slots=True)
class RestartRequest:
    """The replica's past is not the primary's: give up everything that it has, and begin from nothing."""

    gallery_id: str
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ProgressReply:
    """How far a replica is: its position and the LSN up to which it knows every deletion."""

    position: Position
    settled_lsn: int


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """Float rows first <= row < last of one shard, dead ones too: what a damaged replica is mended with."""

    gallery_id: str
    shard: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RowsReply:
    """embeddings: (n, dim) float32."""

    embeddings: FloatArray


@dataclass(frozen=True, slots=True)
class DigestRequest:
    """What replicas compare: one shard's position, segments and records."""

    gallery_id: str
    shard: int


@dataclass(frozen=True, slots=True)
class DigestReply:
    """A shard's position, its segments with the checksums of their floats, and a digest of its live records."""

    position: Position
    segments: tuple[SegmentState, ...]
    records: int
    templates: int


@dataclass(frozen=True, slots=True)
class BeaconRequest:
    """A host asks another to go on counting on it: `digest` is of the shards that it thinks both hold, and of their
    epochs; where the other has another digest, the host repeats it with all of them.
    """

    host: str
    digest: int
    galleries: tuple[str, ...]
    shards: tuple[int, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BeaconReply:
    """is_granted: the host may answer reads of what it named for another LEASE_S, but for `stale` (numbers in it)."""

    is_granted: bool
    stale: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """Is the host there, and how are these shards of it? Answered beside everything else. ("", ()): the host only."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShardHealth:
    """One shard on a host. epoch: the configuration it works under, 0 for none yet. fault: why it refuses writes or
    cannot be read, "" if nothing is wrong. is_catching_up: it is in the middle of it. unconfirmed: at a primary, the
    hosts that did not confirm a write, or are not heard any more.
    """

    gallery_id: str
    shard: int
    epoch: int
    lsn: int
    fault: str
    is_catching_up: bool
    unconfirmed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HealthReply:
    """incarnation: another number after each start of the host. shards: those asked for, and those in trouble."""

    host: str
    incarnation: int
    shards: tuple[ShardHealth, ...]


# --- control ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateShard:
    """Create an empty shard. One that exists empty with the same dimension is left as it is (a repeated call)."""

    gallery_id: str
    shard: int
    dim: int
    is_encrypted: bool = False


@dataclass(frozen=True, slots=True)
class SetKeys:
    """The data keys of every tenant that has one; the host keeps them in memory and forgets all others."""

    tenant_ids: tuple[str, ...]
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfigureShards:
    """The configurations of shards that this host has. An older one than known is passed over.

    min_in_sync: of the gallery of each. Every replica answers reads and writes only under the configuration it was
    told last; one that has no part in it answers none. released: hosts that have given these shards up, or were told
    that they have no part in them, so that nobody waits until they must have noticed. They may be told later, under the
    same epochs.
    """

    configs: tuple[ShardConfig, ...]
    min_in_sync: tuple[int, ...]
    released: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfiguredReply:
    """For each configuration "", or why the shard cannot be opened: it is missing, or damaged."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeatRequest:
    """Which shards of the host are at hand?"""


@dataclass(frozen=True, slots=True)
class HeatReply:
    """The gallery of each shard that is open, and `hot` or `warm`; all others are cold. See `coordinator.heat`."""

    galleries: tuple[str, ...]
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InventoryRequest:
    """Which shards have a directory on the host, whoever is thought to hold them."""


@dataclass(frozen=True, slots=True)
class InventoryReply:
    """Gallery id and number of each."""

    galleries: tuple[str, ...]
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetPeers:
    """Where the data ports of the other hosts are: address and port of each."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...]
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AdmitReplica:
    """To the primary: bring this host's replica level, and from then on confirm no write without it."""

    gallery_id: str
    shard: int
    epoch: int
    host: str


@dataclass(frozen=True, slots=True)
class YieldShards:
    """To the primary of these shards: begin no write to them for `for_s` seconds, or until they are configured anew,
    and have all that were begun confirmed. epochs: under which it is primary. for_s: 0 for an end of such a pause.
    """

    gallery_ids: tuple[str, ...]
    shards: tuple[int, ...]
    epochs: tuple[int, ...]
    for_s: float


@dataclass(frozen=True, slots=True)
class YieldReply:
    """For each shard the LSN of its last entry, which all in sync have; -1 where it goes on writing."""

    lsns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropShard:
    """Close and remove one shard of this host, files included, unless it knows a later configuration than `epoch`."""

    gallery_id: str
    shard: int
    epoch: int


@dataclass(frozen=True, slots=True)
class CompactShards:
    """To the primaries: give up segments in which more than this share of rows is dead; see `shard.compaction`."""

    gallery_id: str
    shards: tuple[int, ...]
    least_dead: float


@dataclass(frozen=True, slots=True)
class ScrubShards:
    """To any replica: leave no byte of deleted labels in these shards' databases."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """Which bytes of deleted templates these shards' files still hold, on this host."""

    gallery_id: str
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ErasureReply:
    """One entry a shard, in the order asked."""

    states: tuple[ErasureState, ...]


@dataclass(frozen=True, slots=True)
class BuriedRequest:
    """Which shards of the host still hold bytes of deleted templates?"""


@dataclass(frozen=True, slots=True)
class BuriedReply:
    """Gallery id and number of each, and the unix seconds of its oldest deletion whose bytes may be there."""

    galleries: tuple[str, ...]
    shards: tuple[int, ...]
    oldest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckShard:
    """Compare the files of one shard's sealed segments with their checksums, and mend them from the replica on `source`
    ("" for none). A replica that cannot be mended answers nothing more, until it is copied anew.
    """

    gallery_id: str
    shard: int
    source: str


@dataclass(frozen=True, slots=True)
class CheckReply:
    """Messages of what was found damaged, and how much of it was mended."""

    faults: tuple[str, ...]
    mended: int


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
class DrawIdentities:
    """Up to `count` identities of these shards, drawn as in `shard.labelled`; the answer is an `IdentityDraw`."""

    gallery_id: str
    shards: tuple[int, ...]
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class DrawTemplates:
    """Up to `per_identity` templates of each of the identities that these shards have."""

    gallery_id: str
    shards: tuple[int, ...]
    identities: tuple[str, ...]
    per_identity: int
    seed: int


@dataclass(frozen=True, slots=True)
class DrawnReply:
    """embeddings: (n, dim) float32; identities: n, of each."""

    embeddings: FloatArray
    identities: tuple[str, ...]


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
    SearchRequest
    | EnrollRequest
    | DeleteRequest
    | AmendRequest
    | RenameRequest
    | MoveOutRequest
    | RecordsRequest
    | ClaimRequest
    | GiveBackRequest
    | IdentitiesRequest
    | ListRequest
    | FlushRequest
    | StatsRequest
    | PointRequest
    | ExportRequest
    | ExportMovedRequest
    | ReplicateRequest
    | AbsorbRequest
    | RestartRequest
    | RowsRequest
    | DigestRequest
    | BeaconRequest
    | HealthRequest
)
ControlRequest: TypeAlias = (
    CreateShard
    | DropGallery
    | SampleRows
    | SampleRecent
    | DrawIdentities
    | DrawTemplates
    | PrepareModel
    | ActivateModel
    | DiscardModels
    | ModelsRequest
    | ConfigureShards
    | SetPeers
    | SetKeys
    | InventoryRequest
    | HeatRequest
    | BuriedRequest
    | AdmitReplica
    | YieldShards
    | DropShard
    | CompactShards
    | ScrubShards
    | ErasureRequest
    | CheckShard
)
Request: TypeAlias = DataRequest | ControlRequest
Reply: TypeAlias = (
    SearchReply
    | EnrollReceipt
    | DeleteReply
    | AmendReply
    | RecordsReply
    | ClaimReply
    | GiveBackReply
    | IdentitiesReply
    | ListReply
    | StatsReply
    | SampleReply
    | IdentityDraw
    | DrawnReply
    | ShardPoint
    | ExportedRows
    | ModelsReply
    | ProgressReply
    | RowsReply
    | DigestReply
    | BeaconReply
    | HealthReply
    | ErasureReply
    | CheckReply
    | InventoryReply
    | HeatReply
    | BuriedReply
    | ConfiguredReply
    | YieldReply
    | Done
)
