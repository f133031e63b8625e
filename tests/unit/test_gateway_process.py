"""A gateway's service that does not come to listen, as its actor sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from cluster.service import process
from cluster.service.serve import Service
from shard.errors import HostUnavailable


class Broken:
    """In place of a Service: ends at once with an error, or runs without ever listening."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.stopped = error, threading.Event()

    def run(self, *, ready: Callable[[], None] | None = None) -> None:
        if self.error is not None:
            raise self.error
        assert self.stopped.wait(30)

    def stop(self) -> None:
        self.stopped.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_that_ends_is_told_at_once_with_its_reason() -> None:
    began = time.monotonic()
    with pytest.raises(HostUnavailable, match=r"did not begin to listen: PermissionError.*tls\.key"):
        process._listening(cast("Service", Broken(PermissionError("tls.key"))))
    assert time.monotonic() - began < process.START_S / 2


def test_a_service_that_never_listens_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_S", 0.2)
    silent = Broken()
    with pytest.raises(HostUnavailable, match=r"did not begin to listen within 0\.2 s"):
        process._listening(cast("Service", silent))
    assert silent.stopped.is_set()
