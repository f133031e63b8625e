"""The bodies of API v1, in and out, as the OpenAPI document shows them.

Bounds that the library checks by itself are stated here too, so that a reader of the document knows them; arrays of
floats are described here and read by `media`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from cluster.thumbnails import check_users_own
from coordinator.router import DEFAULT_DEADLINE_MS
from coordinator.tenant_types import DEFAULT_JOBS
from shard.types import DEFAULT_RECALL, MAX_DIM, MAX_ID_BYTES, MAX_IDENTITIES, MAX_K, MIN_DIM

MAX_ENROLL = 8_192
"""Templates of one enrollment request."""
MAX_NAMES = 10_000
"""Ids of one request."""
MAX_IMAGES = 64
"""Images of one request."""
_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

_EXAMPLE_ROW: list[Any] = [0.12, -0.4, 0.9]
_ROWS_SCHEMA: dict[str, Any] = {
    "description": "In JSON, one list of numbers or a list of them. In msgpack, an object with the shape and the "
    "little-endian float32 values. Any norm; not zero, no NaN or infinity.",
    "anyOf": [
        {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "number"}}},
        {"type": "array", "minItems": 1, "items": {"type": "number"}},
        {
            "type": "object",
            "required": ["shape", "data"],
            "additionalProperties": False,
            "properties": {
                "shape": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1, "maximum": 1 << 24},
                    "minItems": 1,
                    "maxItems": 2,
                },
                "data": {"type": "string", "contentMediaType": "application/octet-stream"},
            },
        },
    ],
    "examples": [[_EXAMPLE_ROW]],
}
Rows = Annotated[Any, WithJsonSchema(_ROWS_SCHEMA)]
"""Embeddings or probes: read by `media.floats`."""
Label = Annotated[str, Field(min_length=1, max_length=MAX_ID_BYTES)]
Metadata = Annotated[
    dict[str, Any],
    Field(description="Any JSON object of at most 16 KiB, 32 deep, but for keys that begin with `facegrid:`."),
    AfterValidator(check_users_own),
]
Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Scope = Literal["admin", "write", "read"]


class Body(BaseModel):
    """What a request may hold; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reply(BaseModel):
    """What an answer holds."""


class QuotasBody(Body):
    """What a tenant may have; null: no limit. jobs: those that wait or run."""

    galleries: int | None = Field(default=None, ge=0, le=10_000_000)
    templates: int | None = Field(default=None, ge=0, le=10**12)
    queries_per_s: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    bytes: int | None = Field(default=None, ge=0, le=10**18)
    jobs: int | None = Field(default=DEFAULT_JOBS, ge=0, le=1_000_000)


class TenantBody(Body):
    """A new tenant. weight: its share of the machine, relative to others that want it at the same time."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "acme", "quotas": {"galleries": 20, "queries_per_s": 50}}]}
    )
    name: str = Field(pattern=_NAME)
    quotas: QuotasBody = QuotasBody()
    weight: int = Field(default=10, ge=1, le=100)
    keeps_thumbnails: bool = False
    is_encrypted: bool = False


class TenantChange(Body):
    """What of a tenant is to be changed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"quotas": {"galleries": 50}, "weight": 20}]})
    quotas: QuotasBody | None = None
    weight: int | None = Field(default=None, ge=1, le=100)
    keeps_thumbnails: bool | None = None


class TenantReply(Reply):
    """A tenant."""

    tenant_id: str
    name: str
    created_at: float
    quotas: QuotasBody
    weight: int
    keeps_thumbnails: bool
    is_encrypted: bool


class TenantsReply(Reply):
    """Tenants by name."""

    tenants: list[TenantReply]


class UsageReply(Reply):
    """What a tenant has."""

    galleries: int
    templates: int
    bytes: int


class KeyBody(Body):
    """A new API key. galleries: names inside the tenant that it is bound to; none: all of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "front desk", "scopes": ["read"]}]})
    name: str = Field(min_length=1, max_length=63)
    scopes: list[Scope] = Field(min_length=1, max_length=3)
    galleries: list[Annotated[str, Field(pattern=_NAME)]] = Field(default=[], max_length=1000)
    expires_at: float | None = Field(default=None, description="Unix seconds.", gt=0, le=1e11, allow_inf_nan=False)


class RotateBody(Body):
    """How long the old secret goes on beside the new one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_s": 3600}]})
    overlap_s: float = Field(default=0.0, ge=0, le=30 * 86_400, allow_inf_nan=False)


class KeyReply(Reply):
    """A key, without its secret."""

    key_id: str
    tenant: str | None
    name: str
    scopes: list[Scope]
    galleries: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class NewKeyReply(Reply):
    """A key and its secret, which is shown this once."""

    key: KeyReply
    secret: str


class KeysReply(Reply):
    """Keys in the order they were made."""

    keys: list[KeyReply]


class WhoReply(Reply):
    """Who asks."""

    key_id: str
    tenant: str | None
    name: str
    scopes: list[Scope]
    galleries: list[str]
    expires_at: float | None


class AuditReply(Reply):
    """What was done, latest first. Never images, embeddings or names of people."""

    entries: list[dict[str, Any]]


