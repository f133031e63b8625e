"""`CatalogView`: what a process has read of the catalog's galleries, read again only where they have changed.

Whoever changes a gallery or a shard of it raises the gallery's version. So one short look at all versions tells what
is to be read anew: with ten thousand galleries some milliseconds instead of hundreds; and on SQLite one number tells
that nothing was committed at all. Nothing is answered without such a look, so other processes' changes are seen as if
everything was read.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy.engine import Connection

from coordinator.catalog_rows import whole_galleries
from coordinator.catalog_tables import GALLERIES
from coordinator.types import GalleryRoute, ShardConfig

Lists: TypeAlias = tuple[list[GalleryRoute], list[ShardConfig]]
_AT_ONCE = 500
"""Galleries that are read by one query."""
_VERSIONS = "SELECT gallery_id, state, version FROM galleries ORDER BY gallery_id"


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    route: GalleryRoute
    configs: tuple[ShardConfig, ...]


class CatalogView:
    """Galleries and their shards as last read. Thread-safe."""

    def __init__(self, where: str) -> None:
        """where: the database, for messages."""
        self._where = where
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._versions: list[tuple[str, str, int]] = []
        self._mark: int | None = None
        self._lists: dict[tuple[str, ...], Lists] = {}

    def known(self, states: tuple[str, ...], mark: int | None) -> Lists | None:
        """What was read last of the galleries in these states, if nothing was committed since; see `Database`."""
        with self._lock:
            return self._lists.get(states) if mark is not None and mark == self._mark else None

    def read(self, db: Connection, states: tuple[str, ...], mark: int | None) -> Lists:
        """Galleries in these states, by name, and their shards, by gallery id and number. Raises as `whole_galleries`.

        db: of a transaction that began after `mark` was told.
        """
        versions = [tuple(row) for row in db.exec_driver_sql(_VERSIONS).all()]
        with self._lock:
            self._mark = None  # until all is read
            if versions != self._versions:
                there = {gallery_id for gallery_id, _, _ in versions}
                self._known = {key: known for key, known in self._known.items() if key in there}
                self._versions, self._lists = versions, {}
            if states not in self._lists:
                wanted = {gallery_id: version for gallery_id, state, version in versions if state in states}
                self._learn(db, wanted)
                known = [self._known[gallery_id] for gallery_id in sorted(wanted)]
                routes = sorted((entry.route for entry in known), key=lambda route: route.name)
                self._lists[states] = (routes, [config for entry in known for config in entry.configs])
            self._mark = mark
            return self._lists[states]

    def _learn(self, db: Connection, wanted: dict[str, int]) -> None:
        known = self._known
        late = [key for key, version in wanted.items() if key not in known or known[key].version != version]
        if not late:
            return
        # In this transaction they have the versions that were seen.
        for first in range(0, len(late), _AT_ONCE):
            condition = GALLERIES.c.gallery_id.in_(late[first : first + _AT_ONCE])
            for route, configs in whole_galleries(db, self._where, condition):
                known[route.gallery_id] = _Known(route.version, route, tuple(configs))
