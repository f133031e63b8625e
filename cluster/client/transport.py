"""Carries calls over HTTP: pool of connections, attempts, limits on time and size. The only module that knows httpx."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx

from cluster.client.address import Address
from cluster.client.call import Call, Operation, Reply
from cluster.client.faults import Fault, fault_of
from cluster.client.retry import Attempts, RetryPolicy
from shard.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FacegridError,
    HostUnavailable,
    InvalidParameter,
    ProtocolError,
    ShardClosed,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How a client talks. Seconds and bytes; see `Cluster.connect`.

    clock: seconds that only grow. wall: unix seconds. random: uniform in [0, 1). transport: httpx's, for tests.
    """

    timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    verify: bool | str | ssl.SSLContext = True
    proxy: str | None = field(default=None, repr=False)
    max_connections: int = 32
    max_response_bytes: int = 256 << 20
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    transport: Any = None

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_timeout_s", "max_connections", "max_response_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InvalidParameter(f"{name}: expected a number above 0, got {value!r}")

    def httpx(self) -> dict[str, Any]:
        """What both kinds of httpx clients are made with."""
        return {
            "verify": _trusted(self.verify),
            "proxy": self.proxy,
            "limits": httpx.Limits(
                max_connections=self.max_connections,
                max_keepalive_connections=self.max_connections,
                keepalive_expiry=30.0,
            ),
            "follow_redirects": False,
            # Settings have one room; neither proxies nor certificates come from the environment unseen.
            "trust_env": False,
            "transport": self.transport,
        }


class _Exchange:
    """What the two transports share: everything but waiting."""

    def __init__(self, address: Address, options: Options) -> None:
        self._address, self._options = address, options
        self._headers = address.headers()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.base!r})"

    @property
    def base(self) -> str:
        """Address of the service."""
        return self._address.base

    def _attempts(self, call: Call) -> Attempts:
        if self._is_closed:
            raise ShardClosed(f"the client of {self._address.base} is closed")
        options = self._options
        return Attempts(options.retry, call, timeout_s=options.timeout_s, clock=options.clock, random=options.random)

    def _request(self, call: Call, left_s: float) -> dict[str, Any]:
        url = self._address.base + call.path
        if call.query:
            url += "?" + urlencode(call.query)
        connect_s = min(left_s, self._options.connect_timeout_s)
        return {
            "method": call.method,
            "url": url,
            "headers": {**self._headers, **call.headers},
            "content": call.body or None,
            "timeout": httpx.Timeout(left_s, connect=connect_s, pool=left_s),
        }

    def _body(self, response: httpx.Response, ends: float) -> _Body:
        return _Body(response.headers, self._options.max_response_bytes, ends, self._options.clock)

    def _judged(self, reply: Reply) -> Reply | Fault:
        return fault_of(reply, self._options.wall) or reply

    def _lost(self, error: httpx.HTTPError | httpx.InvalidURL, call: Call) -> Fault:
        return lost(error, f"{self._address.base} ({call.method} {call.path})")


