"""`Gateway`: what one process of the service holds. A cluster, who may use it, and whose turn it is."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.service.auth import AWAY, AWAY_S, Keys, Principal
from cluster.service.bodies import Limits
from cluster.service.face_pool import FacePool, FaceSource, OwnFaces
from cluster.service.metrics import Metrics
from cluster.service.open_results import OpenResults
from cluster.service.overview import Overview
from cluster.service.rates import RateLimits
from cluster.service.readiness import Readiness, Traffic
from cluster.service.recall import RecallMonitor
from cluster.service.replies import Replies
from cluster.service.scheduler import FairScheduler
from cluster.service.searches import Searches
from cluster.service.work import Work
from cluster.tenancy import usage
from coordinator.names import tenant_name
from coordinator.tenant_types import AuditEntry, KeyRecord, Usage
from shard.errors import FacegridError, Unauthenticated, UnknownGallery, UnknownTenant

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.gallery import Gallery
    from cluster.service.tracing import Tracing

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
SEARCH_THREADS, REMOTE_SEARCH_THREADS = 1, 4
"""Searches at once. One call of the index uses all cores: a second one only gets in its way, and has fewer queries to
travel together (wrk, 64 connections, one run: 5,306/s with one thread, 4,266/s with two). Where the shards are in other
processes, calls that wait for them do so side by side."""
WORK_THREADS = 16
"""Writes wait for the disk most of their time."""
GALLERY_S = 1.0
"""How long a gallery that was looked up is taken to be as it was; who is told otherwise by a shard looks again."""
PATIENCE_S, AGAIN_S = 0.5, 1.0
"""How long a look-up is waited for where the answer was known before, and after how long it is tried again."""
AUDIT_S = 0.5
"""How long an audited read may wait in memory. What changes something is written before it is answered."""
MAX_AUDIT = 100_000
LEARN_S, LEARN_SHARE, LEARN_AGAIN_S = 10.0, 0.01, 1.0
"""How often everything is learned; the share of the time that it may take; after how long it is tried again."""
MAX_GALLERIES = 10_000
"""That are remembered."""
USAGE_S = 5.0
"""How old a tenant's usage may be when its quota is compared, besides what was enrolled here since."""


@dataclass(frozen=True, slots=True)
class _Known:
    at: float
    gallery: Gallery
    tenant_id: str

    def is_of(self, principal: Principal) -> bool:
        return principal.tenant is None or principal.tenant.tenant_id == self.tenant_id


