"""Renaming and merging identities: interrupted at every step, and beside other writes, nothing is lost or found twice.

Homes of this process, three hosts with one shard each, so that a request for one shard says nothing of another.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import Cluster
from cluster.gallery import Gallery
from coordinator import identities
from coordinator.coordinator import Coordinator
from coordinator.messages import (
    DeleteRequest,
    EnrollRequest,
    ListRequest,
    MoveOutRequest,
    RecordsRequest,
    RenameRequest,
    SearchRequest,
)
from coordinator.placement import shards_of
from coordinator.runtime import LocalRuntime
from shard.errors import AlreadyExists, HostBusy, InvalidParameter, UnknownIdentity
from tests.faces_like import assert_exact, unit_rows

DIM, SHARDS, OLD, SOON_S = 64, 3, "ann", 60.0
NAMES = [f"name-{i}" for i in range(50)]


def shard_of(identity: str) -> int:
    return int(shards_of((identity,), ("",), SHARDS)[0])


ELSEWHERE = next(name for name in NAMES if shard_of(name) != shard_of(OLD))
THERE = next(name for name in NAMES if shard_of(name) == shard_of(OLD))
OTHERS = next(name for name in NAMES if shard_of(name) not in (shard_of(OLD), shard_of(ELSEWHERE)))


class Crash(Exception):
    """The process is gone, as far as the one who changes identities can tell."""


class Steps:
    """Looks at each step of an identity change on its way to a host; `at(number, request)` may raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_after: bool = False) -> None:
        self.count = itertools.count(1)
        self.at: Callable[[int, Any], None] = lambda number, request: None
        self.on_any: Callable[[str, Any], None] = lambda host, request: None
        own = LocalRuntime.submit

        def submit(runtime: LocalRuntime, host: str, request: Any, *, deadline: float) -> Future[Any]:
            self.on_any(host, request)
            is_step = isinstance(request, (MoveOutRequest, RenameRequest)) or (
                isinstance(request, EnrollRequest) and "facegrid-user" not in threading.current_thread().name
            )
            number = next(self.count) if is_step else 0
            if is_step and not is_after:
                self.at(number, request)
            future = own(runtime, host, request, deadline=deadline)
            if is_step and is_after:
                future.result()
                self.at(number, request)
            return future

        monkeypatch.setattr(LocalRuntime, "submit", submit)

    def crash(self, step: int) -> None:
        """At this step and from then on."""

        def at(number: int, request: Any) -> None:
            if number >= step:
                raise Crash

        self.count, self.at = itertools.count(1), at

    def go_on(self) -> None:
        self.at = lambda number, request: None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def grid(home: Path) -> Iterator[Cluster]:
    with Cluster.open(home, shard_hosts=SHARDS) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "PAGE_ROWS", 4)
    monkeypatch.setattr(identities, "RENAME_ROWS", 4)


ROWS = unit_rows(30, DIM, seed=1)
PEOPLE = [OLD if i < 11 else OTHERS if i < 20 else None for i in range(30)]


def filled(grid: Cluster) -> Gallery:
    """30 templates, 11 of OLD, 9 of OTHERS, metadata of every third."""
    gallery = grid.gallery("acme/staff", create=True, shards=SHARDS, dim=DIM)
    gallery.enroll(
        ROWS,
        template_ids=[f"t{i}" for i in range(30)],
        identities=PEOPLE,
        metadata=[{"n": i} if i % 3 else None for i in range(30)],
    )
    return gallery


def assert_found_once(gallery: Gallery, k: int = 7) -> None:
    """Searches see every template once, whatever is under way."""
    probes = np.stack([*unit_rows(3, DIM, seed=5), *ROWS[:11:4]])
    ids = [f"t{i}" for i in range(30)]
    for count in (1, k, 30, 200):
        found = gallery.search(probes, k=count, exact=True)
        assert_exact(found.template_ids, ids, ROWS, probes, count)


