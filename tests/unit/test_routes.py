"""The newest known route: who asks the coordinator, how often, and what is used while it is away."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from coordinator.routes import RefreshPolicy, RouteTable
from coordinator.types import GalleryRoute
from shard.errors import AuthenticationFailed, DeadlineExceeded, HostUnavailable, StorageError, UnknownGallery

SOON = 10.0
ROUTE = GalleryRoute("0" * 16, "acme/staff", 64, 256, None, (("a", "b"), ("b", "a")), (1, 1), None, 3)
POLICY = RefreshPolicy(interval_s=1.0, first_back_off_s=2.0, max_back_off_s=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def newer(version: int, **changed: object) -> GalleryRoute:
    return dataclasses.replace(ROUTE, version=version, **changed)  # type: ignore[arg-type]


class Told:
    """A coordinator that tells what the test puts here, or raises it."""

    def __init__(self, answer: GalleryRoute | Exception) -> None:
        self.answer = answer
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, name: str) -> GalleryRoute:
        assert name == ROUTE.name
        self.asked += 1
        self.entered.release()
        assert self.gate.wait(SOON)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Iterator[Told]:
    one = Told(newer(4))
    yield one
    one.gate.set()


@pytest.fixture
def table(told: Told, clock: Clock) -> RouteTable:
    return RouteTable(told, POLICY, clock)


def test_without_a_look_up_the_route_stays() -> None:
    table = RouteTable()
    assert table.current(ROUTE) is ROUTE
    assert table.refresh(ROUTE) is ROUTE


def test_the_newer_of_the_known_and_the_given_is_used(table: RouteTable) -> None:
    assert table.current(ROUTE) is ROUTE
    assert table.refresh(ROUTE, SOON) == newer(4)
    assert table.current(ROUTE) == newer(4)
    assert table.current(newer(5)) == newer(5)
    other = newer(1, gallery_id="1" * 16)
    assert table.current(other) is other


@pytest.mark.parametrize("error", [HostUnavailable, StorageError, DeadlineExceeded])
def test_a_coordinator_that_is_away_leaves_what_is_known(
    table: RouteTable, told: Told, clock: Clock, error: type[Exception]
) -> None:
    table.refresh(ROUTE, SOON)
    told.answer = error("away")
    clock.now += 2.0
    assert table.refresh(ROUTE, SOON) == newer(4)
    assert told.asked == 2


def test_one_that_is_away_is_asked_rarely_and_less_and_less(table: RouteTable, told: Told, clock: Clock) -> None:
    told.answer = HostUnavailable("away")
    for back_off in (2.0, 4.0, 5.0, 5.0):
        before = told.asked
        for _ in range(100):
            assert table.refresh(ROUTE, SOON) is ROUTE
        assert told.asked == before + 1
        clock.now += back_off
    told.answer = newer(9)
    assert table.refresh(ROUTE, SOON) == newer(9)


def test_one_that_answers_is_not_asked_by_every_query_either(table: RouteTable, told: Told, clock: Clock) -> None:
    for _ in range(50):
        assert table.refresh(ROUTE, SOON) == newer(4)
    assert told.asked == 1
    clock.now += 1.0
    table.refresh(ROUTE, SOON)
    assert told.asked == 2


def test_who_wants_to_see_his_own_change_has_it_asked_again_but_not_while_it_is_away(
    table: RouteTable, told: Told, clock: Clock
) -> None:
    assert table.refresh(ROUTE, SOON) == newer(4)
    told.answer = newer(5)
    assert table.refresh(ROUTE, SOON) == newer(4)
    assert table.refresh(ROUTE, SOON, is_pressing=True) == newer(5)
    told.answer = HostUnavailable("away")
    for _ in range(10):
        assert table.refresh(ROUTE, SOON, is_pressing=True) == newer(5)
    assert told.asked == 3


def test_many_who_want_the_same_share_one_call(table: RouteTable, told: Told) -> None:
    told.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        wanted = [threads.submit(table.refresh, ROUTE, SOON) for _ in range(8)]
        assert told.entered.acquire(timeout=SOON)
        told.gate.set()
        assert {future.result(SOON).version for future in wanted} == {4}
    assert told.asked == 1


def test_one_that_hangs_is_waited_for_no_longer_than_asked(table: RouteTable, told: Told, clock: Clock) -> None:
    told.gate.clear()
    assert table.refresh(ROUTE, 0.01) is ROUTE
    clock.now += 10.0  # later queries do not wait at all, and do not ask again
    assert table.refresh(ROUTE, SOON) is ROUTE
    assert told.asked == 1
    clock.now += POLICY.lost_s
    told.gate.set()
    assert table.refresh(ROUTE, SOON) == newer(4)


def test_an_older_answer_does_not_replace_a_newer_one(table: RouteTable, told: Told, clock: Clock) -> None:
    table.refresh(ROUTE, SOON)
    told.answer = newer(2)
    clock.now += 2.0
    assert table.refresh(ROUTE, SOON) == newer(4)
    assert table.current(ROUTE) == newer(4)


def raises(answer: GalleryRoute | Exception) -> Callable[[], object]:
    return lambda: RouteTable(Told(answer), POLICY).refresh(ROUTE, SOON)


def test_a_gallery_that_was_dropped_is_unknown_even_where_another_has_its_name() -> None:
    with pytest.raises(UnknownGallery, match="another one has its name"):
        raises(newer(9, gallery_id="1" * 16))()
    with pytest.raises(UnknownGallery, match="no gallery"):
        raises(UnknownGallery("no gallery"))()


def test_what_does_not_mean_away_is_raised() -> None:
    with pytest.raises(AuthenticationFailed):
        raises(AuthenticationFailed("no"))()
