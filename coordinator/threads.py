"""For threads that look after something for as long as a process runs, whatever one look raises."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shard.errors import FacegridError


def attempt(call: Callable[[], object], failure: str, logger: logging.Logger, level: int = logging.WARNING) -> None:
    """Call it; what it raises is logged as `failure`: a FacegridError in one line, all else with where it came from.

    Ray raises anything while its control store is away.
    """
    try:
        call()
    except FacegridError as error:
        logger.log(level, "%s: %s", failure, error)
    except Exception:
        logger.exception("%s", failure)
