"""Which gateway actors there should be. Pure: what is seen of nodes and actors goes in, what to do comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GONE_S = 30.0
"""How long an actor has no node before it is ended, where the others have all there is to have."""


@dataclass(frozen=True, slots=True)
class SeenGateway:
    """An actor. number: of its title. silent_s: how long it has not answered; 0 if it does.

    is_current: of the version and the settings that a new one would have. is_replaced: it leaves because somebody
    wanted to replace it, who may not be there any more.
    """

    number: int
    silent_s: float = 0.0
    is_ready: bool = False
    is_leaving: bool = False
    is_current: bool = True
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """How many to start, whom to end at once, whom to replace: to be asked to leave first. serving: how many share
    tenants' rates."""

    start: int
    end: tuple[int, ...]
    replace: int | None
    serving: int


def plan_gateways(seats: int, gateways: Sequence[SeenGateway]) -> GatewayPlan:
    """What to do where nodes offer so many seats.

    One that is leaving keeps its seat until its node ends. One that does not answer may be on its way to another node:
    Ray sees to it, and it is ended only where it is one too many, for GONE_S.
    """
    surplus = max(0, len(gateways) - seats)
    gone = sorted((one.number for one in gateways if one.silent_s >= GONE_S), reverse=True)
    serving = [one for one in gateways if one.is_ready and not one.is_leaving]
    return GatewayPlan(
        start=max(0, seats - len(gateways)),
        end=tuple(gone[:surplus]),
        replace=_outdated(seats, gateways),
        serving=max(1, len(serving)),
    )


def _outdated(seats: int, gateways: Sequence[SeenGateway]) -> int | None:
    """The one to be replaced now: one that was being replaced, one that serves nobody, or one while all others serve,
    so that some always do."""
    begun = [one.number for one in gateways if one.is_replaced]
    if begun:
        return min(begun)
    old = [one for one in gateways if not (one.is_current or one.is_leaving or one.silent_s)]
    if not old or len(gateways) < seats:
        return None
    chosen = min(old, key=lambda one: (one.is_ready, one.number))
    others_serve = all(one.is_ready for one in gateways if one is not chosen)
    return chosen.number if others_serve or not chosen.is_ready else None
