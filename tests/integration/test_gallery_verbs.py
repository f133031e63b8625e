"""The verbs of a gallery beside enrolling and searching, on a home of this process with several hosts and shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from cluster.gallery import Gallery
from shard.errors import InvalidParameter
from shard.keys import in_listing_order
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
