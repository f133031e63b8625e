"""How many embedders are wanted while images come and go."""

from cluster.service.embedder_plan import GROW_S, IDLE_S, IMAGES_EACH, Demand

FULL = IMAGES_EACH


def test_the_fewest_are_there_always_and_the_most_are_never_passed() -> None:
    demand = Demand(2, 4, now=0.0)
    assert demand.wanted(0, 0.0) == 2
    assert demand.wanted(100 * FULL, 1.0) == 2
    assert [demand.wanted(100 * FULL, at) for at in (3.0, GROW_S + 1, 10.0)] == [2, 4, 4]


def test_a_moment_of_many_images_starts_none() -> None:
    demand = Demand(1, 8, now=0.0)
    for at in range(60):
        assert demand.wanted(5 * FULL if at % 4 == 0 else FULL, float(at)) == 1


def test_images_that_stay_start_as_many_as_they_fill() -> None:
    demand = Demand(1, 8, now=0.0)
    found = [demand.wanted(2 * FULL + 1, float(at)) for at in range(10)]
    assert found[: int(GROW_S)] == [1] * int(GROW_S)
    assert found[-1] == 3


def test_the_first_image_starts_the_first_embedder_at_once() -> None:
    demand = Demand(0, 8, now=0.0)
    assert demand.wanted(0, 0.0) == 0
    assert demand.wanted(1, 1.0) == 1


def test_they_end_when_none_of_them_was_needed_for_minutes() -> None:
    demand = Demand(0, 8, now=0.0)
    for at in range(10):
        demand.wanted(4 * FULL, float(at))
    last = 9.0
    assert demand.wanted(0, last + IDLE_S - 1) == 4
    assert demand.wanted(FULL + 1, last + IDLE_S) == 4  # the last of the many was IDLE_S ago
    assert demand.wanted(0, last + IDLE_S + 1) == 2
    assert demand.wanted(0, last + 2 * IDLE_S + 1) == 0


def test_those_that_were_there_before_are_kept_until_it_is_known_that_they_idle() -> None:
    demand = Demand(1, 8, now=1_000.0, current=5)
    assert demand.wanted(0, 1_000.0) == 5
    assert demand.wanted(0, 1_000.0 + IDLE_S - 1) == 5
    assert demand.wanted(0, 1_000.0 + IDLE_S) == 1