def assert_named(gallery: Gallery, new: str) -> None:
    """Every template is there once, with its own floats and metadata, those of OLD as `new`."""
    assert_found_once(gallery)
    people = [new if person == OLD else person for person in PEOPLE]
    listed = {t.template_id: (t.identity, t.metadata) for t in gallery.list(limit=1000)}
    assert listed == {f"t{i}": (people[i], {"n": i} if i % 3 else None) for i in range(30)}
    assert len(gallery) == 30
    assert OLD not in gallery
    counts = {entry.identity: entry.templates for entry in gallery.identities()}
    assert counts == {name: people.count(name) for name in {*people} - {None}}
    among = gallery.search(ROWS[:1], k=30, identities=[new])
    assert sorted(among.template_ids[0]) == sorted(f"t{i}" for i in range(30) if people[i] == new)
    assert not gallery.search(ROWS[:1], k=30, identities=[OLD]).template_ids[0]


def forget_departures(grid: Cluster) -> None:
    """As if minutes had passed since templates left a shard."""
    assert isinstance(grid.runtime, LocalRuntime)
    for host in grid.runtime._hosts.values():
        for replica in host._replicas.values():
            replica.shard._holds._left_at = replica.shard._holds._held_until = float("-inf")


def resumed(grid: Cluster) -> None:
    assert isinstance(grid.coordinator, Coordinator)
    grid.coordinator.identities.wait()


@pytest.mark.parametrize("new", [ELSEWHERE, THERE])
class TestRename:
    def test_all_templates_have_the_new_name(self, grid: Cluster, new: str) -> None:
        gallery = filled(grid)
        assert gallery.rename_identity(OLD, new) == 11
        assert_named(gallery, new)
        with pytest.raises(UnknownIdentity, match=OLD):
            gallery.rename_identity(OLD, new)

    @pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("is_reopened", [False, True], ids=["repeated", "reopened"])
    def test_it_is_completed_wherever_it_stopped(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, new: str, is_after: bool, is_reopened: bool
    ) -> None:
        for step in itertools.count(1):
            where = home / str(step)
            steps = Steps(monkeypatch, is_after=is_after)
            with Cluster.open(where, shard_hosts=SHARDS) as grid:
                gallery = filled(grid)
                steps.crash(step)
                try:
                    gallery.rename_identity(OLD, new)
                    is_done = True
                except Crash:
                    is_done = False
                steps.go_on()
                assert_found_once(gallery)
                if not is_done and not is_reopened:
                    # What had changed when it stopped may not have been counted.
                    assert 0 <= gallery.rename_identity(OLD, new) <= 11
                    assert_named(gallery, new)
            with Cluster.open(where, shard_hosts=SHARDS) as grid:
                resumed(grid)
                gallery = grid.gallery("acme/staff")
                assert_named(gallery, new)
                gallery.erase()
                assert_named(gallery, new)
            monkeypatch.undo()
            monkeypatch.setattr(identities, "PAGE_ROWS", 4)
            monkeypatch.setattr(identities, "RENAME_ROWS", 4)
            if is_done:
                assert step > 3
                break

    def test_a_name_that_is_taken_is_refused(self, grid: Cluster, new: str) -> None:
        gallery = filled(grid)
        gallery.enroll(ROWS[:1], identities=[new], template_ids=["there"])
        with pytest.raises(AlreadyExists, match="merge"):
            gallery.rename_identity(OLD, new)
        assert gallery.merge_identities([OLD], new) == 11
        assert new in gallery
        assert OLD not in gallery


