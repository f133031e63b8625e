"""How calls of the service's API are made: paths, keys of writes, and what is common to their answers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from cluster.client.call import JSON, MSGPACK, Call, Operation
from cluster.client.wire import document_of, json_bytes, packed
from coordinator.names import check_gallery_name

SLOW_S = 3_600.0
"""How long the answer of a call may take that works through a whole gallery."""


def gallery_path(name: str, *parts: str) -> str:
    """Path of a gallery, or of something in it. InvalidParameter for a name that no gallery can have."""
    return "/".join((f"/v1/galleries/{check_gallery_name(name)}", *parts))


def quoted(label: str) -> str:
    """Any text as one segment of a path: also `/` and the dots that would lead elsewhere are escaped."""
    segment = quote(label, safe="")
    return segment.replace(".", "%2E") if set(label) <= {"."} else segment


def get(path: str, query: Mapping[str, object] | None = None) -> Operation[dict[str, Any]]:
    """Ask for something; what is None in the query is left out."""
    given = {name: str(value) for name, value in (query or {}).items() if value is not None}
    return document_of((yield Call("GET", path, query=given, headers={"Accept": JSON})))


def ask(
    path: str, body: Mapping[str, Any], *, is_packed: bool = False, deadline_s: float | None = None
) -> Operation[dict[str, Any]]:
    """A POST that changes nothing, so it may be sent again as it is. None in the body is left out.

    deadline_s: how long it may take, all attempts together.
    """
    headers, data = _encoded(body, is_packed=is_packed)
    headers["Accept"] = MSGPACK if is_packed else JSON
    call = Call("POST", path, headers=headers, body=data, patience_s=deadline_s, deadline_s=deadline_s)
    return document_of((yield call))


def write(
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    is_idempotent: bool,
    is_packed: bool = False,
    patience_s: float | None = None,
) -> Operation[dict[str, Any]]:
    """A POST that changes something, with a key of its own, the same for each attempt.

    is_idempotent: the service knows the key, or what is asked for is the same when it is done twice. Of other calls it
    is only known from the answer whether they were carried out, so they are not sent again where it was lost.
    """
    headers, data = _encoded(body or {}, is_packed=is_packed)
    headers |= {"Accept": JSON, "Idempotency-Key": secrets.token_hex(16)}
    reply = yield Call("POST", path, headers=headers, body=data, is_idempotent=is_idempotent, patience_s=patience_s)
    return document_of(reply) if reply.body else {}


def patch(path: str, body: Mapping[str, Any]) -> Operation[dict[str, Any]]:
    """Set values to what they shall be, which twice is once. None in the body is sent, because it says something."""
    headers = {"Content-Type": JSON, "Accept": JSON}
    return document_of((yield Call("PATCH", path, headers=headers, body=json_bytes(body))))


def remove(path: str) -> Operation[None]:
    """Have something removed. That it is gone when the call is repeated means that it was removed before."""
    yield Call("DELETE", path, headers={"Accept": JSON}, is_done_when_gone=True)


def _encoded(body: Mapping[str, Any], *, is_packed: bool) -> tuple[dict[str, str], bytes]:
    given = {name: value for name, value in body.items() if value is not None}
    if is_packed:
        return {"Content-Type": MSGPACK}, packed(given)
    return {"Content-Type": JSON}, json_bytes(given)
