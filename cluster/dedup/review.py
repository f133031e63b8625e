"""`ReviewQueue`: groups that a person has to look at, and what they decide.

    queue = ReviewQueue(DedupResult.open(home / "jobs" / job_id))
    for item in queue.page().items:
        queue.accept(item.group, by="ann")

Decisions are kept in `review/review.json` of the job's directory, beside the result, which stays as it is. Each raises
the review's version by one. Whoever says which version they have seen gets ReviewConflict if there is a later one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.dedup.decisions import Decision, MemberRef, Review, ReviewAction, decode_review, encode_review
from cluster.dedup.effective import EffectiveGroups, effective_groups
from cluster.dedup.result_files import DedupResult, Member
from shard.errors import CorruptData, HomeLocked, InvalidParameter, ResultBusy, ReviewConflict
from shard.files import DirectoryLock, make_directory, write_file

MAX_NOTE = 2_000
"""Most characters of a note."""
MAX_PAGE = 500
"""Most groups of a page."""
_DECIDING = threading.Lock()
"""Held while a decision of this process is written; other processes are told that the result is busy."""
ReviewState = Literal["open", "decided", "all"]


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A group in the queue. reason: why it needs review, None for one that does not. decision: the one in force."""

    group: int
    reason: str | None
    members: tuple[Member, ...]
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class ReviewPage:
    """Some groups by number. version: of the review; open, decided: groups in all; after: for the next page, None
    after the last.
    """

    version: int
    open: int
    decided: int
    items: tuple[ReviewItem, ...]
    after: int | None


@dataclass(frozen=True, slots=True)
class BorderlinePair:
    """A pair near the threshold. group: that both are in; None if they are not in one group."""

    left: MemberRef
    right: MemberRef
    score: float
    group: int | None