class TestMerge:
    def test_several_become_one(self, grid: Cluster) -> None:
        gallery = filled(grid)
        assert gallery.merge_identities([OLD, ELSEWHERE, OTHERS][::2], ELSEWHERE) == 20
        assert [(e.identity, e.templates) for e in gallery.identities()] == [(ELSEWHERE, 20)]
        assert_found_once(gallery)

    def test_into_one_of_them(self, grid: Cluster) -> None:
        gallery = filled(grid)
        assert gallery.merge_identities([OLD, OTHERS], OTHERS) == 11
        assert [(e.identity, e.templates) for e in gallery.identities()] == [(OTHERS, 20)]

    @pytest.mark.parametrize("names", [[], "ann", [OLD, 5], ["x"] * 1001, [ELSEWHERE]])
    def test_what_cannot_be(self, grid: Cluster, names: Any) -> None:
        with pytest.raises(InvalidParameter):
            filled(grid).merge_identities(names, ELSEWHERE)

    def test_a_name_without_templates_changes_nothing(self, grid: Cluster) -> None:
        gallery = filled(grid)
        with pytest.raises(UnknownIdentity, match="nobody"):
            gallery.merge_identities([OLD, "nobody"], ELSEWHERE)
        assert OLD in gallery

    def test_another_change_completes_an_interrupted_one(self, grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        steps, gallery = Steps(monkeypatch), filled(grid)
        steps.crash(4)
        with pytest.raises(Crash):
            gallery.rename_identity(OLD, ELSEWHERE)
        steps.go_on()
        assert gallery.merge_identities([ELSEWHERE], OTHERS) == 11
        assert [(e.identity, e.templates) for e in gallery.identities()] == [(OTHERS, 20)]


class TestBesideOthers:
    """What users do while a page is between two shards."""

    @pytest.fixture
    def users(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(4, thread_name_prefix="facegrid-user") as pool:
            yield pool

    def change_beside(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor, work: Callable[[Gallery], Any]
    ) -> tuple[Gallery, Any]:
        """Begin `work` once the first page was read, and write the page elsewhere when `work` was refused its shard."""
        gallery = filled(grid)
        steps = Steps(monkeypatch)
        is_refused, began = threading.Event(), []
        own = LocalRuntime._execute

        def execute(runtime: LocalRuntime, host: str, request: Any, deadline: float) -> Any:
            try:
                return own(runtime, host, request, deadline)
            except HostBusy:
                is_refused.set()
                raise

        monkeypatch.setattr(LocalRuntime, "_execute", execute)

        def at(number: int, request: Any) -> None:
            if number == 2:
                assert isinstance(request, EnrollRequest)
                began.append(users.submit(work, gallery))
                assert is_refused.wait(SOON_S)

        steps.at = at
        assert gallery.rename_identity(OLD, ELSEWHERE) > 0
        return gallery, began[0].result(SOON_S)

    def test_a_deleted_template_does_not_come_back(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor
    ) -> None:
        gallery, deleted = self.change_beside(grid, monkeypatch, users, lambda g: g.delete(template_ids=["t0", "t10"]))
        assert deleted == 2
        assert not {"t0", "t10"} & set(gallery.search(ROWS[:1], k=200, exact=True).template_ids[0])
        assert gallery.templates(["t0", "t10"]) == []
        assert len(gallery) == 28

    def test_an_update_reaches_the_template(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor
    ) -> None:
        gallery, updated = self.change_beside(grid, monkeypatch, users, lambda g: g.update("t0", {"new": True}))
        assert updated.metadata == {"new": True}
        assert (gallery.get("t0").identity, gallery.get("t0").metadata) == (ELSEWHERE, {"new": True})
        assert len(gallery) == 30

    def test_an_enrollment_under_the_old_name_begins_it_anew(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor
    ) -> None:
        gallery, result = self.change_beside(
            grid, monkeypatch, users, lambda g: g.enroll(ROWS[:1], identities=[OLD], template_ids=["late"])
        )
        assert result.enrolled == 1
        assert {e.identity: e.templates for e in gallery.identities()} == {OLD: 1, ELSEWHERE: 11, OTHERS: 9}

    def test_deleting_the_old_name_finds_nobody(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor
    ) -> None:
        gallery, deleted = self.change_beside(grid, monkeypatch, users, lambda g: g.delete(identity=OLD))
        assert deleted == 0
        assert_named(gallery, ELSEWHERE)

    def test_a_deletion_that_looked_too_early_looks_again(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, users: ThreadPoolExecutor
    ) -> None:
        """It asks the new shard before the template comes, and the old one when it has left."""
        gallery = filled(grid)
        hosts = gallery._route.hosts
        old, new = OLD, ELSEWHERE
        if hosts[shard_of(old)] < hosts[shard_of(new)]:  # hosts are asked by name: the new one has to come first
            gallery.rename_identity(old, new)
            old, new = new, old
            forget_departures(grid)
        renamed: list[int] = []
        steps = Steps(monkeypatch)

        def on_any(host: str, request: Any) -> None:
            if isinstance(request, DeleteRequest) and request.shards == (shard_of(old),) and not renamed:
                renamed.append(0)
                renamed[0] = gallery.rename_identity(old, new)

        steps.on_any = on_any
        assert gallery.delete(template_ids=["t0"]) == 1
        assert renamed == [11]
        assert gallery.templates(["t0"]) == []

    @pytest.mark.parametrize("kind", [SearchRequest, RecordsRequest, ListRequest])
    def test_a_read_that_looked_too_early_looks_again(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch, kind: type
    ) -> None:
        """It asks the new shard before the templates come, and the old one when they have left."""
        gallery = filled(grid)
        hosts = gallery._route.hosts
        old, new = OLD, ELSEWHERE
        if hosts[shard_of(old)] < hosts[shard_of(new)]:
            gallery.rename_identity(old, new)
            old, new = new, old
            forget_departures(grid)
        renamed: list[int] = []
        steps = Steps(monkeypatch)

        def on_any(host: str, request: Any) -> None:
            if isinstance(request, kind) and shard_of(old) in request.shards and not renamed:
                renamed.append(0)
                renamed[0] = gallery.rename_identity(old, new)

        steps.on_any = on_any
        if kind is SearchRequest:
            assert_found_once(gallery)
        else:
            assert len(gallery.list(limit=50)) == 30
        assert renamed == [11]

    def test_searches_find_every_template_once_all_the_time(
        self, grid: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Looked at before and after each step, filters too."""
        for is_after in (False, True):
            steps = Steps(monkeypatch, is_after=is_after)
            gallery = grid.gallery("acme/staff") if is_after else filled(grid)

            def at(number: int, request: Any, gallery: Gallery = gallery) -> None:
                assert_found_once(gallery)
                found = gallery.search(ROWS[:2], k=30, where={"n": {"gte": 0}})
                assert all(sorted(names) == sorted(f"t{i}" for i in range(30) if i % 3) for names in found.template_ids)
                assert len({t.template_id for t in gallery.list(limit=50)}) == len(gallery.list(limit=50)) == 30

            steps.at = at
            names = (ELSEWHERE, OLD) if is_after else (OLD, ELSEWHERE)
            assert gallery.rename_identity(*names) == 11


def test_a_snapshot_that_meets_a_change_has_every_template_once(
    grid: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Templates that leave a shard between its moment and its reading are read again where they are."""
    from coordinator.messages import ExportRequest

    gallery, steps, renamed = filled(grid), Steps(monkeypatch), []

    def on_any(host: str, request: Any) -> None:
        if isinstance(request, ExportRequest) and not renamed:
            renamed.append(True)
            gallery.rename_identity(OLD, ELSEWHERE)

    steps.on_any = on_any
    store = grid.snapshots(tmp_path / "store")
    report = store.create("acme/staff", progress=False)
    assert report.manifest.templates == 30
    store.restore(report.manifest.snapshot_id, into="acme/again", progress=False)
    assert_named(grid.gallery("acme/again"), ELSEWHERE)
