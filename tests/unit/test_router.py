"""The router over hosts of this process: large enrollments in pieces, limits of a search, order of equal scores."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from coordinator import writes
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.messages import DataRequest, EnrollRequest, Reply
from coordinator.router import Router
from coordinator.runtime import LocalRuntime
from coordinator.types import GalleryRoute, GallerySpec
from shard.errors import DeadlineExceeded, InvalidParameter, UnknownGallery
from shard.types import SearchParams
from tests.faces_like import batch_of, unit_rows

DIM = 64


class Recorded:
    """A runtime that notes how many writes are unsettled when one is submitted."""

    def __init__(self, runtime: LocalRuntime) -> None:
        self._runtime = runtime
        self.shards: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._runtime, name)

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        if isinstance(request, EnrollRequest):
            self.shards.append(request.shard)
        return self._runtime.submit(host, request, deadline=deadline)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LocalRuntime]:
    opened = LocalRuntime(tmp_path / "hosts", ["host-0", "host-1", "host-2"])
    yield opened
    opened.close()


@pytest.fixture
def coordinator(tmp_path: Path, runtime: LocalRuntime) -> Iterator[Coordinator]:
    opened = Coordinator(Catalog(tmp_path / "catalog.db"), runtime)
    yield opened
    opened.close()


@pytest.fixture
def route(coordinator: Coordinator) -> GalleryRoute:
    return coordinator.create_gallery(GallerySpec("acme/staff", DIM, 3, 256, None))


def test_a_large_batch_is_written_in_pieces_with_shards_taking_turns(
    runtime: LocalRuntime, route: GalleryRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "ARRAY_BYTES", 20 * DIM * 4)
    monkeypatch.setattr(writes, "WRITES_IN_FLIGHT", 2)
    recorded = Recorded(runtime)
    router = Router(recorded)  # type: ignore[arg-type]
    batch = batch_of(unit_rows(200, DIM, seed=1))
    outcome = router.enroll(route, batch, skip_existing=False, new_ids=False)
    assert (outcome.enrolled, outcome.skipped) == (200, 0)
    assert sum(stats.templates for stats in router.stats(route)) == 200
    assert len(recorded.shards) >= 10
    assert recorded.shards[:3] == [0, 1, 2]
    found = router.search(route, batch.embeddings, SearchParams(k=1, exact=True))
    assert [ids[0] for ids in found.candidates.template_ids] == list(batch.template_ids)


@pytest.mark.parametrize("threshold", [float("nan"), 1.5, "0.4"])
def test_a_threshold_that_is_no_cosine_is_refused(runtime: LocalRuntime, route: GalleryRoute, threshold: float) -> None:
    with pytest.raises(InvalidParameter, match="threshold: expected a cosine"):
        Router(runtime).search(route, unit_rows(1, DIM, seed=1), SearchParams(k=1, threshold=threshold))


@pytest.mark.parametrize("deadline_ms", [0, -1, float("nan"), float("inf"), None])
def test_a_deadline_that_is_none_is_refused(runtime: LocalRuntime, route: GalleryRoute, deadline_ms: int) -> None:
    with pytest.raises(InvalidParameter, match="deadline_ms: expected a number above 0"):
        Router(runtime).search(route, unit_rows(1, DIM, seed=1), SearchParams(k=1), deadline_ms=deadline_ms)


def test_a_deadline_that_passed_is_not_searched_past(runtime: LocalRuntime, route: GalleryRoute) -> None:
    with pytest.raises(DeadlineExceeded, match="host-0"):
        Router(runtime).search(route, unit_rows(1, DIM, seed=1), SearchParams(k=1), deadline_ms=1e-9)  # type: ignore[arg-type]


def test_scores_past_one_keep_the_order_of_one_shard(
    tmp_path: Path, coordinator: Coordinator, runtime: LocalRuntime
) -> None:
    """Rounding carries some scores past 1; cut before the merge they would tie, and their order change with shards."""
    rng = np.random.default_rng(5)
    base = unit_rows(1, 512, seed=5)
    near = base + rng.normal(size=(64, 512)).astype(np.float32) * np.float32(1e-8)
    rows = np.ascontiguousarray(near / np.linalg.norm(near, axis=1, keepdims=True), np.float32)
    lists = []
    for shards in (1, 3):
        route = coordinator.create_gallery(GallerySpec(f"acme/near{shards}", 512, shards, 256, None))
        router = Router(runtime)
        router.enroll(route, batch_of(rows), skip_existing=False, new_ids=False)
        found = router.search(route, rows[:4], SearchParams(k=64, exact=True)).candidates
        assert found.scores.max() <= 1.0
        lists.append(found.template_ids)
    assert lists[0] == lists[1]


def test_a_gallery_that_was_dropped_is_unknown_to_those_who_hold_its_route(
    coordinator: Coordinator, runtime: LocalRuntime, route: GalleryRoute
) -> None:
    coordinator.drop_gallery(route.name)
    with pytest.raises(UnknownGallery):
        Router(runtime).search(route, unit_rows(1, DIM, seed=1), SearchParams(k=1))
    with pytest.raises(UnknownGallery):
        Router(runtime).enroll(route, batch_of(unit_rows(1, DIM, seed=1)), skip_existing=False, new_ids=True)
