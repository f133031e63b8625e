"""Whose turn it is: fair queueing, queries that travel together, rates. No clock: workers wait for the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.results import SearchBatch
from cluster.service import scheduler
from cluster.service.metrics import Metrics
from cluster.service.rates import RateLimits
from cluster.service.scheduler import FairScheduler, Piece
from cluster.service.searches import BATCH_ROWS, GROUP_ROWS, Searches
from coordinator.types import Coverage
from shard.errors import RateLimited, ShardClosed, UnknownGallery


class Gate:
    """Work that stops the only worker until it is opened."""

    def __init__(self, turns: FairScheduler) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        turns.submit(("gate", ""), 1.0, Piece(self._wait, 0.0))
        assert self._reached.wait(10)

    def _wait(self) -> None:
        self._reached.set()
        assert self._open.wait(30)

    def open(self) -> None:
        self._open.set()


def order_of(pieces: list[tuple[str, float, float]]) -> list[str]:
    """The order in which (tenant, weight, cost) that wait together are carried out by one worker."""
    turns, done = FairScheduler("test", 1), []
    gate = Gate(turns)
    for tenant, weight, cost in pieces:
        turns.submit((tenant, "x"), weight, Piece(_appender(done, tenant), cost))
    gate.open()
    turns.close()
    return done


def _appender(done: list[str], tenant: str) -> Callable[[], None]:
    return lambda: done.append(tenant)


def test_a_single_query_goes_before_what_a_flood_has_queued() -> None:
    order = order_of([("flood", 1, 1.0)] * 100 + [("light", 1, 1.0)])
    assert order.index("light") <= 1


def test_the_work_of_one_tenant_is_done_in_its_order() -> None:
    turns, done = FairScheduler("test", 1), []
    gate = Gate(turns)
    for i in range(20):
        turns.submit(("a", "x"), 1, Piece(_appender(done, str(i)), 1.0))
    gate.open()
    turns.close()
    assert done == [str(i) for i in range(20)]


def test_weights_are_shares() -> None:
    order = order_of([("heavy", 3, 1.0)] * 60 + [("light", 1, 1.0)] * 60)
    assert 28 <= order[:40].count("heavy") <= 32


def test_what_costs_more_comes_less_often() -> None:
    order = order_of([("dear", 1, 4.0)] * 30 + [("cheap", 1, 1.0)] * 120)
    assert 6 <= order[:40].count("dear") <= 10


def test_nobody_saves_turns_up_while_idle() -> None:
    """One that comes late starts at the present: it gets its half, and not all that it did not use before."""
    turns, done = FairScheduler("test", 1), []
    gate = Gate(turns)
    for _ in range(50):
        turns.submit(("early", "x"), 1, Piece(_appender(done, "early"), 1.0))

    came = threading.Event()

    def come_late() -> None:
        for _ in range(25):
            turns.submit(("late", "x"), 1, Piece(_appender(done, "late"), 1.0))
        came.set()

    turns.submit(("early", "x"), 1, Piece(come_late, 1.0))
    for _ in range(50):
        turns.submit(("early", "x"), 1, Piece(_appender(done, "early"), 1.0))
    gate.open()
    assert came.wait(10)
    turns.close()
    rest = done[50:]
    assert 8 <= rest[:20].count("late") <= 12


def test_a_queue_that_is_full_refuses_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MAX_WAITING", 5)
    turns, done = FairScheduler("test", 1), []
    gate = Gate(turns)
    for _ in range(5):
        turns.submit(("a", "x"), 1, Piece(_appender(done, "a"), 1.0))
    with pytest.raises(RateLimited) as caught:
        turns.submit(("a", "x"), 1, Piece(_appender(done, "a"), 1.0))
    assert caught.value.retry_after_s > 0
    turns.submit(("b", "x"), 1, Piece(_appender(done, "b"), 1.0))
    assert turns.waiting() == {"gate": 0, "a": 5, "b": 1}
    gate.open()
    turns.close()
    assert sorted(done) == ["a"] * 5 + ["b"]
    with pytest.raises(ShardClosed):
        turns.submit(("a", "x"), 1, Piece(_appender(done, "a"), 1.0))


class Gallery:
    """Answers with the first number of each probe, and notes which probes came together."""

    def __init__(self, name: str, fails: bool = False) -> None:
        self.name, self.calls, self._fails = name, [], fails

    def search(self, probes: np.ndarray, **options: Any) -> SearchBatch:
        self.calls.append((len(probes), {k: v for k, v in options.items() if k != "deadline_ms"}))
        if self._fails:
            raise UnknownGallery(f"no gallery {self.name!r}")
        ids = tuple((str(int(row[0])),) for row in probes)
        return SearchBatch(ids, probes[:, :1].copy(), ((None,),) * len(probes), Coverage(2, 2))


def searched(asks: list[tuple[str, Gallery, int, tuple[tuple[str, Any], ...]]]) -> list[Any]:
    """Results, or errors, of (tenant, gallery, probes, options) that wait together for one worker."""

    async def run() -> list[Any]:
        turns = FairScheduler("test", 1)
        searches, gate = Searches(turns, Metrics()), Gate(turns)
        number, waiting = 0, []
        for tenant, gallery, rows, options in asks:
            probes = np.arange(number, number + rows, dtype=np.float32)[:, None].repeat(2, 1)
            number += rows
            waiting.append(asyncio.ensure_future(searches.search(tenant, 1, gallery, probes, options, 1e12)))
        await asyncio.sleep(0)
        gate.open()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        turns.close()
        return results

    return asyncio.run(run())


def test_single_queries_of_one_gallery_travel_together_and_get_their_own_answers() -> None:
    gallery = Gallery("a/g")
    results = searched([("a", gallery, 1, (("k", 1),))] * 10)
    assert gallery.calls == [(10, {"k": 1})]
    assert [result.template_ids for result in results] == [((str(i),),) for i in range(10)]


def test_no_more_travel_together_than_fit_and_none_with_other_options_tenants_or_galleries() -> None:
    one, two = Gallery("a/one"), Gallery("a/two")
    results = searched(
        [("a", one, 1, (("k", 1),))] * (GROUP_ROWS + 1)
        + [("a", one, 1, (("k", 2),)), ("b", one, 1, (("k", 1),)), ("a", two, 1, (("k", 1),))]
    )
    assert sorted(one.calls, key=str) == sorted(
        [(GROUP_ROWS, {"k": 1}), (1, {"k": 1}), (1, {"k": 2}), (1, {"k": 1})], key=str
    )
    assert two.calls == [(1, {"k": 1})]
    assert [result.template_ids[0][0] for result in results] == [str(i) for i in range(GROUP_ROWS + 4)]


def test_a_batch_is_cut_into_pieces_and_put_together_in_order() -> None:
    gallery = Gallery("a/g")
    (result,) = searched([("a", gallery, 500, (("k", 1),))])
    assert len(gallery.calls) > 1
    assert max(rows for rows, _ in gallery.calls) <= GROUP_ROWS
    assert result.template_ids == tuple((str(i),) for i in range(500))
    assert result.scores[:, 0].tolist() == list(range(500))


def test_a_single_query_of_another_tenant_waits_for_no_batch() -> None:
    order: list[str] = []

    class Noting(Gallery):
        def search(self, probes: np.ndarray, **options: Any) -> SearchBatch:
            order.append(self.name)
            return super().search(probes, **options)

    searched([("flood", Noting("flood/g"), 50 * GROUP_ROWS, (("k", 1),)), ("light", Noting("light/g"), 1, (("k", 1),))])
    assert order.index("light/g") <= 1


def test_an_error_is_told_to_all_who_travelled_together_and_to_nobody_else() -> None:
    bad, good = Gallery("a/bad", fails=True), Gallery("a/good")
    results = searched([("a", bad, 1, ()), ("a", bad, 2, ()), ("a", good, 1, ()), ("a", bad, BATCH_ROWS + 1, ())])
    assert [isinstance(result, UnknownGallery) for result in results] == [True, True, False, True]


def test_a_rate_holds_over_time_and_says_when_there_is_room() -> None:
    limits, now, taken = RateLimits(), 0.0, 0
    while now < 20.0:
        try:
            limits.take("t", 1, 10.0, now)
            taken += 1
            now += 0.001
        except RateLimited as error:
            now += error.retry_after_s
    assert 200 <= taken <= 211


def test_a_batch_larger_than_the_bucket_is_served_and_paid_for_afterwards() -> None:
    limits = RateLimits()
    limits.take("t", 100, 10.0, 0.0)
    with pytest.raises(RateLimited) as caught:
        limits.take("t", 1, 10.0, 0.0)
    assert caught.value.retry_after_s == pytest.approx(9.1)
    limits.take("t", 1, 10.0, 9.2)
    limits.take("other", 1, 10.0, 0.0)
    limits.take("t", 10**6, None, 0.0)


def test_gateways_share_a_rate() -> None:
    limits = RateLimits(4)
    limits.take("t", 3, 12.0, 0.0)
    with pytest.raises(RateLimited):
        limits.take("t", 1, 12.0, 0.0)


def test_as_many_are_under_way_as_it_is_sized_for() -> None:
    turns = FairScheduler("test", 1)
    at_once = threading.Semaphore(0)
    go_on = threading.Semaphore(0)

    def run() -> None:
        at_once.release()
        go_on.acquire(timeout=30)

    for number in range(8):
        turns.submit(("acme", f"kind {number}"), 1.0, Piece(run, 0.1))
    assert at_once.acquire(timeout=30)
    assert not at_once.acquire(timeout=0.05)
    turns.resize(3)
    assert at_once.acquire(timeout=30)
    assert at_once.acquire(timeout=30)
    assert not at_once.acquire(timeout=0.05)
    turns.resize(2)
    go_on.release()
    assert not at_once.acquire(timeout=0.05)  # two are under way still
    for _ in range(7):
        go_on.release()
    turns.close()
    assert [at_once.acquire(blocking=False) for _ in range(6)] == [True] * 5 + [False]
