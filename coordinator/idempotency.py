"""Replies to requests that carried an idempotency key, in the catalog, so that a repeated request is answered alike."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from coordinator.catalog import Catalog
from coordinator.catalog_rows import insert_new
from coordinator.catalog_tables import METADATA

KEPT_S = 24 * 3600.0
"""How long a reply is remembered."""
_TRIM_EVERY = 256

REQUESTS = sa.Table(
    "idempotent_requests",
    METADATA,
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("reply", sa.LargeBinary),
    sa.Column("at", sa.Double, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """A request that was begun before. reply: None while, or because, it was not finished."""

    digest: bytes
    reply: bytes | None


class Idempotency:
    """Requests by who made them and their key. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._begun = 0

    def begin(self, owner: str, key: str, digest: bytes, within_s: float | None = None) -> KnownRequest | None:
        """Take note of a request; what is known of one with that key already, None if this is the first.

        within_s, here and in `finish`: HostUnavailable after that, where the coordinator is another process.
        """
        now = time.time()
        with self._catalog.writing() as db:
            self._begun += 1
            if self._begun % _TRIM_EVERY == 1:
                db.execute(REQUESTS.delete().where(REQUESTS.c.at < now - KEPT_S))
            is_new = insert_new(db, REQUESTS, [{"owner": owner, "key": key, "digest": digest, "at": now}])
            if is_new:
                return None
            row = db.execute(
                sa.select(REQUESTS.c.digest, REQUESTS.c.reply).where(REQUESTS.c.owner == owner, REQUESTS.c.key == key)
            ).one()
        reply = None if row.reply is None else self._catalog.keys.opened_for(owner, "reply", bytes(row.reply))
        return KnownRequest(bytes(row.digest), reply)

    def finish(self, owner: str, key: str, reply: bytes, within_s: float | None = None) -> None:
        """Remember what was answered, sealed if the owner is a tenant that is encrypted: answers have template ids."""
        reply = self._catalog.keys.sealed_for(owner, "reply", reply)
        with self._catalog.writing() as db:
            db.execute(REQUESTS.update().where(REQUESTS.c.owner == owner, REQUESTS.c.key == key).values(reply=reply))
