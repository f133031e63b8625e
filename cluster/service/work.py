"""Blocking calls (writes, lists, control) in threads, tenants taking turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

from cluster.service.scheduler import FairScheduler, Piece

if TYPE_CHECKING:
    from cluster.service.metrics import Metrics
    from cluster.service.tracing import Tracing

T = TypeVar("T")
GUESS_S = 0.01
"""What a call is taken to cost until it is done."""


class Work:
    """Calls of one event loop, carried out by a scheduler's threads."""

    def __init__(self, scheduler: FairScheduler, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._scheduler, self._metrics, self._tracing = scheduler, metrics, tracing

    async def run(self, tenant: str, kind: str, weight: float, call: Callable[[], T]) -> T:
        """What the call returns or raises. One whose caller has gone is not begun; one that has begun is finished.

        kind: of call, a word of the code's, which metrics have as a label.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context, queued = copy_context(), time.perf_counter()
        tracing, span = self._tracing, None if self._tracing is None else self._tracing.current()

        def timed() -> T:
            began = time.perf_counter()
            times = None if tracing is None else tracing.times()
            self._metrics.work_wait.observe(began - queued, kind)
            try:
                return context.run(call)
            finally:
                self._metrics.work_call.observe(time.perf_counter() - began, kind)
                if tracing is not None and times is not None:
                    tracing.waited(span, kind, times, queued)

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = timed()
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                tell(loop, _fail, future, error)
            else:
                tell(loop, _succeed, future, result)

        self._scheduler.submit((tenant, kind), weight, Piece(run, GUESS_S))
        return await future


def tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *given: object) -> None:
    """Call something in the event loop, from a worker's thread; nobody waits any more where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call, *given)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
