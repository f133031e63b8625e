"""What the catalog remembers of identities that are renamed or merged: the one change under way of each gallery.

It is written before the first template changes and stays until the last has, so that an interrupted one is completed.
SQL and nothing else.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator.catalog import Catalog
from coordinator.catalog_tables import IDENTITY_CHANGES


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
        with self._catalog.writing() as db:
            before = db.execute(sa.select(IDENTITY_CHANGES.c.changes).where(mine)).scalar_one_or_none()
            db.execute(IDENTITY_CHANGES.delete().where(mine))
            db.execute(
                IDENTITY_CHANGES.insert(),
                {
                    "gallery_id": change.gallery_id,
                    "changes": (before or 0) + 1,
                    "is_under_way": True,
                    "sources": json.dumps(change.sources),
                    "target": change.target,
                    "moved": change.moved,
                    "started_at": time.time(),
                },
            )

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
        """Changes that are not complete: of one gallery, or of all, by gallery id."""
        table = IDENTITY_CHANGES
        query = table.select().where(table.c.is_under_way).order_by(table.c.gallery_id)
        if gallery_id is not None:
            query = query.where(table.c.gallery_id == gallery_id)
        with self._catalog.reading() as db:
            rows = db.execute(query).all()
        return [IdentityChange(row.gallery_id, tuple(json.loads(row.sources)), row.target, row.moved) for row in rows]

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
