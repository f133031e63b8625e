"""Reads under faults: real shard hosts behind a runtime that refuses, holds or spoils what the test says.

Nothing sleeps: held futures are answered by the test, and the times of the policy are nought or beyond any test.
"""

from __future__ import annotations

import dataclasses
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator import merge
from coordinator.health import HealthPolicy, HealthTable
from coordinator.hedging import HedgeBudget, ReadPolicy
from coordinator.host import ShardHost
from coordinator.messages import ActivateModel, EnrollRequest, PrepareModel, SearchReply, SearchRequest
from coordinator.questions import Answers, Question
from coordinator.reads import Reads
from coordinator.router import Router
from coordinator.routes import RefreshPolicy, RouteTable
from coordinator.types import Coverage, GalleryRoute, SearchOutcome
from shard.errors import (
    CorruptData,
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
    IncompleteCoverage,
    InvalidParameter,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.model import SearchModel
from shard.training import train
from shard.types import CandidateBatch, SearchParams
from tests.faces_like import batch_of, unit_rows
from tests.faulty_runtime import Fault, FaultyRuntime
from tests.hosts import create_alone

DIM, SHARDS, ROWS = 64, 4, 10
K = SHARDS * ROWS
"""Every template is in every whole answer, so that a list shows which shards it came from."""
GALLERY = "0123456789abcdef"
HOSTS = ("a", "b", "c")
PARAMS = SearchParams(k=K, exact=True)
PROBES = unit_rows(3, DIM, seed=50)
NEVER, SOON = 3_600.0, 30.0
NOW = ReadPolicy(
    hedge_floor_s=0.0, hedge_share=1.0, hedge_burst=1_000.0, late_margin_s=0.0, unknown_p95_s=0.0, stale_pauses_s=(0.0,)
)
"""Everything that is not answered at once is hedged at once, and late at once."""
PATIENT = dataclasses.replace(NOW, unknown_p95_s=NEVER)
"""Nothing is ever hedged or late."""
PLACED = (("a", "b"), ("b", "c"), ("c", "a"), ("a", "c"))


def route_of(*in_sync: tuple[str, ...], version: int = 1, epochs: tuple[int, ...] = (1,) * SHARDS) -> GalleryRoute:
    return GalleryRoute(GALLERY, "acme/staff", DIM, 256, None, in_sync or PLACED, epochs, None, version)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ShardHost]]:
    """Every host has the same four shards, so that any of them may be anyone's replica."""
    opened = {name: ShardHost(name, tmp_path_factory.mktemp("hosts") / name) for name in HOSTS}
    for host in opened.values():
        for shard in range(SHARDS):
            create_alone(host, GALLERY, shard, DIM)
            batch = batch_of(unit_rows(ROWS, DIM, seed=shard), f"s{shard}-", identity=f"person {shard}")
            host.execute(EnrollRequest(GALLERY, shard, 1, b"", batch, skip_existing=False))
    yield opened
    for host in opened.values():
        host.close()


@pytest.fixture
def runtime(hosts: dict[str, ShardHost]) -> FaultyRuntime:
    return FaultyRuntime(hosts)


def router_of(
    runtime: FaultyRuntime,
    policy: ReadPolicy = NOW,
    lookup: Callable[[str], GalleryRoute] | None = None,
    health: HealthTable | None = None,
) -> Router:
    """A router whose reads follow another policy than the usual one."""
    router = Router(runtime)
    router._routes = RouteTable(lookup, RefreshPolicy(interval_s=0.0))
    router._health = health or HealthTable()
    router._reads = Reads(runtime, router._routes, router._health, policy)
    return router


def search(router: Router, route: GalleryRoute, *, partial: bool = False, seconds: float = SOON) -> SearchOutcome:
    return router.search(route, PROBES, PARAMS, allow_partial=partial, deadline_ms=int(seconds * 1_000))


