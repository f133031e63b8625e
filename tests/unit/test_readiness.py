"""Whether a gateway is ready while the control plane answers, raises or hangs; when its clients have gone."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cluster.service.readiness import Readiness, Traffic
from shard.errors import HostUnavailable


@pytest.mark.parametrize("hangs", [False, True], ids=["raises", "hangs"])
def test_ready_once_is_remembered_while_the_control_plane_is_away(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.service.readiness.FIRST_S", 0.05)
    monkeypatch.setattr("cluster.service.readiness.AGAIN_S", 0.05)
    is_away, back, asked = True, threading.Event(), 0

    def look() -> None:
        nonlocal asked
        asked += 1
        if is_away and hangs:
            back.wait(30)
        if is_away:
            raise HostUnavailable("the coordinator does not answer")

    async def ask() -> None:
        nonlocal is_away
        readiness = Readiness(look)
        assert not await readiness.is_control_there()
        assert not await readiness.is_control_there()
        assert not readiness.was_ready
        assert asked == (1 if hangs else 2)  # one that hangs is not asked again by each probe
        is_away = False
        back.set()
        while not await readiness.is_control_there():
            await asyncio.sleep(0.01)
        assert readiness.was_ready
        is_away = True
        back.clear()
        assert not await readiness.is_control_there()
        assert readiness.was_ready
        back.set()

    asyncio.run(ask())


def test_what_has_to_be_learned_is_before_anything_is_ready() -> None:
    async def ask() -> None:
        readiness = Readiness(lambda: None, has_to_learn=True)
        assert await readiness.is_control_there()
        assert not readiness.was_ready
        readiness.has_learned()
        assert readiness.was_ready

    asyncio.run(ask())


def test_quiet_begins_when_the_last_request_was_answered() -> None:
    now = 100.0
    traffic = Traffic(lambda: now)
    traffic.came()
    traffic.came()
    now = 105.0
    assert traffic.quiet_s() == 0.0
    traffic.went()
    assert traffic.quiet_s() == 0.0
    now = 106.0
    traffic.went()
    now = 108.5
    assert traffic.quiet_s() == 2.5
