"""Cursors of listings: where the next page begins, as text that callers hand back and do not look into."""

from __future__ import annotations

import base64
import binascii
import hashlib

from shard.errors import InvalidParameter
from shard.types import MAX_ID_BYTES

_VERSION = b"1"
_CHECK_BYTES = 8
_LONGEST = 4 * (len(_VERSION) + _CHECK_BYTES + MAX_ID_BYTES + 2) // 3 + 4

Scope = tuple[str, str | None]
"""What is listed: the gallery's id, and of which identity."""


def write_cursor(template_id: str, scope: Scope) -> str:
    """The cursor of a page that begins after this template; it is good for the same listing only."""
    data = template_id.encode()
    return base64.urlsafe_b64encode(_VERSION + _check(data, scope) + data).decode().rstrip("=")


def read_cursor(cursor: object, scope: Scope) -> str:
    """The template id of a cursor; InvalidParameter unless `write_cursor` made it for this listing."""
    if isinstance(cursor, str) and cursor.isascii() and len(cursor) <= _LONGEST:
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            begin = len(_VERSION) + _CHECK_BYTES
            version, check, data = raw[: len(_VERSION)], raw[len(_VERSION) : begin], raw[begin:]
            if version == _VERSION and data and check == _check(data, scope):
                return data.decode()
        except (binascii.Error, ValueError):
            pass
    raise InvalidParameter(f"cursor: expected the cursor of a page of this very listing, got {cursor!r:.80}")


def _check(data: bytes, scope: Scope) -> bytes:
    """Tells listings apart, and catches what was mistyped; it is no secret."""
    gallery_id, identity = scope
    of = "" if identity is None else f"i{identity}"
    return hashlib.blake2b(f"{gallery_id}\0{of}\0".encode() + data, digest_size=_CHECK_BYTES).digest()
