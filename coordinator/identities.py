"""Renaming and merging identities: their templates get another identity, and with it, mostly, another shard.

The identity decides the shard, so templates are written to the shard of the new name before they are deleted from that
of the old one, page by page. The intention is in the catalog first: whoever opens the home next, or repeats the call,
completes what was interrupted. Until a page is deleted its templates are in two shards, and searches take them once.
While they are, the old shard lets nobody else change them (`shard.holds`), or a deletion could miss them in both.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Sequence

import numpy as np

from coordinator.catalog import Catalog
from coordinator.identity_catalog import IdentityCatalog, IdentityChange
from coordinator.messages import (
    AmendReply,
    IdentitiesReply,
    IdentitiesRequest,
    MoveOutRequest,
    RenameRequest,
)
from coordinator.placement import shards_of
from coordinator.routes import RouteTable
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute
from coordinator.writes import ARRAY_BYTES, Reporter, Writes
from shard.errors import AlreadyExists, FacegridError, InvalidParameter, ShardClosed, UnknownIdentity
from shard.export import ExportedRows
from shard.types import EnrollBatch
from shard.validate import check_label

PAGE_ROWS = 1_000
"""Templates that are in two shards at once, at most."""
RENAME_ROWS = 4_096
"""Templates of one write where old and new name have the same shard."""
HOLD_S = 150.0
"""How long the old shard holds an identity for one page: longer than writing it elsewhere may take."""
MAX_MERGED = 1_000
"""Most identities that are merged by one call."""
_LOG = logging.getLogger(__name__)


class IdentityChanges:
    """Identity changes of one home, one at a time in each gallery. Thread-safe."""

    def __init__(self, catalog: Catalog, runtime: Runtime, report: Reporter | None = None) -> None:
        """report: whom to tell of writes that were not confirmed."""
        self._catalog, self._changes = catalog, IdentityCatalog(catalog)
        self._writes = Writes(runtime, RouteTable(catalog.gallery), report)
        self._turns: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._resuming: threading.Thread | None = None

    def rename(self, gallery: str, old: str, new: str) -> int:
        """Give every template of an identity another name; how many. Done when it returns; repeatable after an error,
        and of what changed before it, the last page may not be counted then.

        Raises UnknownIdentity if the old name has no template, AlreadyExists if the new one has any, InvalidParameter.
        """
        check_label(old, what="old")
        check_label(new, what="new")
        if old == new:
            raise InvalidParameter(f"new: expected another identity than the old one, got {new!r}")
        return self._change(gallery, (old,), new, is_new=True)

    def merge(self, gallery: str, identities: Sequence[str], into: str) -> int:
        """Give every template of these identities one name; how many changed theirs. The name may have templates.

        Done when it returns; repeatable after an error. Raises UnknownIdentity if one of them has no template,
        InvalidParameter.
        """
        check_label(into, what="into")
        if isinstance(identities, str) or not 0 < len(identities) <= MAX_MERGED:
            raise InvalidParameter(f"identities: expected a list of 1 to {MAX_MERGED} names, got {identities!r:.80}")
        for identity in identities:
            check_label(identity, what="identities")
        sources = tuple(identity for identity in dict.fromkeys(identities) if identity != into)
        if not sources:
            raise InvalidParameter(f"identities: expected another identity than {into!r}")
        return self._change(gallery, sources, into, is_new=False)

    def mark(self, gallery: str) -> int | None:
        """A number that every change in the gallery raises; None while one is under way. UnknownGallery."""
        return self._changes.mark(self._catalog.gallery(gallery).gallery_id)

    def _change(self, gallery: str, sources: tuple[str, ...], target: str, *, is_new: bool) -> int:
        route = self._catalog.gallery(gallery)
        is_begun = any((c.sources, c.target) == (sources, target) for c in self._changes.under_way(route.gallery_id))
        with self._turn(route.gallery_id):
            if is_begun and not self._changes.under_way(route.gallery_id):
                return self._changes.moved(route.gallery_id)  # completed while this call waited for its turn
            for left in self._changes.under_way(route.gallery_id):
                moved = self._complete(route, left)
                if (left.sources, left.target) == (sources, target):
                    return moved
            for source in sources:
                if not self._is_there(route, source):
                    raise UnknownIdentity(f"{gallery} has no template of identity {source!r}")
            if is_new and self._is_there(route, target):
                raise AlreadyExists(f"{gallery} has templates of identity {target!r}; merge the two to make them one")
            change = IdentityChange(route.gallery_id, sources, target)
            self._changes.begin(change)
            return self._complete(route, change)

    def _turn(self, gallery_id: str) -> threading.Lock:
        with self._guard:
            return self._turns.setdefault(gallery_id, threading.Lock())

    def _is_there(self, route: GalleryRoute, identity: str) -> bool:
        shard = _shard_of(route, identity)
        reply = self._writes.ask(
            route,
            shard,
            lambda epoch: IdentitiesRequest(route.gallery_id, (shard,), identity, 1, (epoch,)),
            IdentitiesReply,
        )
        return any(entry.identity == identity for entry in reply.identities)

    # Carrying out

    def _complete(self, route: GalleryRoute, change: IdentityChange) -> int:
        moved = change.moved
        for source in change.sources:
            if _shard_of(route, source) == _shard_of(route, change.target):
                moved = self._rename_within(route, source, change.target, moved)
            else:
                moved = self._move(route, source, change.target, moved)
        self._changes.end(route.gallery_id)
        _LOG.info("%s: %d templates have another identity", route.name, moved)
        return moved

    def _rename_within(self, route: GalleryRoute, source: str, target: str, moved: int) -> int:
        """Both names have the same shard: each write changes up to RENAME_ROWS templates at once."""
        shard = _shard_of(route, source)
        while True:
            self._check_open()
            operation = secrets.token_bytes(16)

            def request(epoch: int, operation: bytes = operation) -> RenameRequest:
                return RenameRequest(route.gallery_id, shard, epoch, operation, source, target, RENAME_ROWS)

            renamed = self._writes.ask(route, shard, request, AmendReply).amended
            moved += renamed
            self._changes.note(route.gallery_id, moved)
            if renamed < RENAME_ROWS:
                return moved

    def _move(self, route: GalleryRoute, source: str, target: str, moved: int) -> int:
        """Page by page: written to the shard of the target, then deleted from that of the source."""
        departed: tuple[str, ...] = ()
        while True:
            page = self._move_out(route, source, departed, HOLD_S)
            moved += len(departed)
            if departed:
                self._changes.note(route.gallery_id, moved)
            if not page.template_ids:
                self._move_out(route, source, (), 0.0)
                return moved
            if self._closing.is_set():
                self._move_out(route, source, (), 0.0)
                self._check_open()
            batch = EnrollBatch(page.floats, page.template_ids, (target,) * len(page.template_ids), page.metadata)
            shards = np.full(len(batch), _shard_of(route, target), np.int64)
            # What is there already was written before an interruption.
            self._writes.enroll(route, batch, shards, skip_existing=True)
            departed = page.template_ids

    def _move_out(self, route: GalleryRoute, source: str, departed: tuple[str, ...], hold_s: float) -> ExportedRows:
        shard, operation = _shard_of(route, source), secrets.token_bytes(16)
        limit = 0 if hold_s == 0 else max(1, min(PAGE_ROWS, ARRAY_BYTES // (route.dim * 4)))
        return self._writes.ask(
            route,
            shard,
            lambda epoch: MoveOutRequest(route.gallery_id, shard, epoch, operation, source, departed, hold_s, limit),
            ExportedRows,
        )

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ShardClosed("the coordinator is being closed; the identity change is completed when it is open again")

    # Completing what was interrupted

    def resume(self) -> None:
        """Complete every change that was interrupted and that nobody is at; what fails is logged and tried again."""
        names = {route.gallery_id: route for route in self._catalog.galleries()}
        for left in self._changes.under_way():
            turn = self._turn(left.gallery_id)
            if left.gallery_id not in names or not turn.acquire(blocking=False):
                continue
            with contextlib.ExitStack() as stack:
                stack.callback(turn.release)
                try:
                    for change in self._changes.under_way(left.gallery_id):
                        self._complete(names[left.gallery_id], change)
                except ShardClosed as error:
                    _LOG.info("an identity change of %s is completed later: %s", names[left.gallery_id].name, error)
                except FacegridError:
                    _LOG.exception("an identity change of %s could not be completed yet", names[left.gallery_id].name)

    def start(self) -> None:
        """Complete in the background what an earlier process left."""
        if self._changes.under_way():
            self._resuming = threading.Thread(target=self.resume, name="facegrid-identities", daemon=True)
            self._resuming.start()

    def wait(self) -> None:
        """Wait for what `start` began."""
        if self._resuming is not None:
            self._resuming.join()

    def close(self) -> None:
        """Stop between two pages; what is left is completed by whoever opens the home next."""
        self._closing.set()
        self.wait()


def _shard_of(route: GalleryRoute, identity: str) -> int:
    return int(shards_of((identity,), ("",), route.shards)[0])
