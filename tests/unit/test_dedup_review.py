"""The review queue: decisions, what they make of the groups, two reviewers at once, damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.dedup.decisions import MemberRef, ReviewAction
from cluster.dedup.result_files import DedupResult
from cluster.dedup.review import ReviewQueue
from shard.errors import CorruptData, FormatTooNew, InvalidParameter, ResultBusy, ReviewConflict
from shard.files import DirectoryLock
from tests.dedup_results import DIM, NAME, enroll, faces_of, make_job

PEOPLE = [["a1", "a2", "a3", "a4"], ["b1", "b2"], ["c1", "c2"], ["d1", "d2"]]
REASONS = {0: "split", 2: "too_large"}


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def result(grid: Cluster) -> DedupResult:
    enroll(grid.gallery(NAME, create=True, shards=2, dim=DIM), faces_of(PEOPLE))
    return make_job(grid, PEOPLE, REASONS)


def applied_groups(queue: ReviewQueue) -> dict[str, list[str]]:
    """Name of each group that would be applied to its template ids, the one that is kept first."""
    found = queue.effective()
    ids = queue.result.groups.column("template_id").to_pylist()
    groups: dict[str, list[str]] = {}
    for row in sorted(range(len(ids)), key=lambda i: (found.role[i] != "keep", i)):
        if not found.out[row]:
            groups.setdefault(found.name[row], []).append(ids[row])
    return groups


def test_groups_that_need_review_wait(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    page = queue.page()
    assert (page.version, page.open, page.decided, page.after) == (0, 2, 0, None)
    assert [(item.group, item.reason, item.decision) for item in page.items] == [
        (0, "split", None),
        (2, "too_large", None),
    ]
    assert [m.template_id for m in page.items[0].members] == ["a1", "a2", "a3", "a4"]
    assert applied_groups(queue) == {"1": ["b1", "b2"], "3": ["d1", "d2"]}


def test_pages(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    first = queue.page(limit=1)
    assert first.after == 0
    rest = queue.page(limit=1, after=first.after)
    assert ([item.group for item in rest.items], rest.after) == ([2], None)
    queue.accept(2, by="ann")
    assert [item.group for item in queue.page(state="decided").items] == [2]
    assert [item.group for item in queue.page(state="all").items] == [0, 2]
    for wrong in ({"limit": 0}, {"limit": 501}, {"state": "closed"}):
        with pytest.raises(InvalidParameter):
            queue.page(**wrong)  # type: ignore[arg-type]


def test_accept_and_reject(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    review = queue.accept(0, by="ann", note="looked at the photos")
    queue.reject(1, by="bob")
    assert applied_groups(queue) == {"0": ["a1", "a2", "a3", "a4"], "3": ["d1", "d2"]}
    (decision,) = review.decisions
    assert (decision.action, decision.by, decision.note) == (ReviewAction.ACCEPT, "ann", "looked at the photos")
    assert decision.at > 1.7e9
    assert queue.page().open == 1
    queue.reopen(0, by="bob")
    assert queue.page().open == 2
    assert [d.version for d in queue.review().decisions] == [1, 2, 3]


def test_split_keeps_the_one_that_was_kept_and_chooses_in_the_others(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    queue.split(0, [["a3", "a1"], [MemberRef(NAME, "a4")]], by="ann")
    assert applied_groups(queue) == {"0.1": ["a1", "a3"], "1": ["b1", "b2"], "3": ["d1", "d2"]}
    queue.split(0, [["a2", "a4"], ["a1", "a3"]], by="ann")
    assert applied_groups(queue)["0.1"] == ["a2", "a4"]
    assert applied_groups(queue)["0.2"] == ["a1", "a3"]


@pytest.mark.parametrize(
    "parts", [[], "a1", ["a1"], [[]], [["b1"]], [["a1"], ["a1"]], [["a1", "a1"]], [[MemberRef("acme/other", "a1")]]]
)
def test_parts_are_checked(result: DedupResult, parts: list[list[str]]) -> None:
    queue = ReviewQueue(result)
    with pytest.raises(InvalidParameter, match="parts"):
        queue.split(0, parts, by="ann")
    assert queue.review().version == 0


def test_merge_keeps_one(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    queue.merge([3, 1], by="ann")
    assert applied_groups(queue) == {"1": ["b1", "b2", "d1", "d2"]}
    queue.accept(3, by="ann")  # takes the whole merging back
    assert applied_groups(queue) == {"1": ["b1", "b2"], "3": ["d1", "d2"]}
    for wrong in ([1], [1, 1], []):
        with pytest.raises(InvalidParameter, match="two groups"):
            queue.merge(wrong, by="ann")
    with pytest.raises(InvalidParameter, match="from 0 to 3"):
        queue.merge([1, 9], by="ann")


def test_what_is_wrong_changes_nothing(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    with pytest.raises(InvalidParameter, match="by"):
        queue.accept(0, by="")
    with pytest.raises(InvalidParameter, match="note"):
        queue.accept(0, by="ann", note="x" * 2_001)
    with pytest.raises(InvalidParameter, match="no decision"):
        queue.reopen(0, by="ann")
    assert not (result.directory / "review" / "review.json").exists()


def test_a_later_version_is_a_conflict(result: DedupResult) -> None:
    ann, bob = ReviewQueue(result), ReviewQueue(DedupResult.open(result.directory))
    seen = bob.page().version
    ann.accept(0, by="ann", version=0)
    with pytest.raises(ReviewConflict, match="version 1, you decided on 0"):
        bob.reject(0, by="bob", version=seen)
    assert bob.reject(0, by="bob", version=1).version == 2


def test_many_at_once_lose_nothing(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: queue.accept(i % 4, by=f"r{i}"), range(40)))
    assert sorted(d.by for d in queue.review().decisions) == sorted(f"r{i}" for i in range(40))


def test_of_two_that_saw_the_same_version_one_wins(result: DedupResult) -> None:
    queue = ReviewQueue(result)

    def decide(i: int) -> bool:
        try:
            queue.accept(0, by=f"r{i}", version=0)
        except ReviewConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(decide, range(16))) == 1


def test_another_process_is_told_that_it_is_busy(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    queue.accept(0, by="ann")
    with DirectoryLock(result.directory / "review"), pytest.raises(ResultBusy):
        queue.accept(0, by="bob")
    assert queue.review().version == 1


def test_damage_and_others_reviews_are_named(result: DedupResult) -> None:
    queue = ReviewQueue(result)
    queue.accept(0, by="ann")
    path = result.directory / "review" / "review.json"
    content = json.loads(path.read_bytes())
    for wrong, error in (
        ({"format": 99}, FormatTooNew),
        ({"result": "0" * 64}, CorruptData),
        ({"decisions": content["decisions"] * 2}, CorruptData),
        ({"decisions": [{"action": "accept"}]}, CorruptData),
    ):
        path.write_text(json.dumps(content | wrong))
        with pytest.raises(error, match="review"):
            queue.page()
    path.write_text("[]")
    with pytest.raises(CorruptData, match=r"review\.json"):
        queue.page()


def test_borderline_pairs(result: DedupResult) -> None:
    pairs = ReviewQueue(result).borderline()
    assert [pair.score for pair in pairs] == sorted(pair.score for pair in pairs)
    assert {pair.left.template_id[0] for pair in pairs} == set("abcd")
    assert len(ReviewQueue(result).borderline(limit=2)) == 2
