"""Requests that may be repeated: what was answered under an Idempotency-Key is answered again, and not done again.

The catalog remembers it (`replies.py`), so it holds over restarts and between gateways. A process that dies between
doing and remembering leaves a request that is done again: ids of new templates are made from the key, so that nothing
is stored twice then either. Whoever does it is told that it is done again (`Attempt`); so is whoever does it while the
catalog is away, and nobody knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Response

from cluster.service.calls import Call
from cluster.service.problems import HttpProblem, malformed

MAX_KEY = 128


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a request is carried out. made_ids: template ids that are its own, whenever it is done; None without a key.

    is_again: it was begun before, and nobody knows what came of that: it may be done, in part, or be under way.
    """

    made_ids: list[str] | None = None
    is_again: bool = False


Perform = Callable[[Attempt], Awaitable[dict[str, Any]]]


async def once(
    call: Call,
    ids: int,
    perform: Perform,
    status: int = 200,
    *,
    known: dict[str, Any] | None = None,
    is_repeatable: bool = False,
) -> Response:
    """Do it, or answer as before. perform gets an attempt with `ids` template ids.

    known: what of the answer follows from the request itself, and is not remembered. is_repeatable: done twice it does
    no more, so that it may go on while the control plane is away.
    """
    key = call.request.headers.get("idempotency-key")
    if key is None:
        return call.reply(await perform(Attempt()), status)
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise malformed(f"Idempotency-Key: expected 1 to {MAX_KEY} printable ASCII characters")
    owner = call.principal.flow
    replies, digest = call.gateway.replies, _digest(call)
    begun = await replies.begin(call.run, owner, key, digest, is_repeatable=is_repeatable)
    if begun is not None:
        if begun.digest != digest:
            raise HttpProblem(
                422, "idempotency_key_reused", "Idempotency-Key: another request was made with this key before"
            )
        if begun.reply is not None:
            return call.reply({**(known or {}), **orjson.loads(begun.reply)}, status)
    made_ids = [_made_id(owner, key, number) for number in range(ids)]
    value = await perform(Attempt(made_ids, is_again=begun is not None))
    kept = orjson.dumps({name: part for name, part in value.items() if name not in (known or {})})
    await replies.finish(call.run, owner, key, digest, kept)
    return call.reply(value, status)


def _digest(call: Call) -> bytes:
    found = hashlib.sha256()
    for part in (call.request.method.encode(), call.request.url.path.encode(), call.request.url.query.encode()):
        found.update(len(part).to_bytes(4, "little") + part)
    found.update(call.body_type.encode() + b"\0" + call.body)
    return found.digest()


def _made_id(owner: str, key: str, number: int) -> str:
    return hashlib.blake2b(f"{owner}\0{key}\0{number}".encode(), digest_size=16).hexdigest()
