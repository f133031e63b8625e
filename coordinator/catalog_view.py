"""`CatalogView`: what a process has read of the catalog's galleries, read again only where they have changed.

Whoever changes a gallery or a shard of it raises the gallery's version. So one short look at all versions tells what is
to be read anew: with ten thousand galleries a few milliseconds instead of hundreds. Nothing is answered without that
look, so other processes' changes are seen as if everything was read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from coordinator.catalog_rows import whole_galleries
from coordinator.catalog_tables import GALLERIES
from coordinator.types import GalleryRoute, ShardConfig

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
        self._versions: Sequence[object] = ()
        self._lists: dict[tuple[str, ...], tuple[list[GalleryRoute], list[ShardConfig]]] = {}

    def galleries(self, db: Connection, states: tuple[str, ...]) -> list[GalleryRoute]:
        """Galleries in these states, by name. Raises as `catalog_rows.routes`."""
        return list(self._read(db, states)[0])

    def shards(self, db: Connection, states: tuple[str, ...]) -> list[ShardConfig]:
        """Their shards, by gallery id and number."""
        return list(self._read(db, states)[1])

    def _read(self, db: Connection, states: tuple[str, ...]) -> tuple[list[GalleryRoute], list[ShardConfig]]:
        versions = db.exec_driver_sql(_VERSIONS).all()
        with self._lock:
            if versions != self._versions:
                there = {row.gallery_id for row in versions}
                self._known = {key: known for key, known in self._known.items() if key in there}
                self._versions, self._lists = versions, {}
            if states not in self._lists:
                wanted = {row.gallery_id: row.version for row in versions if row.state in states}
                self._learn(db, wanted)
                known = [self._known[gallery_id] for gallery_id in sorted(wanted)]
                routes = sorted((entry.route for entry in known), key=lambda route: route.name)
                self._lists[states] = (routes, [config for entry in known for config in entry.configs])
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
