"""Connections to shard hosts that are closed meanwhile, or fail as nobody expects: every caller gets a named error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.messages import HealthRequest
from coordinator.ray_runtime import HostLink, RayRuntime
from shard.errors import FacegridError, HostUnavailable, ShardClosed

pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'facegrid[cluster]'")

SECRET = b"0123456789abcdef0123456789abcdef"
ASKED = HealthRequest("", ())


class Answer:
    """A call under way that is answered at once."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def has_ended(self, timeout_s: float) -> bool:
        """It has."""
        return True

    def result(self) -> None:
        """The error."""
        raise self._error


class Odd:
    """An actor that answers everything with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def call(self, method: str, *_: object, **__: object) -> Any:
        """The error."""
        raise self.error

    def begin(self, method: str, *_: object) -> Answer:
        """The error, when it is asked for."""
        return Answer(self.error)


def soon() -> float:
    return time.monotonic() + 10.0


@pytest.fixture
def runtime() -> Iterator[RayRuntime]:
    odd = Odd(RuntimeError("Ray raises anything"))
    opened = RayRuntime({"a": odd, "b": odd}, SECRET)  # type: ignore[dict-item]
    yield opened
    opened.close()


def test_a_failure_that_nobody_expects_is_answered(runtime: RayRuntime) -> None:
    with pytest.raises(FacegridError, match=r"internal error of the connection to 'a': RuntimeError\('Ray raises"):
        runtime.submit("a", ASKED, deadline=soon()).result(10.0)


def test_a_link_that_is_closed_says_so(runtime: RayRuntime) -> None:
    link: HostLink = runtime._links["a"]
    runtime.remove("a")
    with pytest.raises(ShardClosed, match="the connection to shard host 'a' was closed"):
        link.submit(ASKED, soon()).result(10.0)
    link.reach(soon())
    with pytest.raises(HostUnavailable, match="no shard host 'a'"):
        runtime.submit("a", ASKED, deadline=soon()).result(10.0)


def test_a_host_that_is_removed_while_it_is_told_something_is_no_odd_error(runtime: RayRuntime) -> None:
    class Remover(Odd):
        def begin(self, method: str, *_: object) -> Answer:
            runtime.remove("b")
            return super().begin(method)

    for host in ("a", "b"):
        runtime.add(host, Remover(HostUnavailable("it went")))  # type: ignore[arg-type]
    with pytest.raises(HostUnavailable, match="it went"):
        runtime.control([("a", "this"), ("b", "that")])  # type: ignore[list-item]
