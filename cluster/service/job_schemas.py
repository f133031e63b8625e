"""The bodies of the job routes, in and out. What a kind of job takes as parameters is its own model's to say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from cluster.service.schemas import Body, Label, Reply

Kind = Literal["dedup", "enroll", "reembed", "calibrate"]
State = Literal["queued", "running", "cancelling", "cancelled", "failed", "succeeded"]
GALLERY = r"^[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}$"


class JobBody(Body):
    """A new job. parameters: as its kind takes them; see docs/service.md."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "dedup", "gallery": "acme/staff", "parameters": {"threshold": 0.5, "mode": "exact"}}]
        }
    )
    kind: Kind
    gallery: str = Field(pattern=GALLERY)
    parameters: dict[str, Any] = Field(default={}, max_length=64)


class JobReply(Reply):
    """A job. Times are unix seconds; rate: units a second in this phase; eta_s: until the end of the phase."""

    job_id: str
    kind: str
    gallery: str
    parameters: dict[str, Any]
    state: State
    phase: str
    done: int
    total: int
    unit: str
    rate: float | None
    eta_s: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    error_code: str | None
    error: str | None
    key_id: str | None


class JobsReply(Reply):
    """Jobs, latest first; cursor: where the next page begins, null after the last."""

    jobs: list[JobReply]
    cursor: str | None


class JobLogReply(Reply):
    """Lines of a job's log; next: the number of the line after them."""

    entries: list[dict[str, Any]]
    next: int


class ResultFile(Reply):
    """A file of a result. size: bytes."""

    name: str
    size: int
    content_type: str


class JobResultReply(Reply):
    """What a job made: its files, and its summary."""

    files: list[ResultFile]
    summary: dict[str, Any]


class RefReply(Reply):
    """A template."""

    gallery: str
    template_id: str


class MemberReply(Reply):
    """A template of a group. role: `keep` or `duplicate`; medoid_score: cosine with the group's medoid."""

    gallery: str
    template_id: str
    identity: str | None
    role: str
    quality: float | None
    medoid_score: float
    is_medoid: bool


class MemberBody(Body):
    """A template of a group; gallery: where both galleries of a job have that id."""

    template_id: Label
    gallery: str | None = Field(default=None, pattern=GALLERY)


class DecisionReply(Reply):
    """What somebody decided about groups, and the version of the review with it."""

    version: int
    action: str
    groups: list[int]
    parts: list[list[RefReply]]
    by: str
    at: float
    note: str


class ReviewItemReply(Reply):
    """A group to review. reason: why; decision: the one in force."""

    group: int
    reason: str | None
    members: list[MemberReply]
    decision: DecisionReply | None


class ReviewReply(Reply):
    """Groups to review, by number. version: of the review, to be named by who decides; after: of the next page."""

    version: int
    open: int
    decided: int
    groups: list[ReviewItemReply]
    after: int | None


class DecisionBody(Body):
    """A decision. accept, reject, split and reopen are about one group, merge about two or more; parts: of a split.

    version: of the review that was looked at; a later one is 409 `review_conflict`.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"action": "accept", "groups": [12], "version": 3}]})
    action: Literal["accept", "reject", "split", "merge", "reopen"]
    groups: list[int] = Field(min_length=1, max_length=1_000)
    parts: list[list[MemberBody]] = Field(default=[], max_length=10_000)
    version: int | None = Field(default=None, ge=0, le=1 << 40)
    note: str = Field(default="", max_length=2_000)


class DecidedReply(Reply):
    """The review with the decision."""

    version: int
    decision: DecisionReply


class ApplyBody(Body):
    """What to do to the groups. gallery: of a job of two, the only one to change; key: of a tag's metadata.

    accept_all: groups that need review too, and those of several identities.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"action": "merge", "dry_run": True}]})
    action: Literal["delete", "merge", "tag"]
    dry_run: bool = True
    gallery: str | None = Field(default=None, pattern=GALLERY)
    key: str | None = Field(default=None, min_length=1, max_length=128)
    accept_all: bool = False


class UndoBody(Body):
    """Whether to take the last apply back, or only say what that would do."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dry_run": True}]})
    dry_run: bool = True


class ChangeReply(Reply):
    """A template that would be changed."""

    gallery: str
    template_id: str
    group: str
    identity: str | None
    identity_after: str | None
    keep: RefReply | None


class ApplyReply(Reply):
    """What was done, or would be. templates: changed; skipped: that are not as the job saw them, by reason; left_out:
    of groups that are not applied, by why; undo_until: unix seconds."""

    action: str
    dry_run: bool
    number: int | None
    state: str
    groups: int
    templates: int
    skipped: dict[str, int]
    left_out: dict[str, int]
    undo_until: float | None
    changes: list[ChangeReply]
