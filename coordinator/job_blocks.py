"""A block of a job as another process gets it: the name of a function and its argument, and what came of it.

Never a function itself: who calls imports it by name, from the same code.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from coordinator.outcome import Outcome
from shard.errors import FacegridError, InvalidParameter, JobFailed

NICENESS = 15
"""Of processes that work at jobs: queries come first."""


def function_name(function: Callable[[Any], bytes]) -> str:
    """`module:name` of a function at the top level of a module that others can import; InvalidParameter otherwise."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module in (None, "__main__") or "." in name or not name.isidentifier():
        raise InvalidParameter(
            f"expected a function at the top level of a module, which other processes import; got {function!r:.120}"
        )
    return f"{module}:{name}"


def call_block(name: str, argument: Any) -> Outcome:
    """Call a function by its name. Its value is bytes; anything it raises is told by code and message."""
    try:
        module, _, attribute = name.partition(":")
        value = getattr(import_module(module), attribute)(argument)
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise JobFailed(f"{name}: expected bytes, got {type(value).__name__}")
        return Outcome(bytes(value))
    except FacegridError as error:
        return Outcome(code=error.code, message=str(error))
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        place = traceback.format_exc(limit=-3)
        return Outcome(code=JobFailed.code, message=f"{name}: {type(error).__name__}: {error}\n{place}")


def step_back() -> None:
    """Make this process yield to all others that want the processor. Idempotent."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
