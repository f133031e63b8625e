"""The verbs of a gallery beside enrolling and searching, on a home of this process with several hosts and shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.gallery import Gallery
from cluster.results import Template
from shard.errors import InvalidEmbedding, InvalidParameter, UnknownIdentity, UnknownModel, UnknownTemplate
from shard.export import FIRST_KEY, MovedRange, RowRange
from shard.keys import in_listing_order
from shard.model import SearchModel
from shard.shard import Shard
from shard.types import EnrollBatch
from tests.faces_like import unit_rows

DIM = 64
PEOPLE = ["ann", "bob", None, "z", "ü"]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home", shard_hosts=2) as opened:
        yield opened


@pytest.fixture
def gallery(grid: Cluster) -> Gallery:
    """57 templates t0, t1, … of PEOPLE in turn, with metadata {"n": i} but for every fifth."""
    made = grid.gallery("acme/staff", create=True, shards=3, replicas=2, dim=DIM)
    made.enroll(
        unit_rows(57, DIM, seed=1),
        template_ids=[f"t{i}" for i in range(57)],
        identities=[PEOPLE[i % 5] for i in range(57)],
        metadata=[{"n": i} if i % 5 else None for i in range(57)],
    )
    return made


def no_model(model_id: str) -> SearchModel:
    raise UnknownModel(model_id)


def listed(gallery: Gallery, limit: int, identity: str | None = None) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = gallery.list(cursor=cursor, limit=limit, identity=identity)
        assert len(page) <= limit
        found += [template.template_id for template in page]
        cursor = page.cursor
        if cursor is None:
            return found


class TestFilters:
    def test_a_search_finds_those_that_meet_it(self, gallery: Gallery) -> None:
        found = gallery.search(unit_rows(2, DIM, seed=3), k=100, where={"n": {"gte": 10, "lt": 20}})
        for names in found.template_ids:
            assert sorted(names) == [f"t{i}" for i in range(10, 20) if i % 5]

    def test_identities_and_filter_have_to_hold_both(self, gallery: Gallery) -> None:
        found = gallery.search(unit_rows(1, DIM, seed=3), k=100, identities=["bob"], where={"n": {"lt": 20}})
        assert sorted(found.template_ids[0]) == ["t1", "t11", "t16", "t6"]

    def test_what_is_enrolled_later_is_found(self, gallery: Gallery) -> None:
        where = {"n": {"exists": True}}
        before = len(gallery.search(unit_rows(1, DIM, seed=3), k=100, where=where).template_ids[0])
        gallery.enroll(unit_rows(1, DIM, seed=4), metadata=[{"n": None}])
        assert len(gallery.search(unit_rows(1, DIM, seed=3), k=100, where=where).template_ids[0]) == before + 1

    def test_what_is_no_filter_is_refused(self, gallery: Gallery) -> None:
        with pytest.raises(InvalidParameter, match="where"):
            gallery.search(unit_rows(1, DIM, seed=3), where={"n": {"like": 1}})


class TestListing:
    @pytest.mark.parametrize("limit", [1, 7, 56, 57, 58, 1000])
    def test_every_template_is_in_one_page(self, gallery: Gallery, limit: int) -> None:
        assert listed(gallery, limit) == in_listing_order([f"t{i}" for i in range(57)])

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_of_an_identity(self, gallery: Gallery, limit: int) -> None:
        for number, person in enumerate(PEOPLE):
            if person is not None:
                assert listed(gallery, limit, person) == in_listing_order([f"t{i}" for i in range(number, 57, 5)])
        assert listed(gallery, limit, "nobody") == []

    def test_it_tells_labels_and_metadata(self, gallery: Gallery) -> None:
        templates = {t.template_id: t for t in gallery.list(limit=100)}
        assert (templates["t11"].identity, templates["t11"].metadata) == ("bob", {"n": 11})
        assert (templates["t10"].identity, templates["t10"].metadata) == ("ann", None)

    def test_it_is_stable_while_others_write(self, gallery: Gallery) -> None:
        """Those that are there throughout come once, whatever comes, goes and is compacted between the pages."""
        steady = {f"t{i}" for i in range(0, 57, 2)}
        found: list[str] = []
        cursor, number = None, 0
        while True:
            page = gallery.list(cursor=cursor, limit=4)
            found += [t.template_id for t in page]
            cursor = page.cursor
            if cursor is None:
                break
            gallery.enroll(unit_rows(3, DIM, seed=number), template_ids=[f"n{number}-{i}" for i in range(3)])
            gallery.delete(template_ids=[f"t{2 * number + 1}"])
            number += 1
            if number % 3 == 0:
                gallery.erase()
        assert len(found) == len(set(found))
        assert steady <= set(found)

    def test_its_cursor_may_be_of_a_template_that_went(self, gallery: Gallery) -> None:
        order = in_listing_order([f"t{i}" for i in range(57)])
        page = gallery.list(limit=10)
        gallery.delete(template_ids=order[:20])
        assert [t.template_id for t in gallery.list(cursor=page.cursor, limit=1000)] == order[20:]

    @pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.0, "5", None])
    def test_limits(self, gallery: Gallery, limit: object) -> None:
        with pytest.raises(InvalidParameter, match="limit"):
            gallery.list(limit=limit)  # type: ignore[arg-type]

    def test_a_cursor_is_of_its_own_listing(self, grid: Cluster, gallery: Gallery) -> None:
        cursor = gallery.list(limit=1).cursor
        other = grid.gallery("acme/other", create=True, dim=DIM)
        for listing, identity in ((gallery, "ann"), (other, None)):
            with pytest.raises(InvalidParameter, match="cursor"):
                listing.list(cursor=cursor, identity=identity)
        with pytest.raises(InvalidParameter, match="cursor"):
            gallery.list(cursor="made up")

    def test_an_empty_gallery(self, grid: Cluster) -> None:
        page = grid.gallery("acme/empty", create=True, dim=DIM).list()
        assert (page.templates, page.cursor) == ((), None)


class TestUpdate:
    def test_it_replaces_the_metadata(self, gallery: Gallery) -> None:
        before = gallery.search(unit_rows(1, DIM, seed=1), k=57)
        assert gallery.update("t11", {"site": "north"}) == Template("t11", "bob", {"site": "north"})
        assert gallery.get("t11") == Template("t11", "bob", {"site": "north"})
        assert gallery.search(unit_rows(1, DIM, seed=1), k=57).template_ids == before.template_ids
        assert len(gallery) == 57
        assert gallery.update("t11", None).metadata is None

    def test_filters_see_it(self, gallery: Gallery) -> None:
        assert gallery.search(unit_rows(1, DIM, seed=3), where={"site": "north"}).template_ids == ((),)
        gallery.update("t11", {"site": "north"})
        assert gallery.search(unit_rows(1, DIM, seed=3), where={"site": "north"}).template_ids == (("t11",),)
        gallery.update("t11", {"site": "south"})
        assert gallery.search(unit_rows(1, DIM, seed=3), where={"site": "north"}).template_ids == ((),)

    def test_what_is_not_there_and_what_is_no_metadata(self, gallery: Gallery) -> None:
        with pytest.raises(UnknownTemplate):
            gallery.update("nobody", {})
        with pytest.raises(InvalidParameter, match="metadata"):
            gallery.update("t1", {"n": float("nan")})
        with pytest.raises(InvalidParameter, match="at most 16384 bytes"):
            gallery.update("t1", {"n": "x" * 20_000})
        with pytest.raises(InvalidParameter, match="template_id"):
            gallery.update("", {})
        assert gallery.get("t1").metadata == {"n": 1}

    def test_it_outlives_the_process(self, grid: Cluster, gallery: Gallery, tmp_path: Path) -> None:
        gallery.update("t11", {"site": "north"})
        grid.close()
        with Cluster.open(tmp_path / "home", shard_hosts=2) as again:
            assert again.gallery("acme/staff").get("t11").metadata == {"site": "north"}
            assert again.compare() == []

    def test_the_old_metadata_is_erased(self, grid: Cluster, gallery: Gallery, tmp_path: Path) -> None:
        gallery.update("t11", {"secret": "quite-a-remarkable-text"})
        gallery.update("t11", {"secret": None})
        assert any(replica.dead_rows or replica.holds_labels for replica in gallery.erasure_report())
        gallery.erase()
        assert all(replica.is_clean for replica in gallery.erasure_report())
        grid.close()
        for path in (tmp_path / "home").rglob("*"):
            assert not path.is_file() or b"quite-a-remarkable-text" not in path.read_bytes(), path

    def test_a_repeated_request_is_one_update(self, tmp_path: Path) -> None:
        rows = unit_rows(2, DIM, seed=1)
        with Shard.create(tmp_path / "shard", dim=DIM, load_model=no_model) as shard:
            shard.enroll(EnrollBatch(rows, ("a", "b"), (None, "ann"), (None, b"{}")))
            assert shard.amend(["a", "c"], [b'{"n":1}', b"{}"], operation=b"once") == 1
            lsn = shard.lsn
            assert shard.amend(["a"], [b'{"n":2}'], operation=b"twice") == 1
            assert shard.amend(["a", "c"], [b'{"n":1}', b"{}"], operation=b"once") == 1
            assert shard.records(["a"])[0].metadata == b'{"n":2}'
            assert shard.lsn == lsn + 1
            assert shard.amend(["a"], [b'{"n":2}']) == 1  # as it is: nothing is written
            assert shard.lsn == lsn + 1

    def test_a_snapshot_that_is_being_made_has_it_once(self, tmp_path: Path) -> None:
        """Before its row is read or after: like a row that compaction moves."""
        rows = unit_rows(3, DIM, seed=1)
        with Shard.create(tmp_path / "shard", dim=DIM, load_model=no_model) as shard:
            shard.enroll(EnrollBatch(rows, ("a", "b", "c"), (None,) * 3, (None,) * 3))
            point = shard.point(0)
            shard.amend(["b"], [b'{"n":1}'])
            shard.enroll(EnrollBatch(rows[:1], ("d",), (None,), (None,)))
            (segment,) = point.segments
            read = shard.export(RowRange(segment.segment, 0, point.rows, point.lsn), b"")
            moved = shard.export_moved(MovedRange(point.rows, point.lsn, FIRST_KEY))
            assert read.template_ids == ("a", "c")
            assert (moved.template_ids, moved.metadata) == (("b",), (b'{"n":1}',))
            np.testing.assert_array_equal(moved.floats, rows[1:2])


class TestRangeSearch:
    def test_everything_within_the_threshold(self, gallery: Gallery) -> None:
        rows, probes = unit_rows(57, DIM, seed=1), unit_rows(4, DIM, seed=2)
        found = gallery.range_search(probes, 0.1, exact=True)
        true = rows.astype(np.float64) @ probes.T.astype(np.float64)
        for probe, names in enumerate(found.template_ids):
            assert sorted(names) == sorted(f"t{i}" for i in np.flatnonzero(true[:, probe] >= 0.1))
        assert found.is_truncated == (False,) * 4
        assert found.scores.shape == (4, max(map(len, found.template_ids)))
        assert found.coverage.is_complete
        assert len(found) == 4

    def test_it_says_where_the_limit_was_reached(self, gallery: Gallery) -> None:
        probes = np.stack([unit_rows(57, DIM, seed=1)[3], *unit_rows(1, DIM, seed=2)])
        found = gallery.range_search(probes, 0.999, limit=1)
        assert found.template_ids == (("t3",), ())
        assert found.is_truncated == (True, False)

    def test_nothing_is_an_answer(self, gallery: Gallery) -> None:
        found = gallery.range_search(unit_rows(2, DIM, seed=2), 1.0, where={"n": 4})
        assert found.template_ids == ((), ())
        assert found.scores.shape == (2, 0)

    @pytest.mark.parametrize(("threshold", "limit"), [(None, 10), (1.5, 10), (0.5, 0), (0.5, 1001), (0.5, None)])
    def test_limits(self, gallery: Gallery, threshold: Any, limit: Any) -> None:
        with pytest.raises(InvalidParameter):
            gallery.range_search(unit_rows(1, DIM, seed=2), threshold, limit=limit)


class TestVerify:
    def test_the_best_template_of_the_identity_decides(self, gallery: Gallery) -> None:
        rows = unit_rows(57, DIM, seed=1)
        same = gallery.verify(rows[11], "bob", threshold=0.9)
        assert (same.is_match, same.template_id, same.threshold) == (True, "t11", 0.9)
        assert same.score == pytest.approx(1.0, abs=1e-5)
        other = gallery.verify(rows[11], "ann", threshold=0.9)
        best = max(range(0, 57, 5), key=lambda i: float(rows[i] @ rows[11]))
        assert (other.is_match, other.template_id) == (False, f"t{best}")

    def test_errors(self, gallery: Gallery) -> None:
        row = unit_rows(1, DIM, seed=1)
        with pytest.raises(UnknownIdentity, match="nobody"):
            gallery.verify(row[0], "nobody", threshold=0.5)
        with pytest.raises(InvalidEmbedding):
            gallery.verify(row, "ann", threshold=0.5)
        with pytest.raises(InvalidEmbedding):
            gallery.verify(row[0].tolist(), "ann", threshold=0.5)  # type: ignore[arg-type]
        with pytest.raises(InvalidEmbedding):
            gallery.verify(row[0][:5], "ann", threshold=0.5)
        with pytest.raises(InvalidParameter):
            gallery.verify(row[0], "ann", threshold=float("nan"))
