"""A request and its answer as values, and operations that are made of them. No I/O here, and no clock.

An operation is a generator: it yields a `Call`, is sent the `Reply`, and returns the result. So each verb is written
once; `cluster.client.transport` runs it over a blocking or over an asynchronous connection.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

JSON, MSGPACK = "application/json", "application/msgpack"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. path begins with `/` and is quoted.

    is_idempotent: carried out twice it does no more than once, by its nature or by its Idempotency-Key; only such a
    call is repeated when its answer was lost. is_done_when_gone: a repeated call that finds nothing has done its work
    before. patience_s: how long an answer may take, where that is longer than the client's `timeout_s`. deadline_s: how
    long all attempts may take together, None for the policy's.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    is_idempotent: bool = True
    is_done_when_gone: bool = False
    patience_s: float | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, headers by lower-case name, and the whole body. attempts: how often the call was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    attempts: int = 1

    @property
    def content_type(self) -> str:
        """Media type without parameters, lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


Operation = Generator[Call, Reply, T]
"""Yields calls, is sent their successful replies, returns a T."""

AnyOperation = Operation[Any]
