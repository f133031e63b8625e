"""`Outcome`: what an actor's method came to. Errors travel as code and message, so that they keep their class.

Knows errors only; no Ray, no hosts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shard.errors import FacegridError, error_from_code

log = logging.getLogger("facegrid.actors")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: a value, or the code and message of a FacegridError."""

    value: Any = None
    code: str | None = None
    message: str = ""

    def unwrap(self) -> Any:
        """The value; raises the error."""
        if self.code is not None:
            raise error_from_code(self.code, self.message)
        return self.value


def outcome_of(call: Callable[[], Any], what: str) -> Outcome:
    """Run a call. Anything but a FacegridError is a bug: logged with its traceback, answered as an internal error."""
    try:
        return Outcome(call())
    except FacegridError as error:
        return Outcome(code=error.code, message=str(error))
    except Exception as error:
        log.exception("unexpected failure of %s", what)
        return Outcome(code=FacegridError.code, message=f"internal error of {what}: {type(error).__name__}: {error}")
