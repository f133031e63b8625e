"""Reviews of dedup jobs of a service, and what is done to the galleries by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.client.call import Operation
from cluster.client.operations.jobs import job_path
from cluster.client.operations.requests import SLOW_S, get, write
from cluster.client.wire import entry, record, records
from shard.errors import ProtocolError

Parts = Sequence[Sequence["str | RemoteRef"]]


@dataclass(frozen=True, slots=True)
class RemoteRef:
    """A template by its gallery and id."""

    gallery: str
    template_id: str


@dataclass(frozen=True, slots=True)
class RemoteMember:
    """A template of a group. role: `keep` or `duplicate`; medoid_score: cosine with the group's medoid."""

    gallery: str
    template_id: str
    identity: str | None
    role: str
    quality: float | None
    medoid_score: float
    is_medoid: bool


@dataclass(frozen=True, slots=True)
class RemoteDecision:
    """What somebody decided. parts: of a split; version: of the review with it; at: unix seconds."""

    version: int
    action: str
    groups: tuple[int, ...]
    parts: tuple[tuple[RemoteRef, ...], ...]
    by: str
    at: float
    note: str


@dataclass(frozen=True, slots=True)
class RemoteReviewItem:
    """A group in the queue. reason: why it needs review; decision: the one in force."""

    group: int
    reason: str | None
    members: tuple[RemoteMember, ...]
    decision: RemoteDecision | None


@dataclass(frozen=True, slots=True)
class RemoteReviewPage:
    """Some groups by number. version: of the review; open, decided: groups in all; after: of the next page, or None."""

    version: int
    open: int
    decided: int
    items: tuple[RemoteReviewItem, ...]
    after: int | None


@dataclass(frozen=True, slots=True)
class RemoteChange:
    """A template that an apply would change. keep: the template that stays for it, of a deletion."""

    key: RemoteRef
    group: str
    identity: str | None
    identity_after: str | None
    keep: RemoteRef | None


@dataclass(frozen=True, slots=True)
class RemoteApplyReport:
    """What an apply or an undo did, or would do; see `cluster.dedup.apply.ApplyReport`. changes: some, if dry."""

    action: str
    dry_run: bool
    number: int | None
    state: str
    groups: int
    templates: int
    skipped: dict[str, int]
    left_out: dict[str, int]
    undo_until: float | None
    changes: tuple[RemoteChange, ...]


def review(job_id: str, state: str, after: int, limit: int) -> Operation[RemoteReviewPage]:
    """A page of the groups to review."""
    query = {"state": state, "after": after, "limit": limit}
    document = yield from get(job_path(job_id, "review"), query)
    items = tuple(_item(one) for one in entry(document, "groups", list))
    return record(RemoteReviewPage, document, items=items)


def decide(
    job_id: str, action: str, groups: Sequence[int], parts: Parts, version: int | None, note: str
) -> Operation[int]:
    """Decide about groups; the version of the review then. Sent again with the same key, it is one decision."""
    body = {
        "action": action,
        "groups": list(groups),
        "parts": [[_ref(member) for member in part] for part in parts],
        "version": version,
        "note": note,
    }
    document = yield from write(job_path(job_id, "review"), body, is_idempotent=True)
    return int(entry(document, "version", int))


def apply(
    job_id: str, action: str, *, dry_run: bool, gallery: str | None, key: str | None, accept_all: bool
) -> Operation[RemoteApplyReport]:
    """Do to the groups what the action says. Sent again with the same key, it is one apply."""
    body = {"action": action, "dry_run": dry_run, "gallery": gallery, "key": key, "accept_all": accept_all}
    return _report((yield from write(job_path(job_id, "apply"), body, is_idempotent=True, patience_s=SLOW_S)))


def undo(job_id: str, *, dry_run: bool) -> Operation[RemoteApplyReport]:
    """Take the last apply back. Sent again with the same key, it is one undo."""
    body = {"dry_run": dry_run}
    return _report((yield from write(job_path(job_id, "undo"), body, is_idempotent=True, patience_s=SLOW_S)))


def _ref(member: str | RemoteRef) -> dict[str, str]:
    if isinstance(member, str):
        return {"template_id": member}
    return {"gallery": member.gallery, "template_id": member.template_id}


def _item(document: Any) -> RemoteReviewItem:
    given = document if isinstance(document, dict) else {}
    decision = given.get("decision")
    return record(
        RemoteReviewItem,
        document,
        members=tuple(records(RemoteMember, given.get("members"), "members")),
        decision=None if decision is None else _decision(decision),
    )


def _decision(document: Any) -> RemoteDecision:
    given = document if isinstance(document, dict) else {}
    groups, parts = given.get("groups"), given.get("parts")
    if not isinstance(groups, list) or not all(type(group) is int for group in groups) or not isinstance(parts, list):
        raise ProtocolError("decision: expected groups and parts in the answer")
    found = tuple(tuple(records(RemoteRef, part, "parts")) for part in parts)
    return record(RemoteDecision, document, groups=tuple(groups), parts=found)


def _report(document: dict[str, Any]) -> RemoteApplyReport:
    changes = tuple(_change(one) for one in entry(document, "changes", list))
    return record(RemoteApplyReport, document, changes=changes)


def _change(document: Any) -> RemoteChange:
    key = record(RemoteRef, document)
    keep = document.get("keep")
    return record(RemoteChange, document, key=key, keep=None if keep is None else record(RemoteRef, keep))
