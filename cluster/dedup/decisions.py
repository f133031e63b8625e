"""What reviewers decided about groups: values, their JSON, and which decisions count. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from shard.errors import CorruptData, FormatTooNew

REVIEW_FORMAT = 1


class ReviewAction(str, Enum):
    """accept: the group is as it is. reject: it is none. split: its parts are groups. merge: several are one. reopen:
    whatever was decided is taken back.
    """

    ACCEPT = "accept"
    REJECT = "reject"
    SPLIT = "split"
    MERGE = "merge"
    REOPEN = "reopen"


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A template by its gallery and id."""

    gallery: str
    template_id: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. groups: ascending; parts: of a split, those that are in none are left alone. by: who, as they are
    named by whoever asks; at: unix seconds; version: of the review with it.
    """

    version: int
    action: ReviewAction
    groups: tuple[int, ...]
    parts: tuple[tuple[MemberRef, ...], ...]
    by: str
    at: float
    note: str


@dataclass(frozen=True, slots=True)
class Review:
    """Every decision, oldest first. version: their number; 0 before the first. result: digest of what they are of."""

    result: str
    decisions: tuple[Decision, ...]

    @property
    def version(self) -> int:
        """Number of decisions."""
        return len(self.decisions)

    def in_force(self) -> dict[int, Decision]:
        """The decision that counts, by group: the last one about it. One that is replaced for one of its groups counts
        for none of them.
        """
        found: dict[int, Decision] = {}
        for decision in self.decisions:
            for group in decision.groups:
                before = found.get(group)
                for other in () if before is None else before.groups:
                    found.pop(other, None)
            if decision.action is not ReviewAction.REOPEN:
                found.update(dict.fromkeys(decision.groups, decision))
        return found


def encode_review(review: Review) -> bytes:
    """review.json."""
    content = {"format": REVIEW_FORMAT, "result": review.result, "decisions": [asdict(d) for d in review.decisions]}
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def decode_review(data: bytes, where: str) -> Review:
    """The review of `encode_review`. CorruptData, naming `where`, for anything else; FormatTooNew."""
    try:
        content = json.loads(data)
        if content["format"] > REVIEW_FORMAT:
            raise FormatTooNew(f"{where} has format {content['format']}; this Facegrid reads up to {REVIEW_FORMAT}")
        decisions = tuple(_decision(entry) for entry in content["decisions"])
        review = Review(str(content["result"]), decisions)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"{where} is not a review: {error!r}", path=where) from error
    if [decision.version for decision in decisions] != list(range(1, len(decisions) + 1)):
        raise CorruptData(f"{where}: expected the decisions 1, 2, 3, …", path=where)
    return review


def _decision(entry: dict[str, Any]) -> Decision:
    parts: Sequence[Sequence[dict[str, str]]] = entry["parts"]
    return Decision(
        version=int(entry["version"]),
        action=ReviewAction(entry["action"]),
        groups=tuple(int(group) for group in entry["groups"]),
        parts=tuple(tuple(MemberRef(**ref) for ref in part) for part in parts),
        by=str(entry["by"]),
        at=float(entry["at"]),
        note=str(entry["note"]),
    )