class GalleryBody(Body):
    """A new gallery. dim: of embeddings made elsewhere; embedder: the network that makes them here; one of the two."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "acme/staff", "dim": 512, "shards": 4}]})
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}$")
    dim: int | None = Field(default=None, ge=MIN_DIM, le=MAX_DIM)
    embedder: str | None = Field(default=None, max_length=64)
    shards: int | None = Field(default=None, ge=1, le=1024)
    code_bits: Literal[128, 256, 512, 1024] | None = None
    replicas: int | None = Field(default=None, ge=1, le=7)
    min_in_sync: int | None = Field(default=None, ge=1, le=7)


class GalleryReply(Reply):
    """A gallery: what it was created with, and its size. Sizes are of one replica of each shard."""

    name: str
    dim: int
    shards: int
    code_bits: int
    embedder: str | None
    replicas: int
    min_in_sync: int
    in_sync: int
    model_id: str | None
    templates: int
    deleted: int
    code_bytes: int
    disk_bytes: int


class GallerySummary(Reply):
    """A gallery in a list. heat: `hot` (open, used in the last minutes), `warm` (open) or `cold`."""

    name: str
    dim: int
    shards: int
    code_bits: int
    embedder: str | None
    replicas: int
    min_in_sync: int
    model_id: str | None
    heat: Literal["hot", "warm", "cold"]


class GalleriesReply(Reply):
    """Galleries by name."""

    galleries: list[GallerySummary]


class EnrollBody(Body):
    """Templates to store. The lists have one entry for each embedding; ids are made where none are given."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"embeddings": [_EXAMPLE_ROW], "identities": ["alice"], "metadata": [{"door": 4}]}]
        }
    )
    embeddings: Rows
    identities: list[Label | None] | None = Field(default=None, max_length=MAX_ENROLL)
    template_ids: list[Label] | None = Field(default=None, max_length=MAX_ENROLL)
    metadata: list[Metadata | None] | None = Field(default=None, max_length=MAX_ENROLL)
    if_exists: Literal["error", "skip"] = "error"


class EnrollReply(Reply):
    """Ids in the order of the request; how many became durable now, and how many were there already."""

    template_ids: list[str]
    enrolled: int
    skipped: int


class ImageItem(Body):
    """One photo, base64."""

    data: str = Field(min_length=1, max_length=90_000_000)
    identity: Label | None = None
    metadata: Metadata | None = None


class ImagesBody(Body):
    """Photos to enroll: the main face of each."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [{"data": "/9j/4AAQSkZJRg==", "identity": "alice"}]}]}
    )
    images: list[ImageItem] = Field(min_length=1, max_length=MAX_IMAGES)


class ImageOutcome(Reply):
    """What became of one photo: a template, or the reason why it was refused."""

    template_id: str | None = None
    is_new: bool | None = None
    reason: str | None = None
    message: str | None = None


class ImagesReply(Reply):
    """Outcomes in the order of the request."""

    results: list[ImageOutcome]
    enrolled: int
    skipped: int
    refused: int


class IdsBody(Body):
    """Templates by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"template_ids": ["a1", "a2"]}]})
    template_ids: list[Label] = Field(min_length=1, max_length=MAX_NAMES)


class DeleteBody(Body):
    """What to delete: templates by id, and every template of identities."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"identities": ["alice"]}]})
    template_ids: list[Label] = Field(default=[], max_length=MAX_NAMES)
    identities: list[Label] = Field(default=[], max_length=MAX_NAMES)


class DeletedReply(Reply):
    """How many templates were there and are gone."""

    deleted: int


class MetadataBody(Body):
    """The new metadata, in place of the old; null for none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"door": 5}}]})
    metadata: Metadata | None


class TemplateReply(Reply):
    """A stored template's labels."""

    template_id: str
    identity: str | None
    metadata: dict[str, Any] | None


class TemplatesReply(Reply):
    """Templates; cursor: where the next page begins, null after the last."""

    templates: list[TemplateReply]
    cursor: str | None = None


class SearchOptions(Body):
    """How to search. threshold or target_fpir: leave out what is below; the latter needs a calibration."""

    k: int = Field(default=10, ge=1, le=MAX_K)
    recall: float = Field(default=DEFAULT_RECALL, gt=0, lt=1, allow_inf_nan=False)
    exact: bool = False
    threshold: Cosine | None = None
    target_fpir: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    identities: list[Label] | None = Field(default=None, min_length=1, max_length=MAX_IDENTITIES)
    where: dict[str, Any] | None = Field(default=None, description="A filter on metadata; see docs/api.md.")
    allow_partial: bool = False
    deadline_ms: int = Field(default=DEFAULT_DEADLINE_MS, ge=1, le=60_000)
    include: list[Literal["metadata"]] = Field(default=[], max_length=1)


