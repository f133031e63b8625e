"""What the catalog remembers of identities that are renamed or merged: the one change under way of each gallery.

It is written before the first template changes and stays until the last has, so that an interrupted one is completed.
Names of an encrypted gallery are sealed. SQL and nothing else.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator.catalog import Catalog
from coordinator.catalog_tables import IDENTITY_CHANGES
from shard.encryption import seal, unseal
from shard.errors import KeyUnavailable, WrongKey

_PURPOSE = "identity change"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """All templates of `sources` are to be `target`'s; `moved`: how many have become so."""

    gallery_id: str
    sources: tuple[str, ...]
    target: str
    moved: int = 0


class IdentityCatalog:
    """The table of identity changes. Every method is one transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def begin(self, change: IdentityChange) -> None:
        """Enter a change; there is none under way in its gallery."""
        mine = IDENTITY_CHANGES.c.gallery_id == change.gallery_id
        sources, target = self._kept(change)
        with self._catalog.writing() as db:
            before = db.execute(sa.select(IDENTITY_CHANGES.c.changes).where(mine)).scalar_one_or_none()
            db.execute(IDENTITY_CHANGES.delete().where(mine))
            db.execute(
                IDENTITY_CHANGES.insert(),
                {
                    "gallery_id": change.gallery_id,
                    "changes": (before or 0) + 1,
                    "is_under_way": True,
                    "sources": sources,
                    "target": target,
                    "moved": change.moved,
                    "started_at": time.time(),
                },
            )

    def _kept(self, change: IdentityChange) -> tuple[str, str]:
        """What the columns `sources` and `target` get."""
        key = self._catalog.keys.of_gallery(change.gallery_id)
        if key is None:
            return json.dumps(change.sources), change.target
        names = json.dumps([change.sources, change.target]).encode()
        return base64.b64encode(seal(key, _PURPOSE, names)).decode(), ""

    def _change_of(self, row: sa.Row[Any]) -> IdentityChange:
        key = self._catalog.keys.of_gallery(row.gallery_id)
        if key is None:
            return IdentityChange(row.gallery_id, tuple(json.loads(row.sources)), row.target, row.moved)
        sources, target = json.loads(unseal(key, _PURPOSE, base64.b64decode(row.sources)))
        return IdentityChange(row.gallery_id, tuple(sources), target, row.moved)

    def note(self, gallery_id: str, moved: int) -> None:
        """How many templates have changed so far."""
        self._change(gallery_id, moved=moved)

    def end(self, gallery_id: str) -> None:
        """The change is complete; the names, which are people's, are forgotten."""
        self._change(gallery_id, is_under_way=False, sources="[]", target="")

    def _change(self, gallery_id: str, **values: object) -> None:
        with self._catalog.writing() as db:
            mine = IDENTITY_CHANGES.c.gallery_id == gallery_id
            db.execute(IDENTITY_CHANGES.update().where(mine).values(**values))

    def under_way(self, gallery_id: str | None = None) -> list[IdentityChange]:
        """Changes that are not complete: of one gallery, or of all, by gallery id.

        Of all, those of galleries whose key is not to be had are left out, and wait; of one it is KeyUnavailable.
        """
        table = IDENTITY_CHANGES
        query = table.select().where(table.c.is_under_way).order_by(table.c.gallery_id)
        if gallery_id is not None:
            query = query.where(table.c.gallery_id == gallery_id)
        with self._catalog.reading() as db:
            rows = db.execute(query).all()
        if gallery_id is not None:
            return [self._change_of(row) for row in rows]
        changes = []
        for row in rows:
            try:
                changes.append(self._change_of(row))
            except (KeyUnavailable, WrongKey) as error:
                _LOG.warning("a change of identities waits: %s", error)
        return changes

    def moved(self, gallery_id: str) -> int:
        """Templates that changed in the gallery's last change."""
        query = sa.select(IDENTITY_CHANGES.c.moved).where(IDENTITY_CHANGES.c.gallery_id == gallery_id)
        with self._catalog.reading() as db:
            return int(db.execute(query).scalar_one())

    def mark(self, gallery_id: str) -> int | None:
        """A number that every change of the gallery raises; None while one is under way."""
        table = IDENTITY_CHANGES
        query = sa.select(table.c.changes, table.c.is_under_way).where(table.c.gallery_id == gallery_id)
        with self._catalog.reading() as db:
            row = db.execute(query).first()
        if row is None:
            return 0
        return None if row.is_under_way else int(row.changes)
