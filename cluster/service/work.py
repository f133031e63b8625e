"""Blocking calls (writes, lists, control) in threads, tenants taking turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from cluster.service.scheduler import FairScheduler, Piece

T = TypeVar("T")
GUESS_S = 0.01
"""What a call is taken to cost until it is done."""


class Work:
    """Calls of one event loop, carried out by a scheduler's threads."""

    def __init__(self, scheduler: FairScheduler) -> None:
        self._scheduler = scheduler

    async def run(self, tenant: str, kind: str, weight: float, call: Callable[[], T]) -> T:
        """What the call returns or raises. One whose caller has gone is not begun; one that has begun is finished."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                loop.call_soon_threadsafe(_fail, future, error)
            else:
                loop.call_soon_threadsafe(_succeed, future, result)

        self._scheduler.submit((tenant, kind), weight, Piece(run, GUESS_S))
        return await future


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
