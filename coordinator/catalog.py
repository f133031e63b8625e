"""The catalog: which galleries exist, which hosts hold their shards, which model each uses.

Owns the statements on the tables of `coordinator.catalog_tables`, through SQLAlchemy Core. It is the one place where
the configuration of a shard changes, by compare-and-set on its epoch. It decides nothing: its callers do, and write it
here first.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.catalog_rows import (
    checked,
    configs,
    insert_new,
    placed,
    remove_unused_models,
    replica_rows,
    routes,
)
from coordinator.catalog_schema import prepare
from coordinator.catalog_tables import DROPPING, GALLERIES, HOSTS, META, METADATA, MODELS, REPLICAS, SHARDS
from coordinator.catalog_view import CatalogView, Lists
from coordinator.database import Database
from coordinator.encryption import KeyRing, put_model
from coordinator.home import Home
from coordinator.key_service import KeyService
from coordinator.names import tenant_name
from coordinator.tenant_rows import tenant_with_room
from coordinator.types import HOST_STATES, UP, GalleryRoute, GallerySpec, HostRecord, ShardConfig
from shard.errors import (
    AlreadyExists,
    CorruptData,
    InvalidParameter,
    NotFound,
    StaleRoute,
    UnknownGallery,
)

__all__ = ["CREATING", "DROPPING", "LOOKED_AFTER", "METADATA", "READY", "RESTORING", "Catalog", "open_catalog"]

CREATING, READY, RESTORING = "creating", "ready", "restoring"
"""Not on every host yet; in use; templates of a snapshot are written into it, and nobody sees it. Or DROPPING."""
LOOKED_AFTER = (READY, RESTORING)
"""Galleries in these states hold templates that must not get lost: their replicas are kept up."""
_FEW = 100
"""Ids that are named in a query; of more, all rows are read."""
_PREPARING = 0x66616365
"""Key of the lock that PostgreSQL gives to one process at a time that creates or upgrades the tables."""


class Catalog:
    """One home's catalog. Every method is one transaction. Thread-safe.

    Methods that read raise StorageError if the database cannot be read, those that write WriteFailed if it cannot be
    written. Transactions that change a gallery lock its row first, so that they take turns and do not deadlock.
    """

    def __init__(self, url: str | Path, key_service: KeyService | None = None) -> None:
        """Open the database, create its tables where there are none, or upgrade those of an older version.

        url: a SQLite file, or a SQLAlchemy URL (`postgresql+psycopg://user@host/database`, `sqlite:///path`).
        key_service: what wraps the keys of encrypted tenants; without it those cannot be made or read.
        Raises InvalidParameter (the URL), MissingExtra, CorruptData for a file or tables that are something else,
        FormatTooNew, StorageError if the database cannot be reached. No message shows a password.
        """
        self._database = Database(url)
        self.shown = self._database.shown
        """Where it is, without password."""
        self.keys = KeyRing(self, key_service)
        self._view = CatalogView(self.shown)
        try:
            with self._database.preparing(_PREPARING) as db:
                prepare(db, self.shown)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close all connections; calls after it raise ShardClosed. Idempotent."""
        self._database.close()

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection that sees one state of the catalog; StorageError if the database cannot be read."""
        return self._database.reading()

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction; WriteFailed if it could not be committed."""
        return self._database.writing()

    def forget(self) -> None:
        """Have nothing of deleted rows left in the database's log, as far as that is ours; WriteFailed."""
        self._database.forget()

    def claim(self, home_id: str) -> None:
        """Make the catalog this home's for good; InvalidParameter if it is another's, whose galleries it holds."""
        with self.writing() as db:
            insert_new(db, META, [{"name": "home", "value": home_id}])
            owner = db.execute(sa.select(META.c.value).where(META.c.name == "home")).scalar_one()
        if owner != home_id:
            raise InvalidParameter(f"catalog: {self.shown} belongs to home {owner}, not to {home_id}")

    def add_gallery(self, gallery_id: str, spec: GallerySpec, placement: Sequence[Sequence[str]]) -> None:
        """Enter a gallery in state CREATING, and its tenant where there is none of that name.

        placement: for each shard its hosts, all different, the primary first; they are in sync, at epoch 1.
        Raises AlreadyExists if the name is taken, QuotaExceeded if the tenant has as many galleries as it may have,
        UnknownTenant if the id is of another tenant than the name: it was dropped and created again meanwhile.
        """
        row = {
            "gallery_id": gallery_id, "name": spec.name, "state": CREATING, "dim": spec.dim,
            "code_bits": spec.code_bits, "embedder": spec.embedder, "version": 1,
            "replicas": spec.replicas, "min_in_sync": spec.min_in_sync,
        }  # fmt: skip
        first = [checked(placed(gallery_id, shard, hosts)) for shard, hosts in enumerate(placement)]
        if len(first) != spec.shards:
            raise InvalidParameter(f"placement: expected hosts for {spec.shards} shards, got them for {len(first)}")
        shards = [
            {"gallery_id": gallery_id, "shard": config.shard, "primary": config.primary, "epoch": config.epoch}
            for config in first
        ]
        with self.writing() as db:
            tenant_id = tenant_with_room(db, tenant_name(spec.name), gallery_id, time.time())
            if not insert_new(db, GALLERIES, [{**row, "tenant_id": tenant_id}], key="name"):
                raise AlreadyExists(f"gallery {spec.name!r} exists")
            db.execute(SHARDS.insert(), shards)
            db.execute(REPLICAS.insert(), [row for config in first for row in replica_rows(config)])

    def set_state(self, gallery_id: str, state: str) -> None:
        """Move a gallery to another state; UnknownGallery if it is being dropped."""
        change = _change(gallery_id, state=state).where(GALLERIES.c.state != DROPPING)
        with self.writing() as db:
            if db.execute(change).rowcount != 1:
                raise UnknownGallery(f"the gallery with the id {gallery_id!r} was dropped")

    def begin_drop(self, gallery_id: str) -> None:
        """Move a gallery to DROPPING and free its name; it is remembered until every host has removed it."""
        with self.writing() as db:
            db.execute(_change(gallery_id, state=DROPPING, name=f"#{gallery_id}"))

    def remove_gallery(self, gallery_id: str) -> None:
        """Remove a gallery's entries, and models that no gallery uses any more."""
        with self.writing() as db:
            db.execute(sa.select(GALLERIES.c.version).where(GALLERIES.c.gallery_id == gallery_id).with_for_update())
            db.execute(REPLICAS.delete().where(REPLICAS.c.gallery_id == gallery_id))
            db.execute(SHARDS.delete().where(SHARDS.c.gallery_id == gallery_id))
            db.execute(GALLERIES.delete().where(GALLERIES.c.gallery_id == gallery_id))
            remove_unused_models(db)

    def set_model(self, gallery_id: str, model_id: str, data: bytes, templates: int) -> None:
        """Make a model the gallery's, in one step with storing it. `templates`: how many there were at training."""
        sealed = self.keys.sealed_model(gallery_id, model_id, data)
        with self.writing() as db:
            put_model(db, gallery_id, model_id, templates, data, sealed)
            db.execute(_change(gallery_id, model_id=model_id))
            remove_unused_models(db)

    def model_templates(self, model_id: str) -> int:
        """How many templates the gallery had when the model was trained."""
        with self.reading() as db:
            return int(db.execute(sa.select(MODELS.c.templates).where(MODELS.c.model_id == model_id)).scalar_one())

    def model_data(self, gallery_id: str, model_id: str) -> bytes:
        """The bytes of a gallery's model; KeyUnavailable if the gallery is encrypted and its key is not to be had."""
        return self.keys.model(gallery_id, model_id)

    def gallery(self, name: str, state: str = READY) -> GalleryRoute:
        """A gallery by name, by an index; UnknownGallery if there is none that is in the state."""
        found = self.find(name, state)
        if found is None:
            raise UnknownGallery(f"no gallery {name!r}")
        return found

    def find(self, name: str, state: str = READY) -> GalleryRoute | None:
        """A gallery by name, by an index; None if there is none that is in the state."""
        with self.reading() as db:
            found = routes(db, self.shown, GALLERIES.c.name == name, GALLERIES.c.state == state)
        return found[0] if found else None

    def ids(self, *states: str) -> list[str]:
        """Ids of the galleries in these states."""
        query = sa.select(GALLERIES.c.gallery_id).where(GALLERIES.c.state.in_(states))
        with self.reading() as db:
            return [str(gallery_id) for gallery_id in db.execute(query).scalars()]

    def galleries(self, *states: str, tenant_id: str | None = None) -> list[GalleryRoute]:
        """Galleries in these states, those that are ready if none is given, by name: of all tenants, or of one."""
        if tenant_id is None:
            return list(self._viewed(states or (READY,))[0])
        with self.reading() as db:
            own = GALLERIES.c.tenant_id == tenant_id
            return routes(db, self.shown, GALLERIES.c.state.in_(states or (READY,)), own)

    def min_in_sync(self, gallery_ids: Collection[str]) -> dict[str, int]:
        """Gallery id to the copies that must have a write before it is acknowledged."""
        query = sa.select(GALLERIES.c.gallery_id, GALLERIES.c.min_in_sync)
        if len(gallery_ids) <= _FEW:
            query = query.where(GALLERIES.c.gallery_id.in_(sorted(gallery_ids)))
        with self.reading() as db:
            return {str(gallery_id): int(least) for gallery_id, least in db.execute(query).all()}

    def shard(self, gallery_id: str, shard: int) -> ShardConfig:
        """A shard's configuration, whatever the state of its gallery; UnknownGallery if there is none."""
        with self.reading() as db:
            found = configs(db, self.shown, SHARDS.c.gallery_id == gallery_id, SHARDS.c.shard == shard)
        if not found:
            raise UnknownGallery(f"no shard {shard} of a gallery with the id {gallery_id!r}")
        return found[0]

    def shards(self) -> list[ShardConfig]:
        """Every shard of the galleries that are LOOKED_AFTER, by gallery id and number."""
        return list(self._viewed(LOOKED_AFTER)[1])

    def _viewed(self, states: tuple[str, ...]) -> Lists:
        mark = self._database.change_mark()
        known = self._view.known(states, mark)
        if known is not None:
            return known
        with self.reading() as db:
            return self._view.read(db, states, mark)

    def shards_of(self, gallery_id: str, *states: str) -> list[ShardConfig]:
        """The shards of one gallery, by number; none unless it is in one of these states, ready if none is given."""
        with self.reading() as db:
            is_in = GALLERIES.c.state.in_(states or (READY,))
            return configs(db, self.shown, is_in, SHARDS.c.gallery_id == gallery_id)

    def shards_on(self, host: str) -> list[ShardConfig]:
        """Those of `shards` that have a replica on a host, in sync or joining."""
        return [config for config in self.shards() if host in config.in_sync or host in config.joining]

    def reconfigure(self, config: ShardConfig) -> ShardConfig:
        """Compare-and-set: give a shard these hosts if its epoch is still config.epoch; returns it with the next epoch.

        Of two callers that read the same epoch one succeeds and the other gets StaleRoute, with nothing changed. The
        gallery's version is raised. Raises UnknownGallery if the gallery is not LOOKED_AFTER or the shard is not there,
        InvalidParameter for a primary that is not in sync or a host that is named twice. After WriteFailed the change
        may be in effect if the connection broke while it was being committed: read the shard again.
        """
        config = checked(config)
        changed = replace(config, epoch=config.epoch + 1)
        where = (SHARDS.c.gallery_id == config.gallery_id, SHARDS.c.shard == config.shard)
        with self.writing() as db:
            is_kept = GALLERIES.c.state.in_(LOOKED_AFTER)
            raised = db.execute(_change(config.gallery_id).where(is_kept))
            stored = db.execute(sa.select(SHARDS.c.epoch).where(*where)).scalar_one_or_none()
            if raised.rowcount != 1 or stored is None:
                raise UnknownGallery(f"no shard {config.shard} of a gallery in use with the id {config.gallery_id!r}")
            swapped = db.execute(
                SHARDS.update()
                .where(*where, SHARDS.c.epoch == config.epoch)
                .values(primary=changed.primary, epoch=changed.epoch)
            )
            if swapped.rowcount != 1:
                raise StaleRoute(
                    f"shard {config.shard} of {config.gallery_id} has epoch {stored}; the change was for {config.epoch}"
                )
            db.execute(
                REPLICAS.delete().where(REPLICAS.c.gallery_id == config.gallery_id, REPLICAS.c.shard == config.shard)
            )
            db.execute(REPLICAS.insert(), replica_rows(changed))
        return changed

    def shards_per_host(self) -> dict[str, int]:
        """Host name to the number of replicas placed there, in sync or joining, for hosts that have any."""
        query = sa.select(REPLICAS.c.host, sa.func.count()).group_by(REPLICAS.c.host)
        with self.reading() as db:
            return {str(host): int(count) for host, count in db.execute(query).all()}

    def register_hosts(self, names: Iterable[str], now: float | None = None) -> None:
        """Enter hosts that are not known yet, as UP since `now` (unix seconds; the clock's if None). Others stay."""
        since = time.time() if now is None else now
        rows = [{"host": name, "state": UP, "since": since} for name in sorted(set(names))]
        with self.writing() as db:
            insert_new(db, HOSTS, rows)

    def hosts(self) -> list[HostRecord]:
        """Every host that was registered, by name."""
        with self.reading() as db:
            rows = db.execute(HOSTS.select()).all()
        return sorted((HostRecord(row.host, row.state, row.since) for row in rows), key=lambda record: record.host)

    def set_host_state(self, host: str, state: str, now: float) -> None:
        """Move a host to one of HOST_STATES as of `now` (unix seconds); `since` stays where it has that state already.

        Raises InvalidParameter for another state, NotFound for a host that was never registered.
        """
        if state not in HOST_STATES:
            raise InvalidParameter(f"host state: expected one of {', '.join(HOST_STATES)}; got {state!r}")
        since = sa.case((HOSTS.c.state == state, HOSTS.c.since), else_=now)
        with self.writing() as db:
            if db.execute(HOSTS.update().where(HOSTS.c.host == host).values(state=state, since=since)).rowcount != 1:
                raise NotFound(f"no host {host!r} in the catalog")


