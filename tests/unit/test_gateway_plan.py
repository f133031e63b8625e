"""Which gateway actors are started, ended and replaced."""

import pytest

from cluster.service.gateway_plan import GONE_S, SeenGateway, plan_gateways


def seen(number: int, **fields: bool | float) -> SeenGateway:
    return SeenGateway(number, **{"is_ready": True, **fields})  # type: ignore[arg-type]


def gone(number: int, silent_s: float = GONE_S) -> SeenGateway:
    return SeenGateway(number, silent_s=silent_s)


def test_each_seat_has_a_gateway() -> None:
    plan = plan_gateways(3, [seen(0)])
    assert (plan.start, plan.end, plan.replace, plan.serving) == (2, (), None, 1)
    assert plan_gateways(0, []).start == 0


def test_one_without_a_node_is_ended_where_it_is_one_too_many() -> None:
    gateways = [seen(0), gone(1), gone(2)]
    assert plan_gateways(1, gateways).end == (2, 1)
    assert plan_gateways(2, gateways).end == (2,)
    assert plan_gateways(3, gateways).end == ()  # Ray starts it again where there is room


def test_one_that_has_just_gone_silent_or_answers_is_not_ended() -> None:
    assert plan_gateways(1, [seen(0), gone(1, GONE_S - 1)]).end == ()
    assert plan_gateways(0, [seen(0), seen(1)]).end == ()


def test_one_that_leaves_keeps_its_seat_and_shares_no_rates() -> None:
    plan = plan_gateways(2, [seen(0), seen(1, is_leaving=True)])
    assert (plan.start, plan.end, plan.serving) == (0, (), 1)


def test_rates_are_shared_by_those_that_serve() -> None:
    assert plan_gateways(3, [seen(0), seen(1), gone(2, 1.0)]).serving == 2
    assert plan_gateways(1, [seen(0, is_ready=False)]).serving == 1


@pytest.mark.parametrize(
    ("others", "replace"),
    [
        ([seen(1), seen(2)], 0),
        ([seen(1), seen(2, is_current=False)], 0),
        ([seen(1), seen(2, is_ready=False)], None),
        ([seen(1), gone(2, 1.0)], None),
        ([seen(1)], None),  # the third is not there yet
        ([seen(1), seen(2, is_current=False, is_ready=False)], 2),  # nobody misses it
    ],
)
def test_one_of_another_version_is_replaced_while_all_others_serve(
    others: list[SeenGateway], replace: int | None
) -> None:
    assert plan_gateways(3, [seen(0, is_current=False), *others]).replace == replace


def test_one_that_leaves_is_not_replaced() -> None:
    assert plan_gateways(1, [seen(4, is_current=False, is_leaving=True)]).replace is None
    assert plan_gateways(1, [seen(4, is_current=False)]).replace == 4


def test_what_somebody_began_to_replace_is_replaced_first() -> None:
    """Though it is as it should be, and others are not: whoever began it may have ended, and it serves nobody."""
    left = seen(2, is_leaving=True, is_ready=False, is_replaced=True)
    assert plan_gateways(3, [seen(0, is_current=False), seen(1), left]).replace == 2
    assert plan_gateways(1, [left]).replace == 2