def oracle(hosts: dict[str, ShardHost], shards: tuple[int, ...] = tuple(range(SHARDS))) -> CandidateBatch:
    """What one host without faults answers for these shards."""
    if not shards:
        return merge.empty(len(PROBES), K)
    reply = hosts["a"].execute(SearchRequest(GALLERY, shards, PROBES, PARAMS, (1,) * len(shards)))
    assert isinstance(reply, SearchReply)
    return merge.bounded(reply.candidates)


def assert_same(found: CandidateBatch, expected: CandidateBatch) -> None:
    assert found.template_ids == expected.template_ids
    assert found.identities == expected.identities
    np.testing.assert_array_equal(found.scores, expected.scores)
    for ids in found.template_ids:
        assert len(set(ids)) == len(ids)


def assert_whole(hosts: dict[str, ShardHost], outcome: SearchOutcome) -> None:
    assert outcome.coverage == Coverage(SHARDS, SHARDS)
    assert_same(outcome.candidates, oracle(hosts))


def always(error: type[FacegridError]) -> Fault:
    return lambda request: error(f"a {error.__name__} of the test")


def on_shard(shard: int, error: type[FacegridError]) -> Fault:
    return lambda request: error(f"shard {shard} is bad") if shard in request.shards else None


def question(route: GalleryRoute) -> Question[SearchReply]:
    return Question(
        "search",
        len(PROBES),
        lambda shards, epochs: SearchRequest(route.gallery_id, shards, PROBES, PARAMS, epochs),
        SearchReply,
    )


# --- one model behind an answer


@pytest.fixture(scope="module")
def models() -> tuple[SearchModel, ...]:
    return tuple(train(unit_rows(1_200, DIM, seed=seed), code_bits=128) for seed in (70, 71))


@pytest.fixture
def switched(
    hosts: dict[str, ShardHost], models: tuple[SearchModel, ...]
) -> Iterator[Callable[[str, SearchModel | None], None]]:
    """Switches the shards of a host, as hosts do a moment apart in a rollout; back to exact search afterwards."""

    def switch(host: str, model: SearchModel | None, shards: tuple[int, ...] = tuple(range(SHARDS))) -> None:
        if model is not None:
            hosts[host].execute(PrepareModel(GALLERY, shards, model.to_bytes()))
        hosts[host].execute(ActivateModel(GALLERY, shards, None if model is None else model.model_id))

    yield switch
    for host in HOSTS:
        switch(host, None)


BY_MODEL = SearchParams(k=K)


def test_replies_of_another_model_are_repeated_exactly(
    hosts: dict[str, ShardHost],
    runtime: FaultyRuntime,
    models: tuple[SearchModel, ...],
    switched: Callable[[str, SearchModel | None], None],
) -> None:
    old, new = sorted(models, key=lambda model: model.model_id)
    switched("a", new)
    switched("b", old)
    switched("c", new)
    route = route_of(("a",), ("b",), ("c",), ("b",))
    found = router_of(runtime).search(route, PROBES, BY_MODEL)
    assert_whole(hosts, found)
    requests = [(host, request.shards, request.params.exact) for host, request in runtime.sent]
    assert sorted(requests[:3]) == [("a", (0,), False), ("b", (1, 3), False), ("c", (2,), False)]
    assert requests[3:] == [("b", (1, 3), True)]

    runtime.sent.clear()
    switched("a", None)
    switched("b", new)
    assert_whole(hosts, router_of(runtime).search(route, PROBES, BY_MODEL))
    assert len(runtime.sent) == 3, "exact scans go with any model"


def test_a_repetition_goes_to_another_replica_where_one_fails(
    hosts: dict[str, ShardHost],
    runtime: FaultyRuntime,
    models: tuple[SearchModel, ...],
    switched: Callable[[str, SearchModel | None], None],
) -> None:
    old, new = sorted(models, key=lambda model: model.model_id)
    for host, model in zip(HOSTS, (new, old, new), strict=True):
        switched(host, model)
    runtime.faults["b"] = lambda request: HostUnavailable("gone") if request.params.exact else None
    route = route_of(("a",), ("b", "c"), ("a",), ("a",))
    health = HealthTable()
    for _ in range(8):  # c is asked last
        health.started("c", "first")
    found = router_of(runtime, PATIENT, health=health).search(route, PROBES, BY_MODEL)
    assert_whole(hosts, found)
    assert [(host, r.shards) for host, r in runtime.sent if r.params.exact] == [("b", (1,)), ("c", (1,))]


