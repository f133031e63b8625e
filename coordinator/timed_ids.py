"""Ids of what is made at a moment and sorted by it: jobs and snapshots, such as `20260131T120000Z-0a1b2c3d`."""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timezone

_FORMAT = "%Y%m%dT%H%M%SZ"
_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{8}")


def new_timed_id(moment: datetime) -> str:
    """An id of this moment, which has a zone: seconds in UTC, and eight random hex digits."""
    return f"{moment.astimezone(timezone.utc):{_FORMAT}}-{secrets.token_hex(4)}"


def time_of_id(text: str) -> datetime | None:
    """When an id was made, in UTC; None for what is none."""
    found = _ID.fullmatch(text)
    return None if found is None else datetime.strptime(found[1], _FORMAT).replace(tzinfo=timezone.utc)