class Transport(_Exchange):
    """Blocking. Thread-safe: threads share the pool of connections."""

    def __init__(self, address: Address, options: Options, *, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(address, options)
        self._sleep = sleep
        self._client = httpx.Client(**options.httpx())

    def run(self, operation: Operation[T]) -> T:
        """Carry out an operation and return its result; raises what the service raised, or what became of the way."""
        try:
            call = next(operation)
            while True:
                try:
                    reply = self._carried(call)
                except FacegridError as error:
                    call = operation.throw(error)
                else:
                    call = operation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _carried(self, call: Call) -> Reply:
        attempts = self._attempts(call)
        while True:
            outcome = self._attempt(call, attempts.begin())
            if isinstance(outcome, Reply):
                return attempts.counted(outcome)
            pause = attempts.pause_after(outcome)
            if pause is None:
                return attempts.done_before()
            self._sleep(pause)

    def _attempt(self, call: Call, ends: float) -> Reply | Fault:
        try:
            with self._client.stream(**self._request(call, ends - self._options.clock())) as response:
                body = self._body(response, ends)
                for chunk in response.iter_raw():
                    body.add(chunk)
                return self._judged(Reply(response.status_code, _lower(response.headers), body.whole()))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._lost(error, call)
        except (ProtocolError, DeadlineExceeded) as error:
            return Fault(error, is_transient=error.is_retryable, may_be_done=True)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._is_closed = True
        self._client.close()


class AsyncTransport(_Exchange):
    """For asyncio. One event loop; tasks share the pool of connections."""

    def __init__(
        self, address: Address, options: Options, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        super().__init__(address, options)
        self._sleep = sleep
        self._client = httpx.AsyncClient(**options.httpx())

    async def run(self, operation: Operation[T]) -> T:
        """As `Transport.run`."""
        try:
            call = next(operation)
            while True:
                try:
                    reply = await self._carried(call)
                except FacegridError as error:
                    call = operation.throw(error)
                else:
                    call = operation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _carried(self, call: Call) -> Reply:
        attempts = self._attempts(call)
        while True:
            outcome = await self._attempt(call, attempts.begin())
            if isinstance(outcome, Reply):
                return attempts.counted(outcome)
            pause = attempts.pause_after(outcome)
            if pause is None:
                return attempts.done_before()
            await self._sleep(pause)

    async def _attempt(self, call: Call, ends: float) -> Reply | Fault:
        try:
            async with self._client.stream(**self._request(call, ends - self._options.clock())) as response:
                body = self._body(response, ends)
                async for chunk in response.aiter_raw():
                    body.add(chunk)
                return self._judged(Reply(response.status_code, _lower(response.headers), body.whole()))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return self._lost(error, call)
        except (ProtocolError, DeadlineExceeded) as error:
            return Fault(error, is_transient=error.is_retryable, may_be_done=True)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self._is_closed = True
        await self._client.aclose()


class _Body:
    """The body of an answer on its way in: no larger and no later than allowed."""

    def __init__(self, headers: Mapping[str, str], limit: int, ends: float, clock: Callable[[], float]) -> None:
        self._chunks: list[bytes] = []
        self._size, self._limit, self._ends, self._clock = 0, limit, ends, clock
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise ProtocolError(f"expected an answer that is not compressed, as asked; got {encoding!r:.80}")
        length = headers.get("content-length", "")
        if length.isdigit():
            self._check(int(length))

    def add(self, chunk: bytes) -> None:
        """Take what came; ProtocolError if it is too much, DeadlineExceeded if it is too late."""
        self._size += len(chunk)
        self._check(self._size)
        if self._clock() > self._ends:
            raise DeadlineExceeded("the answer was not complete in time")
        self._chunks.append(chunk)

    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise ProtocolError(f"expected an answer of at most {self._limit:,} bytes, got more")


def lost(error: httpx.HTTPError | httpx.InvalidURL, where: str) -> Fault:
    """What it means that a request got no answer."""
    said = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError) and _is_distrust(error):
        return Fault(AuthenticationFailed(f"{where}: its certificate is not trusted: {said}"), False, may_be_done=False)
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
        return Fault(HostUnavailable(f"{where} cannot be reached: {said}"), True, may_be_done=False)
    if isinstance(error, httpx.TimeoutException):
        return Fault(DeadlineExceeded(f"{where} did not answer in time: {said}"), True, may_be_done=True)
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return Fault(HostUnavailable(f"{where}: the connection was lost: {said}"), True, may_be_done=True)
    return Fault(ProtocolError(f"{where}: {said}"), False, may_be_done=True)


def _is_distrust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _trusted(verify: bool | str | ssl.SSLContext) -> bool | ssl.SSLContext:
    """What httpx verifies certificates with: its own list, a file or folder of certificates, or a context."""
    if not isinstance(verify, str):
        return verify
    try:
        is_folder = os.path.isdir(verify)
        return ssl.create_default_context(cafile=None if is_folder else verify, capath=verify if is_folder else None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"verify: {verify}: expected certificates in PEM: {error}") from None


def _lower(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