class SearchBody(SearchOptions):
    """Probes to search for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"probes": [_EXAMPLE_ROW], "k": 5, "threshold": 0.4}]})
    probes: Rows


class RangeBody(Body):
    """Every template at or above a cosine."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"probes": [_EXAMPLE_ROW], "threshold": 0.5}]})
    probes: Rows
    threshold: Cosine
    limit: int = Field(default=MAX_K, ge=1, le=MAX_K)
    recall: float = Field(default=DEFAULT_RECALL, gt=0, lt=1, allow_inf_nan=False)
    exact: bool = False
    identities: list[Label] | None = Field(default=None, min_length=1, max_length=MAX_IDENTITIES)
    where: dict[str, Any] | None = None
    allow_partial: bool = False
    deadline_ms: int = Field(default=DEFAULT_DEADLINE_MS, ge=1, le=60_000)


class CandidateReply(Reply):
    """A template found. score: cosine."""

    template_id: str
    identity: str | None
    score: float
    metadata: dict[str, Any] | None = None


class ResultReply(Reply):
    """One probe's candidates, best first. is_truncated: of a range search, there were more."""

    candidates: list[CandidateReply]
    is_truncated: bool | None = None


class CoverageReply(Reply):
    """Shards that answered, of those asked."""

    answered: int
    asked: int


class SearchReply(Reply):
    """Results in the order of the probes. Asked for as msgpack, columns instead; see docs/api.md."""

    results: list[ResultReply]
    coverage: CoverageReply
    threshold: float | None = None


class FaceReply(Reply):
    """A face in pixels of the upright image."""

    x: float
    y: float
    width: float
    height: float


class ImageSearchBody(SearchOptions):
    """A photo, base64, and which of its faces: a number, largest first, or the main one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": "/9j/4AAQSkZJRg==", "k": 5}]})
    image: str = Field(min_length=1, max_length=90_000_000)
    face: int | Literal["largest"] = Field(default="largest", description="From 0; the largest face first.")


class ImageSearchReply(Reply):
    """The face that was searched for, and its candidates."""

    face: FaceReply
    candidates: list[CandidateReply]
    coverage: CoverageReply
    threshold: float | None = None


class VerifyBody(Body):
    """A probe or a photo against one identity's templates."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"probe": _EXAMPLE_ROW, "identity": "alice"}]})
    identity: Label
    probe: Rows | None = None
    image: str | None = Field(default=None, min_length=1, max_length=90_000_000)
    threshold: Cosine | None = None


class VerifyReply(Reply):
    """Whether it is the identity: the best score among its templates against the threshold."""

    score: float
    threshold: float
    is_match: bool
    template_id: str


class PairBody(Body):
    """Two photos, base64."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_a": "/9j/4AAQSkZJRg==", "image_b": "/9j/4AAQSkZJRg=="}]}
    )
    image_a: str = Field(min_length=1, max_length=45_000_000)
    image_b: str = Field(min_length=1, max_length=45_000_000)
    threshold: Cosine | None = None


class PairReply(Reply):
    """Whether the main faces of two photos are the same person's."""

    score: float
    threshold: float
    is_match: bool
    face_a: FaceReply
    face_b: FaceReply


class DetectBody(Body):
    """A photo, base64."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": "/9j/4AAQSkZJRg=="}]})
    image: str = Field(min_length=1, max_length=90_000_000)


class DetectedReply(Reply):
    """A face of a photo. reason: why it would not be enrolled."""

    box: FaceReply
    detector_score: float
    is_usable: bool
    reason: str | None


class DetectReply(Reply):
    """Faces, largest first."""

    faces: list[DetectedReply]


class IdentityReply(Reply):
    """An identity and how many templates it has."""

    identity: str
    templates: int


class IdentitiesReply(Reply):
    """Identities in byte order of UTF-8; next: from where the next page goes on, null after the last."""

    identities: list[IdentityReply]
    next: str | None


class RenameBody(Body):
    """An identity's new name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"old": "alice", "new": "alice smith"}]})
    old: Label
    new: Label


class MergeBody(Body):
    """Identities that are one person."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"identities": ["al", "alice s."], "into": "alice"}]})
    identities: list[Label] = Field(min_length=1, max_length=1000)
    into: Label


class ChangedReply(Reply):
    """How many templates have another name now."""

    templates: int


class CalibrateBody(Body):
    """How many labelled templates to compare."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"samples": 2000}]})
    samples: int = Field(default=2000, ge=100, le=100_000)


class ThresholdReply(Reply):
    """The cosine at which a share target_fpir of searches by people who are not enrolled finds somebody.

    low, high: its 95 % interval. n: templates that it is for.
    """

    threshold: float
    low: float
    high: float
    target_fpir: float
    n: int


class TrainedReply(Reply):
    """A model that is in use."""

    model_id: str
    templates: int
    sample: int
    seconds: float


class SnapshotBody(Body):
    """When it may be removed; null keeps it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires_at": 1893456000}]})
    expires_at: float | None = Field(default=None, gt=0, le=1e11, allow_inf_nan=False)


class RestoreBody(Body):
    """The name of the gallery that it becomes, of the same tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"into": "staff-restored"}]})
    into: str = Field(pattern=_NAME)


class Problem(Reply):
    """RFC 9457. code: stable; see docs/errors.md."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    is_retryable: bool
    request_id: str