def open_catalog(home: Home, url: str | None, key_service: KeyService | None = None) -> Catalog:
    """The catalog of a home: <home>/catalog.db, or the database at the URL where one is set.

    A home never gets a second, empty catalog beside the one that knows its shards: InvalidParameter if a URL is set
    and the home has a catalog.db, or the database belongs to another home; CorruptData if none is set and the home has
    shard hosts and no catalog.db. And what `Catalog` raises.
    """
    is_here = home.catalog_path.exists()
    if url is None and not is_here and home.local_hosts():
        raise CorruptData(
            f"{home.directory} has shard hosts and no catalog: expected {home.catalog_path}, or the setting `catalog`"
            " with the URL of the database that it was created with"
        )
    if url is not None and is_here:
        raise InvalidParameter(f"catalog: this home has its catalog in {home.catalog_path}; expected no URL")
    catalog = Catalog(home.catalog_path if url is None else url, key_service)
    try:
        catalog.claim(home.home_id)
    except BaseException:
        catalog.close()
        raise
    return catalog


def _change(gallery_id: str, **values: object) -> sa.Update:
    """Set columns of a gallery's row, and count the change."""
    changed = GALLERIES.update().where(GALLERIES.c.gallery_id == gallery_id)
    return changed.values(**values, version=GALLERIES.c.version + 1)
