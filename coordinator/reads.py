"""All reads of a process: search, look-ups, statistics. The way of a read is in `coordinator.fanout`.

Here is the short way of a gallery whose shards have one replica each, on a runtime that answers in the caller's
thread: there is nothing to choose and nothing to wait for, and a search may take less than a tenth of a millisecond.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from coordinator.fanout import FanOut, ReadDesk, Sent, error_of
from coordinator.health import HealthTable
from coordinator.hedging import ReadPolicy
from coordinator.messages import DataRequest
from coordinator.questions import Answers, Question, ReplyT, expected
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute

MAX_PLANS = 1_024
"""Galleries whose plan is kept."""
_Plan: TypeAlias = list[tuple[str, tuple[int, ...], tuple[int, ...]]]
"""Host, shards, epochs of each request."""


class Reads(ReadDesk):
    """Reads of one process from the replicas of a runtime. Thread-safe."""

    def __init__(
        self, runtime: Runtime, routes: RouteTable, health: HealthTable, policy: ReadPolicy | None = None
    ) -> None:
        super().__init__(runtime, routes, health, policy or ReadPolicy())
        self._plans: OrderedDict[str, tuple[GalleryRoute, _Plan | None]] = OrderedDict()

    def ask(
        self, route: GalleryRoute, question: Question[ReplyT], deadline: float, shards: Sequence[int] | None = None
    ) -> Answers[ReplyT]:
        """Ask every shard of the gallery, or those named; `deadline` is a time.monotonic() value.

        Returns when each has answered, or has failed on every replica, or the deadline has passed. Raises at once what
        no other replica would answer otherwise: UnknownGallery, InvalidParameter and all that is not in HOST_FAULTS or
        SHARD_FAULTS.
        """
        route = self.routes.current(route)
        plan = self._only_plan(route) if shards is None else None
        sent: list[Sent] = []
        if plan is not None:
            sent = [
                self._send(host, shards, question.request(shards, epochs), deadline) for host, shards, epochs in plan
            ]
            replies = self._at_once(question, sent)
            if replies is not None:
                return Answers(route, replies, {})
        read = FanOut(self, route, question, deadline, shards)
        try:
            read.run(sent)
        finally:
            read.leave()
        return Answers(read.route, read.progress.replies(), read.progress.failures)

    def _send(self, host: str, shards: tuple[int, ...], request: DataRequest, deadline: float) -> Sent:
        began = time.monotonic()
        future = self.submit(host, request, deadline)
        return host, shards, began, time.monotonic(), future

    def _at_once(self, question: Question[ReplyT], sent: list[Sent]) -> list[tuple[tuple[int, ...], ReplyT]] | None:
        """The replies of a runtime that answers in this thread; None if one is not there, or failed."""
        for _, _, _, _, future in sent:
            if not future.done() or error_of(future) is not None:
                return None
        replies: list[tuple[tuple[int, ...], ReplyT]] = []
        for host, shards, began, ended, future in sent:
            self.health.answered(host, question.kind, question.probes, ended - began)
            replies.append((shards, expected(future.result(), question.reply)))
        return replies

    def _only_plan(self, route: GalleryRoute) -> _Plan | None:
        """Whom to ask for what where every shard has one replica, so that there is nothing to choose; else None."""
        known = self._plans.get(route.gallery_id)
        if known is None or (known[0] is not route and known[0] != route):
            plan: _Plan | None = None
            if all(len(hosts) == 1 for hosts in route.in_sync):
                by_host = route.shards_by_host()
                plan = [(host, shards, route.epochs_of(shards)) for host, shards in by_host.items()]
            known = self._plans[route.gallery_id] = (route, plan)
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return known[1]
