"""`Erasure`: sees to it that the bytes of deleted templates leave every replica by a deadline, and says what is left.

A delete makes a template invisible at once; its floats and labels stay in files until compaction (`shard.compaction`)
has rewritten them. Compaction is a write of the primary that replicas follow, then every replica rewrites its database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from coordinator.catalog import Catalog
from coordinator.messages import BuriedReply, BuriedRequest, CompactShards, ErasureReply, ErasureRequest, ScrubShards
from coordinator.runtime import Runtime
from coordinator.types import ErasureBacklog, ReplicaErasure, ShardConfig
from shard.errors import FacegridError
from shard.types import ErasureState

START_SHARE = 0.75
"""Share of the deadline after which bytes are removed: the rest is for doing it, and for trying again."""
_LOG = logging.getLogger(__name__)


class Erasure:
    """The erasures of one home. Thread-safe; one runs at a time."""

    def __init__(self, catalog: Catalog, runtime: Runtime, deadline_s: float) -> None:
        self._catalog, self._runtime, self.deadline_s = catalog, runtime, deadline_s
        self._running = threading.Lock()
        self.backlog: ErasureBacklog | None = None
        """As of the last look at what is due; None before it."""

    def report(self, gallery_ids: Iterable[str]) -> list[ReplicaErasure]:
        """For each replica of each shard what its files still hold of deleted templates, and until when."""
        names = {route.gallery_id: route.name for route in self._catalog.galleries()}
        wanted = set(gallery_ids)
        return [
            self._entry(names[config.gallery_id], config, host, self._state(config, host))
            for config in self._catalog.shards()
            if config.gallery_id in wanted
            for host in (*config.in_sync, *config.joining)
        ]

    def _state(self, config: ShardConfig, host: str) -> ErasureState | None:
        try:
            (reply,) = self._runtime.control([(host, ErasureRequest(config.gallery_id, (config.shard,)))])
        except FacegridError as error:
            _LOG.warning(
                "what shard %d of %s on %s holds is not known: %s", config.shard, config.gallery_id, host, error
            )
            return None
        assert isinstance(reply, ErasureReply)
        return reply.states[0]

    def _entry(self, gallery: str, config: ShardConfig, host: str, state: ErasureState | None) -> ReplicaErasure:
        due = None if state is None or state.oldest is None else state.oldest + self.deadline_s
        return ReplicaErasure(
            gallery=gallery,
            shard=config.shard,
            host=host,
            is_in_sync=host in config.in_sync,
            is_known=state is not None,
            dead_rows=0 if state is None else state.dead_rows,
            holds_labels=state is not None and state.needs_scrub,
            oldest=None if state is None else state.oldest,
            due=due,
        )

    def erase(self, gallery_id: str, shards: Sequence[int] | None = None, *, least_dead: float = 0.0) -> None:
        """Remove the bytes of deleted templates from every replica now; the named shards, or all.

        Raises what keeps a replica from it; the others are done. least_dead: leave segments with fewer dead rows.
        """
        with self._running:
            failures: list[FacegridError] = []
            for config in self._catalog.shards():
                if config.gallery_id != gallery_id or (shards is not None and config.shard not in shards):
                    continue
                try:
                    self._erase(config, least_dead)
                except FacegridError as error:
                    failures.append(error)
            if failures:
                raise failures[0]

    def _erase(self, config: ShardConfig, least_dead: float) -> None:
        where = (config.gallery_id, (config.shard,))
        self._runtime.control([(config.primary, CompactShards(*where, least_dead))])
        self._runtime.control([(host, ScrubShards(*where)) for host in (*config.in_sync, *config.joining)])

    def erase_due(self, now: float | None = None, *, gallery_id: str | None = None) -> int:
        """Remove what is near its deadline, in one gallery or in all; how many shards were done.

        now: unix seconds, of the clock if None.
        """
        now = time.time() if now is None else now
        due = self._due(now)
        done = 0
        for config in self._catalog.shards() if due else ():
            key = (config.gallery_id, config.shard)
            if (gallery_id is not None and config.gallery_id != gallery_id) or not due.get(key, set()) & set(
                config.in_sync
            ):
                continue
            try:
                with self._running:
                    self._erase(config, 0.0)
                done += 1
            except FacegridError as error:
                _LOG.error("erasing shard %d of %s failed: %s", config.shard, config.gallery_id, error)
        return done

    def _due(self, now: float) -> dict[tuple[str, int], set[str]]:
        """Shards near their deadline, each with the hosts that say so: one question a host, which opens no shard."""
        due: dict[tuple[str, int], set[str]] = {}
        held = overdue = silent = 0
        for host in self._runtime.hosts():
            try:
                (reply,) = self._runtime.control([(host, BuriedRequest())])
            except FacegridError as error:
                _LOG.warning("what shard host %s holds of deleted templates is not known: %s", host, error)
                silent += 1
                continue
            assert isinstance(reply, BuriedReply)
            held += len(reply.oldest)
            overdue += sum(now - oldest > self.deadline_s for oldest in reply.oldest)
            for gallery_id, shard, oldest in zip(reply.galleries, reply.shards, reply.oldest, strict=True):
                if now - oldest >= START_SHARE * self.deadline_s:
                    due.setdefault((gallery_id, shard), set()).add(host)
        self.backlog = ErasureBacklog(held, overdue, silent)
        return due