class ReviewQueue:
    """The review of one result. Thread-safe; several processes may review at once."""

    def __init__(self, result: DedupResult) -> None:
        self.result = result
        self._directory = result.directory / "review"

    def review(self) -> Review:
        """Every decision so far. CorruptData, also if the decisions are about another result."""
        path = self._path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return Review(self.result.digest, ())
        review = decode_review(data, str(path))
        if review.result != self.result.digest:
            raise CorruptData(f"{path} is about another result than {self.result.job_id} has now", path=str(path))
        return review

    @property
    def _path(self) -> Path:
        return self._directory / "review.json"

    def page(self, *, state: ReviewState = "open", after: int = -1, limit: int = 50) -> ReviewPage:
        """Groups with a number above `after`: those that need review and have no decision (open), those that have one
        (decided), or both (all). limit: 1 to MAX_PAGE. InvalidParameter.
        """
        if state not in ("open", "decided", "all"):
            raise InvalidParameter(f"state: expected open, decided or all, got {state!r:.80}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
            raise InvalidParameter(f"limit: expected an integer from 1 to {MAX_PAGE}, got {limit!r:.80}")
        review = self.review()
        decided = review.in_force()
        waiting = [group for group in self.result.to_review().tolist() if group not in decided]
        wanted = {"open": waiting, "decided": sorted(decided), "all": sorted([*waiting, *decided])}[state]
        found = [group for group in wanted if group > after]
        items = tuple(self._item(group, decided) for group in found[:limit])
        more = items[-1].group if len(found) > limit else None
        return ReviewPage(review.version, len(waiting), len(decided), items, more)

    def item(self, group: int) -> ReviewItem:
        """Any group by number, one that needs no review too. InvalidParameter."""
        return self._item(group, self.review().in_force())

    def _item(self, group: int, decided: dict[int, Decision]) -> ReviewItem:
        return ReviewItem(group, self.result.reason_of(group), self.result.members_of(group), decided.get(group))

    def borderline(self, limit: int = 50) -> tuple[BorderlinePair, ...]:
        """The pairs nearest the threshold, lowest score first. What is wrong with one is decided of its group."""
        found = self.result.summary["borderline"]["nearest"][:limit]
        return tuple(
            BorderlinePair(
                MemberRef(pair["left_gallery"], pair["left_id"]),
                MemberRef(pair["right_gallery"], pair["right_id"]),
                pair["score"],
                pair["group"],
            )
            for pair in found
        )

    def effective(self) -> EffectiveGroups:
        """The groups as the decisions leave them: what an apply goes by."""
        return effective_groups(self.result, self.review())

    # Deciding: each returns the review with the decision, and raises InvalidParameter, ReviewConflict, ResultBusy.

    def accept(self, group: int, *, by: str, version: int | None = None, note: str = "") -> Review:
        """The group is one person's, as it is."""
        return self._decide(ReviewAction.ACCEPT, (group,), (), by, version, note)

    def reject(self, group: int, *, by: str, version: int | None = None, note: str = "") -> Review:
        """The group is none; nothing is done to its templates."""
        return self._decide(ReviewAction.REJECT, (group,), (), by, version, note)

    def split(
        self,
        group: int,
        parts: Sequence[Sequence[str | MemberRef]],
        *,
        by: str,
        version: int | None = None,
        note: str = "",
    ) -> Review:
        """The parts are groups of their own, each of templates of the group; those in no part are left alone.

        A template is named by its id, or by gallery and id where both galleries of the group have that id.
        """
        return self._decide(ReviewAction.SPLIT, (group,), self._parts(group, parts), by, version, note)

    def merge(self, groups: Sequence[int], *, by: str, version: int | None = None, note: str = "") -> Review:
        """The groups, two or more, are one person's."""
        if len(set(groups)) < 2:
            raise InvalidParameter(f"groups: expected two groups or more, got {list(groups)!r:.80}")
        return self._decide(ReviewAction.MERGE, tuple(sorted(set(groups))), (), by, version, note)

    def reopen(self, group: int, *, by: str, version: int | None = None, note: str = "") -> Review:
        """Whatever was decided about the group is taken back. InvalidParameter if nothing was."""
        if group not in self.review().in_force():
            raise InvalidParameter(f"group {group!r:.80} of {self.result.job_id} has no decision to take back")
        return self._decide(ReviewAction.REOPEN, (group,), (), by, version, note)

    def _parts(self, group: int, parts: Sequence[Sequence[str | MemberRef]]) -> tuple[tuple[MemberRef, ...], ...]:
        members = [MemberRef(m.gallery, m.template_id) for m in self.result.members_of(group)]
        if isinstance(parts, str) or not parts or any(isinstance(part, str) or not part for part in parts):
            raise InvalidParameter("parts: expected a list of lists of template ids, none of them empty")
        found = tuple(tuple(_member(members, ref, group) for ref in part) for part in parts)
        named = [ref for part in found for ref in part]
        if len(set(named)) != len(named):
            twice = next(ref for ref in named if named.count(ref) > 1)
            raise InvalidParameter(f"parts: {twice.template_id!r:.80} is named more than once")
        return found

    def _decide(
        self,
        action: ReviewAction,
        groups: tuple[int, ...],
        parts: tuple[tuple[MemberRef, ...], ...],
        by: str,
        version: int | None,
        note: str,
    ) -> Review:
        for group in groups:
            self.result.rows_of(group)
        if not isinstance(by, str) or not 0 < len(by) <= 200:
            raise InvalidParameter(f"by: expected who decides, 1 to 200 characters, got {by!r:.80}")
        if not isinstance(note, str) or len(note) > MAX_NOTE:
            raise InvalidParameter(f"note: expected at most {MAX_NOTE} characters, got {note!r:.80}")
        make_directory(self._directory)
        with _DECIDING, _locked(self._directory, self.result.job_id):
            before = self.review()
            if version is not None and version != before.version:
                raise ReviewConflict(
                    f"the review of {self.result.job_id} has version {before.version}, you decided on {version};"
                    " look at it again"
                )
            decision = Decision(before.version + 1, action, groups, parts, by, round(time.time(), 3), note)
            review = Review(before.result, (*before.decisions, decision))
            write_file(self._path, encode_review(review))
            return review


def _locked(directory: Path, job_id: str) -> DirectoryLock:
    try:
        return DirectoryLock(directory)
    except HomeLocked:
        raise ResultBusy(f"another decision about {job_id} is being written; repeat yours") from None


def _member(members: list[MemberRef], ref: str | MemberRef, group: int) -> MemberRef:
    found = [m for m in members if ref in (m, m.template_id)]
    if len(found) != 1:
        which = "is not one of its templates" if not found else "is in both galleries; name the gallery too"
        raise InvalidParameter(f"parts: {ref!r:.120} {which} (group {group})")
    return found[0]
