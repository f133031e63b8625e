"""The simulation against what is known without it, and the page against the simulation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from benchmarks.simulation import hosts, page, scenarios
from benchmarks.simulation.costs import RESULTS, Costs, load
from benchmarks.simulation.dedup import BlockCosts, Plan, block_costs, blocks_in, tasks
from benchmarks.simulation.dedup import simulate as simulate_dedup
from benchmarks.simulation.events import Events
from benchmarks.simulation.queries import STRAGGLERS, Traffic
from benchmarks.simulation.queries import simulate as simulate_queries

ROWS = 1_000


@pytest.fixture(scope="module")
def costs() -> Costs:
    return load()


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "simulation.json").read_text())
    return found


def plan(parts: float, workers: int, **others: Any) -> Plan:
    return Plan(round(parts * ROWS), hosts=workers, cores=1, part_rows=ROWS, **{"spread": 0.0, **others})


def test_events_happen_in_order_and_plan_others() -> None:
    events, seen = Events(), []
    events.at(2.0, lambda: seen.append(("b", events.now)))
    events.at(1.0, lambda: events.at(0.0, lambda: seen.append(("late", events.now))))
    events.at(2.0, lambda: seen.append(("c", events.now)))
    events.run()
    assert seen == [("late", 1.0), ("b", 2.0), ("c", 2.0)]


@pytest.mark.parametrize(("parts", "group"), list(product((1, 2, 13, 20), (1, 2, 4, 8))))
def test_every_block_is_in_one_task(parts: int, group: int) -> None:
    made = plan(parts, 1, group=group)
    pairs = [(i, j) for lefts, rights in tasks(made) for i in lefts for j in rights if i <= j]
    assert sorted(pairs) == [(i, j) for i in range(parts) for j in range(i, parts)]
    assert sum(map(blocks_in, tasks(made))) == made.blocks


def test_one_worker_takes_the_sum_of_all_costs() -> None:
    found = simulate_dedup(plan(4.5, 1), BlockCosts(join_s=8.0, sketch_s=3.0, checkpoint_s=0.5))
    # 4.5 parts: half of 4.5 squared blocks; five sketches, all of them kept; 15 checkpoints.
    assert found["hours"] * 3600 == pytest.approx(4.5**2 / 2 * 8.0 + 5 * 3.0 + 15 * 0.5)
    assert (found["done"], found["read_parts"]) == (15, 5)


def test_workers_without_a_driver_to_wait_for_share_the_work_evenly() -> None:
    found = simulate_dedup(plan(60, 10, spread=0.1, seed=3), BlockCosts(1.0, 0.0, 0.0))
    ideal_s = 60**2 / 2 / 10
    assert ideal_s <= found["hours"] * 3600 * 1.01 <= ideal_s * 1.02 + 2.0


def test_a_driver_that_is_slow_is_what_a_job_waits_for() -> None:
    found = simulate_dedup(plan(40, 1_000), BlockCosts(1.0, 0.0, 0.1))
    assert found["hours"] * 3600 == pytest.approx(40 * 41 / 2 * 0.1, rel=0.02)
    assert found["driver_share"] > 0.98


def test_a_worker_that_dies_costs_its_task_and_nothing_is_done_twice() -> None:
    made = plan(30, 8, deaths=5, seed=1)
    costs = BlockCosts(1.0, 0.1, 0.0)
    found, calm = simulate_dedup(made, costs), simulate_dedup(replace(made, deaths=0), costs)
    assert found["lost"] == 5
    assert found["done"] == made.blocks
    assert 0 < found["wasted_s"] <= 5 * 1.2
    assert calm["hours"] <= found["hours"] <= calm["hours"] + 5 * 1.5 / 3600


def test_stragglers_cost_no_more_than_their_own_last_task() -> None:
    made, costs = plan(40, 20, slow_share=0.05, slow_factor=4.0), BlockCosts(1.0, 0.0, 0.0)
    # 19 workers and a quarter of one.
    least_s = 40**2 / 2 / 19.25
    assert least_s <= simulate_dedup(made, costs)["hours"] * 3600 <= least_s + 4.0 + 1.0


def test_one_host_is_a_queue_as_the_books_have_it(costs: Costs) -> None:
    """M/M/1: the mean time in the system is service / (1 - utilisation)."""
    traffic = Traffic(
        10_000_000, 1, 1, 1, cores=1, routers=64, queries=6_000, utilisation=0.5, service="exponential", network_s=0.0
    )
    found = simulate_queries(traffic, costs)
    service_ms = (costs.search_s(10_000_000) + costs.host_s) * 1_000
    router_ms = (costs.router_s + costs.decision_s) * 1_000
    assert found["limited_by"] == "hosts"
    assert found["mean_ms"] - router_ms == pytest.approx(service_ms / (1 - 0.5), rel=0.1)


def test_queries_are_all_answered_and_the_same_seed_tells_the_same(costs: Costs) -> None:
    traffic = Traffic(100_000_000, 20, 100, queries=60, trouble=STRAGGLERS, seed=5)
    first, second, other = (simulate_queries(t, costs) for t in (traffic, traffic, replace(traffic, seed=6)))
    for found in (first, second, other):
        del found["decision_us"], found["traffic"]
    assert first == second != other
    assert (first["answered"], first["failures"]) == (60, 0)


def test_a_host_that_stands_still_is_hedged(costs: Costs) -> None:
    pauses = replace(STRAGGLERS, slow_share=0.0, pause_s=0.3, pauses_s=12.0)
    traffic = Traffic(1_000_000, 2, 1, 2, routers=1, queries=1_500, utilisation=0.002, trouble=pauses)
    hedged, alone = (simulate_queries(replace(traffic, is_hedged=is_hedged), costs) for is_hedged in (True, False))
    assert hedged["hedges"] > 0
    assert alone["hedges"] == 0
    assert hedged["p99_ms"] < alone["p99_ms"] / 2


def test_a_lost_host_is_replaced_by_others_and_new_ones_get_their_share(costs: Costs) -> None:
    lost = hosts.lose_one(20, 200, 2, 1_000_000, costs)
    assert lost["replicas_lost"] == 20
    rounds = math.ceil(20 / lost["copies"])
    assert lost["level_s"] == pytest.approx(lost["begin_s"] + rounds * hosts.copy_s(5_000, costs))
    added = hosts.add_some(20, 5, 200, 2, 1_000_000, costs)
    assert added["most_replicas"] - added["least_replicas"] <= 2
    assert added["moved"] >= 5 * added["least_replicas"]


def test_the_page_says_what_costs_and_figures_say(costs: Costs, figures: dict[str, Any]) -> None:
    text = page.PAGE.read_text()
    assert page.rendered(text, costs, figures) == text, "python -m benchmarks.simulate --page"
    for name in page.TABLES:
        assert f"<!-- simulate: {name} -->" in text


def test_the_figures_are_those_of_the_simulation(costs: Costs, figures: dict[str, Any]) -> None:
    """Those that take no time; the same seed and costs give the others too."""
    for told in figures["dedup"]:
        if told["checkpoints"] < 10_000:
            assert scenarios.run_dedup(costs, told["plan"]["rows"], told["plan"]["hosts"]) == told
    for told in figures["placement"]:
        again = hosts.place(told["hosts"], told["shards"], told["replicas"])
        assert {**again, "cpu_s": None} == {**told, "cpu_s": None}
    for told in figures["lost"]:
        again = hosts.lose_one(told["hosts"], 1_024, told["replicas"], 10**9, costs, told["copies"])
        assert {**again, "cpu_s": None} == {**told, "cpu_s": None}
    assert block_costs(costs).join_s > 0
