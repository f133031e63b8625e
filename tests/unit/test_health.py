"""What is observed of hosts: estimates from few and many samples, and the breaker, in a time that the test sets."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from coordinator.health import MIN_SAMPLES, WINDOW, HealthPolicy, HealthTable


class Clock:
    """A time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> HealthTable:
    return HealthTable(HealthPolicy(failures_to_open=3, first_back_off_s=1.0, max_back_off_s=4.0, trial_s=30.0), clock)


def observe(health: HealthTable, seconds: list[float], probes: int = 1, kind: str = "search") -> None:
    for value in seconds:
        health.started("a")
        health.answered("a", kind, probes, value)


def fail(health: HealthTable, times: int) -> None:
    for _ in range(times):
        health.started("a")
        health.failed("a")


def breaker(health: HealthTable) -> str:
    (host,) = health.snapshot()
    return host.breaker


def test_there_is_no_estimate_from_few_samples(health: HealthTable) -> None:
    assert health.p95_s("a", "search", 1) is None
    observe(health, [0.001] * (MIN_SAMPLES - 1))
    assert health.p95_s("a", "search", 1) is None
    observe(health, [0.5])
    assert health.p95_s("a", "search", 1) == 0.5  # of so few, the largest


def test_the_p95_is_the_nearest_rank(health: HealthTable) -> None:
    observe(health, [i / 1_000 for i in range(1, 101)])
    assert health.p95_s("a", "search", 1) == 0.095


def test_the_window_forgets(health: HealthTable) -> None:
    observe(health, [9.0] * WINDOW)
    assert health.p95_s("a", "search", 1) == 9.0
    observe(health, [0.001] * WINDOW)
    assert health.p95_s("a", "search", 1) == 0.001


def test_sizes_and_kinds_have_estimates_of_their_own(health: HealthTable) -> None:
    observe(health, [0.002] * 32, probes=1)
    observe(health, [0.1] * 32, probes=64)
    observe(health, [7.0] * 32, probes=1, kind="exact")
    assert health.p95_s("a", "search", 1) == 0.002
    assert health.p95_s("a", "search", 100) == 0.1  # 64 to 127 are one size
    assert health.p95_s("a", "exact", 1) == 7.0
    assert health.p95_s("a", "records", 1) is None


def test_a_size_without_samples_takes_the_next_larger_or_in_proportion(health: HealthTable) -> None:
    observe(health, [0.1] * 32, probes=64)
    assert health.p95_s("a", "search", 2) == 0.1
    assert health.p95_s("a", "search", 512) == pytest.approx(0.8)


def test_the_breaker_opens_after_failures_in_a_row_only(health: HealthTable) -> None:
    fail(health, 2)
    observe(health, [0.001])
    fail(health, 2)
    assert health.is_closed("a")
    assert health.all_closed
    fail(health, 1)
    assert not health.is_closed("a")
    assert not health.all_closed
    assert breaker(health) == "open"


def test_timeouts_count_as_failures_and_a_late_answer_closes(health: HealthTable) -> None:
    for _ in range(3):
        health.started("a")
        health.timed_out("a")
    assert not health.is_closed("a")
    health.answered("a", "search", 1, 2.0)
    assert health.is_closed("a")
    assert health.outstanding("a") == 2


def test_one_trial_at_a_time_after_the_back_off(health: HealthTable, clock: Clock) -> None:
    fail(health, 3)
    assert not health.begin_trial("a")
    clock.now += 1.0
    assert breaker(health) == "half_open"
    assert health.begin_trial("a")
    assert not health.begin_trial("a")
    health.started("a", "trial")
    health.answered("a", "search", 1, 0.001)
    assert breaker(health) == "closed"
    assert not health.begin_trial("a")


def test_the_back_off_doubles_up_to_its_bound_and_starts_anew(health: HealthTable, clock: Clock) -> None:
    fail(health, 3)
    for back_off in (1.0, 2.0, 4.0, 4.0):
        clock.now += back_off - 0.001
        assert not health.begin_trial("a")
        clock.now += 0.002
        assert health.begin_trial("a")
        health.started("a", "trial")
        health.failed("a")
    clock.now += 5.0
    observe(health, [0.001])
    fail(health, 3)
    clock.now += 1.0
    assert health.begin_trial("a")


def test_failures_within_the_back_off_do_not_lengthen_it(health: HealthTable, clock: Clock) -> None:
    fail(health, 50)
    clock.now += 1.0
    assert health.begin_trial("a")


def test_a_trial_that_says_nothing_or_is_never_heard_of_makes_room(health: HealthTable, clock: Clock) -> None:
    fail(health, 3)
    clock.now += 1.0
    assert health.begin_trial("a")
    health.started("a", "trial")
    health.abandoned("a")
    assert health.begin_trial("a")
    assert not health.begin_trial("a")
    clock.now += 30.0
    assert health.begin_trial("a")


def test_the_snapshot_tells_people(health: HealthTable) -> None:
    observe(health, [0.001] * 19 + [0.5])
    health.started("a", "hedge")
    health.started("a", "retry")
    health.failed("a")
    health.started("b")
    one, two = health.snapshot()
    assert (one.host, one.breaker, one.p95_ms) == ("a", "closed", 1.0)
    assert (one.requests, one.failures, one.hedges, one.retries, one.outstanding) == (22, 1, 1, 1, 1)
    assert (two.host, two.p95_ms, two.outstanding) == ("b", None, 1)


def test_threads_lose_no_count(health: HealthTable) -> None:
    start = threading.Barrier(4)

    def work(_: int) -> None:
        start.wait()
        for i in range(500):
            health.started("a")
            if i % 2:
                health.failed("a")
            else:
                health.answered("a", "search", 1, 0.001)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    (host,) = health.snapshot()
    assert (host.requests, host.failures, host.outstanding) == (2_000, 1_000, 0)
