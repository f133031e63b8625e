"""Clients over a transport that plays a schedule of answers, with a clock that only moves when it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

import httpx

from cluster.client.address import Address
from cluster.client.call import Operation
from cluster.client.retry import RetryPolicy
from cluster.client.transport import AsyncTransport, Options, Transport

T = TypeVar("T")
Step = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]
BASE = "http://service.test:1"


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Content(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes as one from a connection does, once for each time it is played."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class Played:
    """What happened: the requests that came, the pauses between them."""

    def __init__(self, schedule: Iterable[Step]) -> None:
        self._steps: Iterator[Step] = iter(schedule)
        self.requests: list[httpx.Request] = []
        self.clock = Clock()

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The next step."""
        self.requests.append(request)
        step = next(self._steps)
        if isinstance(step, Exception):
            raise step
        answer = step if isinstance(step, httpx.Response) else step(request)
        if not answer.is_stream_consumed:
            return answer
        return httpx.Response(answer.status_code, headers=answer.headers, stream=Content(answer.content))

    def options(self, **given: Any) -> Options:
        """A client's options, over this schedule; half of every pause is drawn."""
        given.setdefault("retry", RetryPolicy(attempts=4, base_s=1.0, cap_s=8.0, deadline_s=100.0))
        return Options(
            transport=httpx.MockTransport(self.answer),
            clock=self.clock,
            wall=lambda: self.clock.now,
            random=lambda: 0.5,
            **given,
        )

    def blocking(self, key: str | None = None, **given: Any) -> Transport:
        """The blocking transport."""
        return Transport(Address(BASE, key), self.options(**given), sleep=self.clock.sleep)

    def run(self, operation: Operation[T], **given: Any) -> T:
        """Over the blocking transport."""
        return self.blocking(**given).run(operation)

    def run_async(self, operation: Operation[T], **given: Any) -> T:
        """Over the other one."""

        async def main() -> T:
            transport = AsyncTransport(Address(BASE), self.options(**given), sleep=self.clock.sleep_async)
            try:
                return await transport.run(operation)
            finally:
                await transport.close()

        return asyncio.run(main())


def good(document: Any = None, status: int = 200) -> httpx.Response:
    """An answer in JSON."""
    return httpx.Response(status, json={} if document is None else document)


def problem(status: int, code: str, **extra: Any) -> httpx.Response:
    """A problem document, as the service writes it."""
    headers = {"content-type": "application/problem+json", **extra.pop("headers", {})}
    document = {"status": status, "code": code, "detail": f"about {code}", "is_retryable": False, **extra}
    return httpx.Response(status, content=json.dumps(document), headers=headers)
