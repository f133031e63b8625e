"""Waiting for what only polling tells, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable

SOON_S = 60.0
PAUSE_S = 0.05


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until the condition holds. AssertionError with `what` if that takes too long."""
    until = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until, f"not within {SOON_S:g} s: {what}"
        time.sleep(PAUSE_S)
