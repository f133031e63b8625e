"""Numbered actors of a home: who is taken over, who has which number, who is outdated, how one comes to its end."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.service.actor_group import ActorGroup, Member
from coordinator.actors import DETACHED, ActorName
from coordinator.kept import installed_version
from shard.errors import HostUnavailable

SOON_S = 30.0


@dataclass(frozen=True)
class Said:
    """What an actor says of itself."""

    version: str = installed_version()
    revision: str = "now"


@dataclass
class Call:
    """A call under way, which the test brings to its end. value: None for an actor that does not answer."""

    value: object
    is_over: bool = False

    def result(self, timeout_s: float) -> object:
        if self.value is None:
            raise HostUnavailable(f"no answer within {timeout_s:g} s")
        return self.value

    def has_ended(self, timeout_s: float) -> bool:
        return self.is_over


@dataclass
class Known:
    """An actor. says: in answer to `state`."""

    title: str
    says: Said | None = field(default_factory=Said)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    ending: Call = field(default_factory=lambda: Call("closed"))

    def begin(self, method: str, *args: object, group: str | None = None) -> Call:
        if method == "state":
            return Call(self.says)
        self.calls.append((method, *args))
        return self.ending


class Home:
    """As a RayCluster: actors that run, and which were ended."""

    def __init__(self, *titles: str) -> None:
        self.known = {title: Known(title) for title in titles}
        self.ended: list[str] = []
        self.closing: list[Any] = []

    def running(self) -> list[ActorName]:
        return [ActorName(title, DETACHED, "facegrid-h") for title in self.known]

    def find(self, where: ActorName) -> Known:
        if where.title not in self.known:
            raise HostUnavailable(f"{where.title} is not running")
        return self.known[where.title]

    def spawn(self, title: str) -> Any:
        self.known[title] = Known(title)
        return self.known[title]

    def end(self, actor: Known) -> None:
        self.ended.append(actor.title)

    def before_close(self, call: Any) -> None:
        self.closing.append(call)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Home:
    found = Home("gateway 2", "gateway 0", "embedder 1", "the coordinator")
    monkeypatch.setattr("cluster.service.actor_group.Actor", found)
    return found


@pytest.fixture
def group(home: Home) -> ActorGroup[Said]:
    return ActorGroup(home, "gateway", "now")  # type: ignore[arg-type]


def titles(members: list[Member[Said]]) -> list[str]:
    return [one.actor.title for one in members]


def test_those_that_run_are_taken_over_and_new_ones_get_numbers_that_are_free(
    home: Home, group: ActorGroup[Said]
) -> None:
    assert titles(group.members) == ["gateway 0", "gateway 2"]
    assert [group.start(home.spawn).number for _ in range(2)] == [1, 3]
    assert titles(group.members) == ["gateway 0", "gateway 1", "gateway 2", "gateway 3"]
    assert [one.is_ours for one in group.members] == [False, True, False, True]


def test_one_whose_name_is_gone_is_not_taken_over(home: Home) -> None:
    running = home.running()
    del home.known["gateway 2"]
    home.running = lambda: running  # type: ignore[method-assign]
    assert titles(ActorGroup[Said](home, "gateway", "now").members) == ["gateway 0"]  # type: ignore[arg-type]


def test_what_a_silent_one_said_stays_and_is_told_once(
    home: Home, group: ActorGroup[Said], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = group.members
    assert (first.said, first.says) == (None, None)
    home.known["gateway 2"].says = None
    group.ask()
    assert (first.says, second.says, second.said) == (Said(), None, None)
    home.known["gateway 0"].says = None
    with caplog.at_level(logging.WARNING):
        group.ask()
        group.ask()
    assert (first.says, first.said) == (None, Said())
    assert caplog.messages == ["gateway 0 does not answer"]  # the other one may have no node yet
    home.known["gateway 0"].says = Said()
    group.ask()
    assert first.says == Said()


@pytest.mark.parametrize("other", [Said(version="0"), Said(revision="before")])
def test_only_one_that_was_taken_over_is_outdated(home: Home, group: ActorGroup[Said], other: Said) -> None:
    old, current = group.members
    ours = group.start(home.spawn)
    assert not group.is_outdated(old)  # it has said nothing yet
    home.known["gateway 0"].says = home.known["gateway 1"].says = other
    group.ask()
    assert [group.is_outdated(one) for one in (old, current, ours)] == [True, False, False]


def test_one_that_is_let_go_keeps_its_number_until_it_has_ended(home: Home, group: ActorGroup[Said]) -> None:
    first, _ = group.members
    group.let_go(first, "leave", 2.0, limit_s=SOON_S)
    assert home.known["gateway 0"].calls == [("leave", 2.0)]
    assert group.end_gone() == []
    assert group.start(home.spawn).number == 1
    home.known["gateway 0"].ending.is_over = True
    assert group.end_gone() == [first]
    assert home.ended == ["gateway 0"]
    assert titles(group.members) == ["gateway 1", "gateway 2"]
    assert group.start(home.spawn).number == 0


def test_one_that_takes_too_long_is_ended(home: Home, group: ActorGroup[Said]) -> None:
    first, second = group.members
    group.replace(first, "close", limit_s=SOON_S)
    group.replace(second, "close", limit_s=-1.0)
    assert group.end_gone() == [second]
    assert home.ended == ["gateway 2"]


def test_a_scan_that_fails_is_not_the_last(
    home: Home, group: ActorGroup[Said], caplog: pytest.LogCaptureFixture
) -> None:
    scans, enough = 0, threading.Event()

    def scan() -> None:
        nonlocal scans
        scans += 1
        if scans == 3:
            enough.set()
        raise HostUnavailable("no store") if scans == 1 else RuntimeError("Ray raises anything")

    group.look_after(scan, 0.0)
    assert enough.wait(SOON_S)
    (close,) = home.closing
    close()
    assert "gateways could not be looked after: no store" in caplog.messages
    done = scans
    close()
    assert scans == done