def test_what_cannot_be_repeated_has_failed(
    hosts: dict[str, ShardHost],
    runtime: FaultyRuntime,
    models: tuple[SearchModel, ...],
    switched: Callable[[str, SearchModel | None], None],
) -> None:
    """An answer of two models is none, within the deadline or at it."""
    old, new = sorted(models, key=lambda model: model.model_id)
    switched("a", new)
    switched("b", old)
    route = route_of(("a",), ("b",), ("a",), ("a",))
    runtime.faults["b"] = lambda request: HostUnavailable("gone") if request.params.exact else None
    with pytest.raises(IncompleteCoverage, match="shard 1 did not"):
        router_of(runtime).search(route, PROBES, BY_MODEL)
    partial = router_of(runtime).search(route, PROBES, BY_MODEL, allow_partial=True)
    assert partial.coverage == Coverage(SHARDS - 1, SHARDS)
    assert_same(partial.candidates, oracle(hosts, (0, 2, 3)))
    del runtime.faults["b"]
    runtime.on_submit = lambda host, request: runtime.holding.add("b")
    with pytest.raises(DeadlineExceeded, match="shard 1"):
        router_of(runtime, PATIENT).search(route, PROBES, BY_MODEL, deadline_ms=200)


# --- which replicas are asked


def test_few_hosts_are_asked_and_each_shard_once(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    assert_whole(hosts, search(router_of(runtime), route_of()))
    assert len(runtime.sent) == 2
    assert sorted(shard for _, request in runtime.sent for shard in request.shards) == [0, 1, 2, 3]
    assert all(request.epochs == (1,) * len(request.shards) for _, request in runtime.sent)


def test_replicas_take_turns(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    router, route = router_of(runtime), route_of(*[HOSTS] * SHARDS)
    for _ in range(9):
        assert_whole(hosts, search(router, route))
    assert {host: len(asked) for host, asked in runtime.asked().items()} == {"a": 3, "b": 3, "c": 3}


def test_a_host_with_much_to_do_is_asked_last(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    router, route = router_of(runtime), route_of(*[("a", "b")] * SHARDS)
    for _ in range(9):
        router._health.started("a")
    for _ in range(4):
        assert_whole(hosts, search(router, route))
    assert list(runtime.asked()) == ["b"]


def test_each_request_bears_the_epochs_of_its_shards(runtime: FaultyRuntime) -> None:
    epochs = (4, 5, 6, 7)
    runtime.epochs = {(host, shard): epochs[shard] for host in HOSTS for shard in range(SHARDS)}
    router, route = router_of(runtime), route_of(epochs=epochs)
    search(router, route)
    router.records(route, ("s0-1",))
    router.identities(route, start="", limit=10)
    router.stats(route)
    for _, request in runtime.sent:
        assert request.epochs == tuple(epochs[shard] for shard in request.shards)


# --- failures


@pytest.mark.parametrize("error", [HostUnavailable, HostBusy, CorruptData, ShardClosed, StaleRoute])
def test_what_one_host_cannot_answer_another_does(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime, error: type[FacegridError]
) -> None:
    router = router_of(runtime)
    for bad in HOSTS:
        runtime.faults = {bad: always(error)}
        assert_whole(hosts, search(router, route_of()))
        assert {r.template_id for r in router.records(route_of(), ("s0-1", "s3-2"))} == {"s0-1", "s3-2"}
        assert [i.identity for i in router.identities(route_of(), start="", limit=9)] == [
            f"person {shard}" for shard in range(SHARDS)
        ]
        assert [stats.templates for stats in router.stats(route_of())] == [ROWS] * SHARDS


def test_exactly_the_shards_of_the_failed_request_are_asked_again(runtime: FaultyRuntime) -> None:
    runtime.faults["a"] = always(HostUnavailable)
    router, route = router_of(runtime), route_of(("a", "b"), ("a", "c"), ("b",), ("b",))
    search(router, route)
    asked = runtime.asked()
    again = [shards for host in ("b", "c") for shards in asked[host]]
    assert sorted(shard for shards in again for shard in shards) == [0, 1, 2, 3]


def test_one_bad_shard_does_not_take_its_neighbours_with_it(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    """Of shards with one replica the host is asked one by one; the bad one is made up for elsewhere."""
    runtime.faults["a"] = on_shard(1, CorruptData)
    assert_whole(hosts, search(router_of(runtime), route_of(("a",), ("a", "b"), ("a",), ("a",))))
    outcome = search(router_of(runtime), route_of(*[("a",)] * SHARDS), partial=True)
    assert outcome.coverage == Coverage(3, 4)
    assert_same(outcome.candidates, oracle(hosts, (0, 2, 3)))


@pytest.mark.parametrize(
    ("error", "raised"),
    [(HostUnavailable, IncompleteCoverage), (HostBusy, IncompleteCoverage), (CorruptData, CorruptData)],
)
def test_when_no_replica_answers_the_error_is_named_unless_a_part_will_do(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime, error: type[FacegridError], raised: type[FacegridError]
) -> None:
    runtime.faults = {"a": always(error), "b": always(error)}
    route = route_of(("a", "b"), ("b", "c"), ("c",), ("b", "a"))
    with pytest.raises(raised):
        search(router_of(runtime), route)
    outcome = search(router_of(runtime), route, partial=True)
    assert outcome.coverage == Coverage(2, 4)
    assert_same(outcome.candidates, oracle(hosts, (1, 2)))


def test_nothing_at_all_is_a_partial_answer_too(runtime: FaultyRuntime) -> None:
    runtime.faults = {host: always(HostUnavailable) for host in HOSTS}
    outcome = search(router_of(runtime), route_of(), partial=True)
    assert outcome.coverage == Coverage(0, 4)
    assert outcome.candidates.template_ids == ((), (), ())


@pytest.mark.parametrize("error", [InvalidParameter, UnknownGallery])
def test_what_no_replica_would_answer_otherwise_is_raised_at_once(
    runtime: FaultyRuntime, error: type[FacegridError]
) -> None:
    runtime.faults = {host: always(error) for host in HOSTS}
    for partial in (False, True):
        with pytest.raises(error):
            search(router_of(runtime), route_of(), partial=partial)
    assert all(len(asked) <= 2 for asked in runtime.asked().values())


def test_a_runtime_that_raises_instead_of_answering_is_a_failure_like_others(runtime: FaultyRuntime) -> None:
    def closed(host: str, request: Any) -> None:
        raise ShardClosed("the cluster was closed")

    runtime.on_submit = closed
    router = router_of(runtime)
    for route in (route_of(), route_of(*[("a",)] * SHARDS)):
        with pytest.raises(ShardClosed, match="the cluster was closed"):
            search(router, route)
    assert all(host.outstanding == 0 for host in router.health())


# --- routes


def test_after_a_stale_route_the_newest_is_used(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    """The primaries a and b lost their shards to c, which has epoch 2 and is in no old route of shard 0."""
    runtime.epochs = {(host, shard): 2 for host in HOSTS for shard in range(SHARDS)}
    moved = route_of(*[("c",)] * SHARDS, version=2, epochs=(2,) * SHARDS)
    asked: list[str] = []

    def lookup(name: str) -> GalleryRoute:
        asked.append(name)
        return moved

    router = router_of(runtime, lookup=lookup)
    for _ in range(3):  # the route that the caller holds stays old
        assert_whole(hosts, search(router, route_of(*[("a", "b")] * SHARDS)))
    assert asked == ["acme/staff"]
    assert runtime.sent[-1][0] == "c"


def test_a_coordinator_that_is_away_does_not_keep_reads_from_other_replicas(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    def away(name: str) -> GalleryRoute:
        raise HostUnavailable("the coordinator is away")

    runtime.epochs = {("a", shard): 9 for shard in range(SHARDS)}
    assert_whole(hosts, search(router_of(runtime, lookup=away), route_of()))


def test_hosts_that_have_not_heard_of_the_new_epoch_are_asked_again(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    """The catalog is ahead of every host: after the pauses of the policy they have followed."""
    route = route_of(epochs=(2,) * SHARDS)

    def follow(host: str, request: Any) -> None:
        if len(runtime.sent) == 12:
            runtime.epochs = {(host, shard): 2 for host in HOSTS for shard in range(SHARDS)}

    runtime.on_submit = follow
    policy = dataclasses.replace(NOW, stale_pauses_s=(0.0,) * 10)
    assert_whole(hosts, search(router_of(runtime, policy), route))
    runtime.epochs = {}
    with pytest.raises(IncompleteCoverage, match="in epoch 1, not 2"):
        search(router_of(runtime, NOW), route)


def test_a_host_that_stopped_does_not_keep_the_stale_one_from_being_asked_again(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    """a never answers; b may only once it has heard that a is out. Waiting for a would be waiting for the deadline."""
    runtime.holding = {"a"}
    runtime.epochs = {("b", shard): 2 for shard in range(SHARDS)}

    def follow(host: str, request: Any) -> None:
        if len(runtime.asked().get("b", ())) == 6:
            runtime.epochs = {}

    runtime.on_submit = follow
    policy = dataclasses.replace(NOW, stale_pauses_s=(0.0,) * 50)
    assert_whole(hosts, search(router_of(runtime, policy), route_of(*[("a", "b")] * SHARDS)))
    runtime.release("a")


def test_a_write_does_not_wait_for_a_primary_that_was_replaced(
    runtime: FaultyRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.writes.LOOK_S", 0.01)
    runtime.holding = {"a"}
    runtime.epochs = {("b", shard): 2 for shard in range(SHARDS)}
    router = Router(runtime, lambda name: route_of(*[("b",)] * SHARDS, version=2, epochs=(2,) * SHARDS))
    assert router.delete(route_of(*[("a", "b")] * SHARDS), template_ids=("nobody",), identities=()) == 0
    assert list(runtime.asked()) == ["a", "b"]
    runtime.release("a")


def test_a_write_to_a_host_that_gave_the_shard_up_goes_to_who_has_it(runtime: FaultyRuntime) -> None:
    runtime.faults["a"] = always(CorruptData)
    old = route_of(*[("a",)] * SHARDS)
    with pytest.raises(CorruptData):
        Router(runtime, lambda name: old).delete(old, template_ids=("nobody",), identities=())
    runtime.epochs = {("b", shard): 2 for shard in range(SHARDS)}
    router = Router(runtime, lambda name: route_of(*[("b",)] * SHARDS, version=2, epochs=(2,) * SHARDS))
    assert router.delete(old, template_ids=("nobody",), identities=()) == 0


def test_a_gallery_that_was_dropped_and_made_again_is_unknown(runtime: FaultyRuntime) -> None:
    runtime.faults = {host: always(UnknownGallery) for host in HOSTS}
    other = dataclasses.replace(route_of(), gallery_id="f" * 16, version=9)
    with pytest.raises(UnknownGallery):
        search(router_of(runtime, lookup=lambda name: other), route_of())


def test_a_host_that_the_gallery_has_left_sends_the_reader_to_the_new_one(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    runtime.faults["a"] = always(UnknownGallery)
    router = router_of(runtime, lookup=lambda name: route_of(*[("b",)] * SHARDS, version=2))
    assert_whole(hosts, search(router, route_of(*[("a",)] * SHARDS)))


# --- slowness


def test_a_slow_request_is_hedged_and_the_late_answer_changes_nothing(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    runtime.holding = {"a"}
    router = router_of(runtime, dataclasses.replace(NOW, late_margin_s=NEVER))
    assert_whole(hosts, search(router, route_of()))
    assert sum(host.hedges for host in router.health()) >= 1
    assert {host.host: host.outstanding for host in router.health()}["a"] == len(runtime.held)
    runtime.release("a")
    told = {host.host: host for host in router.health()}
    assert (told["a"].outstanding, told["a"].failures, told["a"].breaker) == (0, 0, "closed")


def test_the_whole_and_its_parts_are_never_both_counted(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    """a is asked for all shards, then b for some and c for the rest; a answers between the two."""
    route = route_of(("a", "b"), ("a", "b"), ("a", "c"), ("a", "c"))
    runtime.holding = {"a", "c"}

    def between(host: str, request: Any) -> None:
        if host == "c":
            runtime.release("a")

    runtime.on_submit = between
    assert_whole(hosts, search(router_of(runtime), route))
    assert runtime.asked() == {"a": [(0, 1, 2, 3)], "b": [(0, 1)], "c": [(2, 3)]}
    runtime.release("c")


def test_hedges_have_a_budget(hosts: dict[str, ShardHost], runtime: FaultyRuntime) -> None:
    policy = dataclasses.replace(NOW, hedge_share=0.05, hedge_burst=2.0, late_margin_s=1e-6)
    router, route = router_of(runtime, policy), route_of(*[("a", "b")] * SHARDS)
    runtime.holding = {"a"}
    for _ in range(40):
        assert_whole(hosts, search(router, route))
    told = router.health()
    assert sum(host.hedges for host in told) <= 2 + 0.05 * 40
    assert sum(host.retries for host in told) > 0  # what may not be hedged is late after its margin
    runtime.release("a")


def test_the_budget_of_hedges_is_a_burst_and_a_share() -> None:
    budget = HedgeBudget(0.25, 2.0)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(4):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


def test_every_request_of_a_hedge_is_counted() -> None:
    budget = HedgeBudget(0.5, 2.0)
    assert budget.spend()
    budget.charge(3)  # four requests in all, two beyond the budget
    for _ in range(5):
        budget.earn()
        assert not budget.spend()
    budget.earn()
    assert budget.spend()


def test_a_hedge_of_many_shards_costs_a_request_for_each_host(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    """a is asked for all shards; their other replicas are on b and c."""
    share, burst, searches = 0.5, 2.0, 40
    policy = dataclasses.replace(NOW, hedge_share=share, hedge_burst=burst, late_margin_s=0.02)
    router, route = router_of(runtime, policy), route_of(("a", "b"), ("a", "b"), ("a", "c"), ("a", "c"))
    runtime.holding = {"a"}
    for _ in range(searches):
        assert_whole(hosts, search(router, route))
    sent = sum(host.hedges for host in router.health())
    firsts = sum(len(asked) for asked in runtime.asked().values()) - sent
    assert 2 <= sent <= burst + share * firsts + 1
    runtime.release("a")


def test_a_stopped_host_does_not_eat_the_deadline_and_is_soon_asked_last(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    health = HealthTable(HealthPolicy(failures_to_open=3, first_back_off_s=NEVER))
    router = router_of(runtime, dataclasses.replace(NOW, hedge_burst=0.0, hedge_share=0.0), health=health)
    route = route_of(*[("a", "b")] * SHARDS)
    runtime.holding = {"a"}
    for _ in range(100):  # b has so much to do that a, for all its silence, seems the better one
        health.started("b")
    for _ in range(8):
        assert_whole(hosts, search(router, route))
    told = {host.host: host for host in router.health()}
    assert (told["a"].breaker, told["a"].failures) == ("open", 3)
    before = len(runtime.asked()["a"])
    for _ in range(8):
        assert_whole(hosts, search(router, route))
    assert len(runtime.asked()["a"]) == before
    runtime.release("a")  # it goes on: what it answers late closes the breaker
    assert health.is_closed("a")


def test_a_late_answer_still_counts_when_nobody_else_has_one(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    runtime.holding = {"a", "b"}

    def when_both_were_asked(host: str, request: Any) -> None:
        if {"a", "b"} <= set(runtime.asked()):
            runtime.fail("b", HostUnavailable("b died"))
            runtime.release("a")

    runtime.on_submit = when_both_were_asked
    assert_whole(hosts, search(router_of(runtime), route_of(*[("a", "b")] * SHARDS)))


def test_without_another_replica_the_whole_deadline_is_waited(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    runtime.holding = {"a"}
    router, route = router_of(runtime), route_of(*[("a",)] * SHARDS)
    with pytest.raises(DeadlineExceeded, match="shard host 'a' did not answer for shard 0 within the deadline"):
        search(router, route, seconds=0.02)
    outcome = search(router, route_of(("a",), ("b",), ("b",), ("a",)), partial=True, seconds=0.02)
    assert_same(outcome.candidates, oracle(hosts, (1, 2)))
    runtime.fail("a", DeadlineExceeded("late"))
    with ThreadPoolExecutor(1) as threads:
        runtime.on_submit = lambda host, request: threads.submit(runtime.release, host)
        assert_whole(hosts, search(router, route))


def test_an_opened_host_is_tried_beside_the_others_and_comes_back(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    now = [0.0]
    health = HealthTable(HealthPolicy(failures_to_open=1, first_back_off_s=1.0), lambda: now[0])
    router, route = router_of(runtime, PATIENT, health=health), route_of(*[("a", "b")] * SHARDS)
    runtime.faults["a"] = always(HostUnavailable)
    while health.all_closed:
        assert_whole(hosts, search(router, route))
    before = len(runtime.asked()["a"])
    assert_whole(hosts, search(router, route))
    assert len(runtime.asked()["a"]) == before
    now[0] = 1.0
    runtime.faults.clear()
    runtime.holding = {"a"}
    assert_whole(hosts, search(router, route))  # nobody waits for the trial
    assert_whole(hosts, search(router, route))  # and there is but one
    assert runtime.asked()["a"][before:] == [(0,)]
    runtime.release("a")
    assert health.all_closed


def test_a_host_with_an_open_breaker_is_asked_where_there_is_no_other(
    hosts: dict[str, ShardHost], runtime: FaultyRuntime
) -> None:
    health = HealthTable(HealthPolicy(failures_to_open=1, first_back_off_s=NEVER))
    router = router_of(runtime, health=health)
    for route in (route_of(*[("a",)] * SHARDS), route_of(*[("a", "b")] * SHARDS)):
        runtime.faults = {"a": always(HostUnavailable), "b": always(HostUnavailable)}
        with pytest.raises(IncompleteCoverage):
            search(router, route)
        runtime.faults = {}
        assert_whole(hosts, search(router, route))


def test_answers_that_are_awaited_no_more_hold_no_memory(runtime: FaultyRuntime) -> None:
    runtime.holding = {"a"}
    router, route = router_of(runtime), route_of(*[("a", "b")] * SHARDS)
    while not runtime.held:
        answers: Answers[SearchReply] = router._reads.ask(route, question(route), time.monotonic() + SOON)
    array = weakref.ref(answers.replies[0][1].candidates.scores)
    del answers
    gc.collect()
    assert array() is None
    late = runtime.held[0].future
    runtime.release("a")
    held = weakref.ref(late.result().candidates.scores)  # type: ignore[union-attr]
    del late
    gc.collect()
    assert held() is None


# --- anything at all

DEAD: list[tuple[str, Fault | None]] = [
    ("ok", None),
    ("refused", always(HostUnavailable)),
    ("busy", always(HostBusy)),
    ("closed", always(ShardClosed)),
    ("stale", always(StaleRoute)),
    *((f"corrupt {shard}", on_shard(shard, CorruptData)) for shard in range(SHARDS)),
    *((f"stale {shard}", on_shard(shard, StaleRoute)) for shard in range(SHARDS)),
]
FAULTS = st.sampled_from([name for name, _ in DEAD] + ["silent", "slow"])
PLACEMENT = st.lists(
    st.permutations(HOSTS).flatmap(lambda p: st.integers(1, 3).map(lambda n: tuple(p[:n]))),
    min_size=SHARDS,
    max_size=SHARDS,
)


def can_answer(fault: str, shard: int) -> bool:
    return fault in ("ok", "slow") or fault.split()[-1] not in (
        "refused",
        "busy",
        "closed",
        "stale",
        "silent",
        str(shard),
    )


@given(
    st.fixed_dictionaries(dict.fromkeys(HOSTS, FAULTS)),
    PLACEMENT.map(tuple),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(
        [NOW, dataclasses.replace(NOW, late_margin_s=NEVER), dataclasses.replace(NOW, hedge_share=0.0, hedge_burst=0.0)]
    ),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_is_the_right_one_or_a_named_error(
    hosts: dict[str, ShardHost],
    faults: dict[str, str],
    placement: tuple[tuple[str, ...], ...],
    partial: bool,
    patience: int,
    policy: ReadPolicy,
) -> None:
    """slow: held until so many more requests were sent; silent: never answered."""
    runtime = FaultyRuntime(hosts)
    runtime.faults = {host: fault for host in HOSTS if (fault := dict(DEAD).get(faults[host])) is not None}
    runtime.holding = {host for host in HOSTS if faults[host] in ("silent", "slow")}
    waiting: dict[int, int] = {}

    def release_slow(host: str, request: Any) -> None:
        for one in [one for one in runtime.held if faults[one.host] == "slow"]:
            waiting[id(one.future)] = waiting.get(id(one.future), 0) + 1
            if waiting[id(one.future)] > patience:
                runtime.held.remove(one)
                runtime.answer(one)

    runtime.on_submit = release_slow
    is_prompt = not runtime.holding
    answerable = tuple(s for s in range(SHARDS) if any(can_answer(faults[h], s) for h in placement[s]))
    try:
        outcome = search(
            router_of(runtime, policy), route_of(*placement), partial=partial, seconds=SOON if is_prompt else 0.05
        )
    except (IncompleteCoverage, DeadlineExceeded, CorruptData, ShardClosed):
        assert not partial
        assert not is_prompt or len(answerable) < SHARDS
        return
    covered = outcome.coverage.answered
    assert outcome.coverage.asked == SHARDS
    assert partial or covered == SHARDS
    if is_prompt:
        assert covered == len(answerable)
        assert_same(outcome.candidates, oracle(hosts, answerable))
    else:
        assert_part(hosts, outcome, answerable)
    for host in HOSTS:
        runtime.release(host)


def assert_part(hosts: dict[str, ShardHost], outcome: SearchOutcome, answerable: tuple[int, ...]) -> None:
    seen = {int(name[1]) for ids in outcome.candidates.template_ids for name in ids}
    assert seen <= set(answerable)
    assert len(seen) == outcome.coverage.answered
    assert_same(outcome.candidates, oracle(hosts, tuple(sorted(seen))))


def test_hedges_in_threads_never_show_in_an_answer(hosts: dict[str, ShardHost]) -> None:
    """Hosts that answer in threads of their own, everything asked twice at once, many readers."""
    inner = FaultyRuntime(hosts)
    inner.holding = set(HOSTS)
    with ThreadPoolExecutor(4) as answering, ThreadPoolExecutor(4) as asking:

        def answer_soon(host: str, request: Any) -> None:
            answering.submit(inner.release, host)

        inner.on_submit = answer_soon
        policy = dataclasses.replace(NOW, late_margin_s=NEVER)
        router, route = router_of(inner, policy), route_of(*[HOSTS] * SHARDS)
        for outcome in asking.map(lambda _: search(router, route), range(150)):
            assert_whole(hosts, outcome)
    for host in HOSTS:
        inner.release(host)
    assert all(host.outstanding == 0 for host in router.health())