class Gateway:
    """Shared by all requests of one event loop."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        limits: Limits | None = None,
        snapshot_store: str | None = None,
        gateways: int = 1,
        faces: FaceSource | None = None,
    ) -> None:
        """cluster: stays the caller's to close. snapshot_store: where tenants' snapshots go; None: they have none.

        gateways: how many serve this cluster; each gives a tenant its part of the rate that its quota allows.
        faces: who finds the faces of photos; this process if None.
        """
        self.cluster = cluster
        self.limits = limits or Limits()
        self.snapshot_store = snapshot_store
        self.keys = Keys(cluster.tenants)
        self.rates = RateLimits(gateways)
        self.metrics = Metrics()
        self.overview = Overview(self)
        self.metrics.registry.register(self.overview)
        self.tracing = _tracing(cluster.settings.trace_endpoint)
        self._search_turns = FairScheduler("search", SEARCH_THREADS if cluster.is_local else REMOTE_SEARCH_THREADS)
        self._work_turns = FairScheduler("work", WORK_THREADS)
        share = cluster.settings.recall_share
        # A thread of its own: an exact search takes as long as many others, which must not wait for it.
        self._recall_turns = FairScheduler("recall", 1)
        recall = RecallMonitor(self._recall_turns, self.metrics, share) if share else None
        self.searches = Searches(self._search_turns, self.metrics, recall=recall, tracing=self.tracing)
        self._work = Work(self._work_turns, self.metrics, self.tracing)
        threads = cluster.settings.threads or len(os.sched_getaffinity(0))
        self.faces = FacePool(faces or OwnFaces(cluster.pipeline, threads), metrics=self.metrics)
        self.results = OpenResults()
        self.replies = Replies(cluster.idempotency, self)
        self._galleries: OrderedDict[str, _Known] = OrderedDict()
        self._forgotten: set[str] | None = None
        """Galleries that were forgotten while all of them are being learned."""
        self.is_away, self._again_at = False, 0.0
        """Whether the control plane did not answer when it was asked last, and when look-ups are to ask it again."""
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}
        self._audit: deque[AuditEntry] = deque()
        self._searched: dict[tuple[str, KeyRecord, str, str], list[Any]] = {}
        self._usage: dict[str, tuple[float, Usage]] = {}
        self._usage_lock = threading.Lock()
        self.readiness = Readiness(lambda: cluster.coordinator.hosts(), has_to_learn=not cluster.is_local)
        self.traffic = Traffic()
        self.is_stopping = False
        """It answers still, but is to be asked no more: probes are told so, and connections end with their answer."""

    def found_away(self) -> None:
        """The control plane does not answer; look-ups ask it again from time to time."""
        self.is_away, self._again_at = True, time.monotonic() + AGAIN_S

    def found_back(self) -> None:
        """The control plane answers."""
        self.is_away = False

    async def run(self, principal: Principal, kind: str, call: Callable[[], T]) -> T:
        """A blocking call in a worker's thread, when it is the tenant's turn."""
        return await self._work.run(principal.flow, kind, principal.weight, call)

    async def principal(self, text: str, *, is_fresh: bool = False) -> Principal:
        """Whose key it is; Unauthenticated. is_fresh: as the catalog has it now, not as it was moments ago."""
        if is_fresh:
            return await asyncio.to_thread(self.keys.authenticate, text)
        known = self.keys.remembered(text)
        if known is not None and not self.keys.is_aging(text):
            return known
        # When a remembered key has aged, all requests under way ask at once.
        what = ("key", text, self.keys.changes)

        def look_up() -> Coroutine[Any, Any, Principal]:
            return asyncio.to_thread(self.keys.look_up, text)

        if known is not None:
            self._ahead(what, look_up)
            return known
        return await self._looked_up(what, look_up, self.keys.good_before(text))

    async def gallery(self, principal: Principal, name: str) -> Gallery:
        """A gallery by its full name; UnknownGallery."""
        known = self._galleries.get(name)
        what = ("gallery", name, principal.flow, self.keys.changes)

        def look_up() -> Coroutine[Any, Any, Gallery]:
            return self._known_anew(principal, name)

        if known is not None and time.monotonic() - known.at < GALLERY_S and known.is_of(principal):
            if time.monotonic() - known.at > GALLERY_S / 2:
                self._ahead(what, look_up)
            return known.gallery
        is_good = known is not None and known.is_of(principal) and time.monotonic() - known.at < AWAY_S
        return await self._looked_up(what, look_up, known.gallery if known is not None and is_good else None)

    async def _looked_up(self, what: Hashable, begin: Callable[[], Coroutine[Any, Any, T]], known: T | None) -> T:
        """What a look-up says; what was known before where the control plane does not answer, so that queries go on.

        The first to find that out waits a little; until a look-up succeeds again, nobody else waits for one.
        """
        if known is None:
            return await self._together(what, begin)
        if self.is_away:
            self._ahead(what, begin)
            return known
        try:
            return await asyncio.wait_for(self._together(what, begin), PATIENCE_S)
        except (asyncio.TimeoutError, TimeoutError, *AWAY):
            self.found_away()
            return known

    async def _known_anew(self, principal: Principal, name: str) -> Gallery:
        try:
            tenant_id, found = await self.run(principal, "lookup", lambda: self._look_up(principal, name))
        except UnknownGallery:
            self.forget_gallery(name)
            raise
        return self._remember(name, _Known(time.monotonic(), found, tenant_id)).gallery

    def _remember(self, name: str, looked_up: _Known) -> _Known:
        known = self._galleries.get(name)
        if known is not None and known.gallery.gallery_id == looked_up.gallery.gallery_id:
            # The same object, so that its searches travel together.
            looked_up = replace(looked_up, gallery=known.gallery)
        self._galleries[name] = looked_up
        self._galleries.move_to_end(name)
        while len(self._galleries) > MAX_GALLERIES:
            self._galleries.popitem(last=False)
        return looked_up

    async def learn(self) -> None:
        """Look up every key and every gallery, and where the hosts are: what was not asked for here yet is answered too
        while the control plane is away.
        """
        began, self._forgotten = time.monotonic(), set()
        try:
            found = await asyncio.to_thread(self._look_all_up, began)
            for name, looked_up in found.items():
                known = self._galleries.get(name)
                if name not in self._forgotten and (known is None or known.at < began):
                    self._remember(name, looked_up)
        finally:
            self._forgotten = None

    def _look_all_up(self, began: float) -> dict[str, _Known]:
        """Of galleries; keys look after themselves. Blocks."""

        def tenants() -> set[tuple[str, str]]:
            return {(tenant.name, tenant.tenant_id) for tenant in self.cluster.tenants.all()}

        self.keys.learn()
        before = tenants()
        galleries = self.cluster.galleries()[-MAX_GALLERIES:]
        ids = dict(before & tenants())  # as in _look_up: nothing of a tenant that was made again meanwhile
        return {
            gallery.name: _Known(began, gallery, ids[tenant])
            for gallery in galleries
            if (tenant := tenant_name(gallery.name)) in ids
        }

    async def keep_learned(self) -> None:
        """Learn again and again, until cancelled. Where the control plane is in this process there is no need."""
        if not self.readiness.has_to_learn:
            return
        while True:
            began = time.monotonic()
            try:
                await self.learn()
            except Exception as error:  # noqa: BLE001 - Ray raises anything; a gateway that stops learning never is ready
                is_ours = isinstance(error, FacegridError)
                _LOG.warning("keys and galleries cannot be learned now: %s", error, exc_info=not is_ours)
                await asyncio.sleep(LEARN_AGAIN_S)
                continue
            self.readiness.has_learned()
            self.found_back()
            took = time.monotonic() - began
            await asyncio.sleep(min(max(LEARN_S, took / LEARN_SHARE), AWAY_S / 2))

    def _look_up(self, principal: Principal, name: str) -> tuple[str, Gallery]:
        """A gallery and the id of its tenant. Blocks."""
        try:
            tenant_id = self.tenant_id(principal, tenant_name(name))
            found = self.cluster.gallery(name)
            is_same = self.tenant_id(principal, tenant_name(name)) == tenant_id
        except UnknownTenant:
            raise UnknownGallery(f"no gallery {name!r}") from None
        if not is_same:
            raise UnknownGallery(f"no gallery {name!r}")  # its tenant was made again meanwhile
        return tenant_id, found

    def tenant_id(self, principal: Principal, tenant: str) -> str:
        """The id of the tenant that has this name now. Blocks.

        Unauthenticated if it is not the one that the key was made for: a key is good for moments after its tenant was
        dropped elsewhere, and must open nothing of a tenant that was made under the same name since. UnknownTenant.
        """
        try:
            tenant_id = self.cluster.tenants.get(tenant).tenant_id
        except UnknownTenant:
            if principal.tenant is None:
                raise
            tenant_id = ""
        if principal.tenant is not None and principal.tenant.tenant_id != tenant_id:
            self.keys.forget()
            raise Unauthenticated("the key's tenant is not there any more")
        return tenant_id

    def forget_gallery(self, name: str) -> None:
        """It was dropped, or a shard says that it is not there."""
        self._galleries.pop(name, None)
        if self._forgotten is not None:
            self._forgotten.add(name)
        for what in [what for what in self._under_way if isinstance(what, tuple) and what[:2] == ("gallery", name)]:
            del self._under_way[what]

    async def _together(self, what: Hashable, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do once what several requests need at the same moment; one whose caller goes away does not end it."""
        return await asyncio.shield(self._begun(what, begin))

    def _ahead(self, what: Hashable, begin: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Look something up that is about to be too old, so that no query has to wait for it."""
        if not self.is_away:
            self._begun(what, begin)
        elif time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + AGAIN_S
            self._begun(what, begin)

    def _begun(self, what: Hashable, begin: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task that does it: the one under way, or a new one."""
        task: asyncio.Task[T] | None = self._under_way.get(what)
        if task is None:
            task = self._under_way[what] = asyncio.create_task(begin())
            task.add_done_callback(lambda done: self._done(what, done))
        return task

    def _done(self, what: Hashable, task: asyncio.Task[Any]) -> None:
        if self._under_way.get(what) is task:
            del self._under_way[what]
        if not task.cancelled():
            error = task.exception()  # seen, even where every caller has gone
            self.is_away = self.is_away and isinstance(error, AWAY)

    # Quotas

    def check_room(self, principal: Principal, templates: int, size: int) -> None:
        """QuotaExceeded if the tenant's quotas of templates or bytes (`size`) do not hold so many more. May block.

        While the control plane is away, what was counted last and what was enrolled here since.
        """
        tenant = principal.tenant
        if tenant is None or (tenant.quotas.templates is None and tenant.quotas.bytes is None):
            return
        with self._usage_lock:
            known = self._usage.get(tenant.tenant_id)
        counted = None
        if known is None or (time.monotonic() - known[0] > USAGE_S and not self.is_away):
            counted = (time.monotonic(), usage(self.cluster, tenant.name))
        with self._usage_lock:
            newest = self._usage.get(tenant.tenant_id)
            if counted is not None and newest is known:
                newest = counted
            assert newest is not None, "counted above, or by somebody else meanwhile"
            at, held = newest
            tenant.quotas.check(tenant.name, held, templates=templates, size=size)
            held = Usage(held.galleries, held.templates + templates, held.bytes + size)
            self._usage[tenant.tenant_id] = (at, held)

    def known_usage(self) -> dict[str, Usage]:
        """What tenants with quotas had when that was counted last, by tenant id. Counts nothing itself."""
        with self._usage_lock:
            return {tenant_id: held for tenant_id, (_, held) in self._usage.items()}

    # Audit

    def audit_backlog(self) -> int:
        """Entries that wait to be written."""
        return len(self._audit) + len(self._searched)

    def audit(self, entry: AuditEntry) -> None:
        """Remember an entry to be written soon."""
        if len(self._audit) < MAX_AUDIT:
            self._audit.append(entry)
        else:
            self.metrics.audit_lost.inc()

    def audit_searches(self, what: tuple[str, KeyRecord, str, str], probes: int, request_id: str) -> None:
        """Count probes of (operation, key, gallery, outcome); one entry for all of them is written soon.

        request_id: of the first of them. In the event loop only.
        """
        known = self._searched.get(what)
        if known is None:
            self._searched[what] = [time.time(), probes, request_id]
        else:
            known[1] += probes

    def _take_searched(self) -> None:
        """In the event loop, or after its end: whoever counts must not be overtaken."""
        searched, self._searched = self._searched, {}
        for (operation, key, gallery, outcome), (at, probes, request_id) in searched.items():
            self.audit(
                AuditEntry(at, tenant_name(gallery), key.key_id, operation, gallery, probes, outcome, request_id)
            )

    def write_audit(self) -> None:
        """Write what is remembered; what cannot be written now is kept. Blocks."""
        entries = []
        while self._audit:
            entries.append(self._audit.popleft())
        if not entries:
            return
        try:
            self.cluster.tenants.record(entries)
        except FacegridError:
            self._audit.extendleft(reversed(entries))
            _LOG.exception("the audit log cannot be written; %d entries wait", len(self._audit))

    async def keep_audit(self) -> None:
        """Write the audit log as it comes, until cancelled."""
        while True:
            await asyncio.sleep(AUDIT_S)
            self._take_searched()
            await asyncio.to_thread(self.write_audit)

    def close(self) -> None:
        """Finish what was begun, and write the audit log. The cluster stays open. Idempotent."""
        self.is_stopping = True
        self._search_turns.close()
        self._recall_turns.close()
        self._work_turns.close()
        self.faces.close()
        self._take_searched()
        self.write_audit()
        self.replies.tell()
        if self.tracing is not None:
            self.tracing.close()

    def waiting(self) -> dict[str, int]:
        """Searches that wait for their turn, by tenant id."""
        return self._search_turns.waiting()


def _tracing(endpoint: str | None) -> Tracing | None:
    """Spans, where the settings ask for them; MissingExtra without the extra `tracing`."""
    if endpoint is None:
        return None
    from cluster.service.tracing import Tracing

    return Tracing.to(endpoint)
