"""The catalog: which galleries exist, where their shards are, which model each uses. SQL through SQLAlchemy Core.

Owns the schema and its statements. It decides nothing: `coordinator.coordinator` does, and writes it here first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from coordinator.types import GalleryRoute, GallerySpec
from shard.errors import AlreadyExists, CorruptData, ShardClosed, StorageError, UnknownGallery, WriteFailed

CREATING, READY, DROPPING = "creating", "ready", "dropping"

METADATA = sa.MetaData()
_GALLERIES = sa.Table(
    "galleries",
    METADATA,
    sa.Column("gallery_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(130), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("dim", sa.Integer, nullable=False),
    sa.Column("code_bits", sa.Integer, nullable=False),
    sa.Column("embedder", sa.String(64)),
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id")),
    sa.Column("version", sa.Integer, nullable=False),
)
_SHARDS = sa.Table(
    "shards",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id"), primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True),
    sa.Column("host", sa.String(64), nullable=False),
)
_MODELS = sa.Table(
    "models",
    METADATA,
    sa.Column("model_id", sa.String(64), primary_key=True),
    sa.Column("templates", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


def _durable(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


class Catalog:
    """One home's catalog. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open or create the SQLite file; CorruptData if it is something else. Its format is the home's."""
        self._path = path
        self._is_closed = False
        self._engine: Engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _durable)
        try:
            METADATA.create_all(self._engine)
        except sa.exc.DatabaseError as error:
            self._engine.dispose()
            raise CorruptData(f"{path} is not a readable catalog: {error.orig}") from error

    def close(self) -> None:
        """Close all connections; calls after it raise ShardClosed."""
        self._is_closed = True
        self._engine.dispose()

    def _check_open(self) -> None:
        # The engine would connect again, to a home whose lock may be another process's by now.
        if self._is_closed:
            raise ShardClosed(f"the catalog {self._path} is closed")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with; StorageError if the database cannot be read."""
        self._check_open()
        try:
            with self._engine.connect() as db:
                yield db
        except sa.exc.DBAPIError as error:
            raise StorageError(f"could not read the catalog {self._path}: {error.orig}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction; WriteFailed if it could not be committed."""
        self._check_open()
        try:
            with self._engine.begin() as db:
                yield db
        except sa.exc.DBAPIError as error:
            raise WriteFailed(f"could not write the catalog {self._path}: {error.orig}") from error

    def add_gallery(self, gallery_id: str, spec: GallerySpec, hosts: Sequence[str]) -> None:
        """Enter a gallery in state CREATING with its placement; AlreadyExists if the name is taken."""
        row = {
            "gallery_id": gallery_id, "name": spec.name, "state": CREATING, "dim": spec.dim,
            "code_bits": spec.code_bits, "embedder": spec.embedder, "version": 1,
        }  # fmt: skip
        placed = [{"gallery_id": gallery_id, "shard": i, "host": host} for i, host in enumerate(hosts)]
        with self.writing() as db:
            if db.execute(_GALLERIES.select().where(_GALLERIES.c.name == spec.name)).first() is not None:
                raise AlreadyExists(f"gallery {spec.name!r} exists")
            db.execute(_GALLERIES.insert(), row)
            db.execute(_SHARDS.insert(), placed)

    def set_state(self, gallery_id: str, state: str) -> None:
        """Move a gallery to another state."""
        with self.writing() as db:
            db.execute(_changed(gallery_id).values(state=state, version=_GALLERIES.c.version + 1))

    def remove_gallery(self, gallery_id: str) -> None:
        """Remove a gallery's entries, and models that no gallery uses any more."""
        with self.writing() as db:
            db.execute(_SHARDS.delete().where(_SHARDS.c.gallery_id == gallery_id))
            db.execute(_GALLERIES.delete().where(_GALLERIES.c.gallery_id == gallery_id))
            remove_unused_models(db)

    def set_model(self, gallery_id: str, model_id: str, data: bytes, templates: int) -> None:
        """Make a model the gallery's, in one step with storing it. `templates`: how many there were at training."""
        with self.writing() as db:
            if db.execute(sa.select(_MODELS.c.model_id).where(_MODELS.c.model_id == model_id)).first() is None:
                db.execute(_MODELS.insert(), {"model_id": model_id, "templates": templates, "data": data})
            db.execute(_changed(gallery_id).values(model_id=model_id, version=_GALLERIES.c.version + 1))
            remove_unused_models(db)

    def model_templates(self, model_id: str) -> int:
        """How many templates the gallery had when the model was trained."""
        with self.reading() as db:
            return int(db.execute(sa.select(_MODELS.c.templates).where(_MODELS.c.model_id == model_id)).scalar_one())

    def model_data(self, model_id: str) -> bytes:
        """The model's bytes."""
        with self.reading() as db:
            return bytes(db.execute(sa.select(_MODELS.c.data).where(_MODELS.c.model_id == model_id)).scalar_one())

    def gallery(self, name: str) -> GalleryRoute:
        """A ready gallery by name; UnknownGallery otherwise."""
        with self.reading() as db:
            row = db.execute(_GALLERIES.select().where(_GALLERIES.c.name == name, _GALLERIES.c.state == READY)).first()
            if row is None:
                raise UnknownGallery(f"no gallery {name!r}")
            return _route(db, row)

    def galleries(self, state: str = READY) -> list[GalleryRoute]:
        """All galleries in a state, by name."""
        with self.reading() as db:
            rows = db.execute(_GALLERIES.select().where(_GALLERIES.c.state == state).order_by(_GALLERIES.c.name))
            return [_route(db, row) for row in rows.all()]

    def shards_per_host(self) -> dict[str, int]:
        """Host name to the number of shards placed there, for hosts that have any."""
        query = sa.select(_SHARDS.c.host, sa.func.count()).group_by(_SHARDS.c.host)
        with self.reading() as db:
            return {str(host): int(count) for host, count in db.execute(query).all()}


def _changed(gallery_id: str) -> sa.Update:
    return _GALLERIES.update().where(_GALLERIES.c.gallery_id == gallery_id)


def remove_unused_models(db: Connection) -> None:
    """Remove models that no gallery, rollout or other table refers to; what goes with a model does not count."""
    references = [
        sa.select(key.parent).where(key.parent.is_not(None))
        for table in METADATA.sorted_tables
        for key in table.foreign_keys
        if key.column is _MODELS.c.model_id and key.ondelete != "CASCADE"
    ]
    db.execute(_MODELS.delete().where(_MODELS.c.model_id.not_in(sa.union(*references))))


def _route(db: Connection, row: Row[Any]) -> GalleryRoute:
    query = sa.select(_SHARDS.c.host).where(_SHARDS.c.gallery_id == row.gallery_id).order_by(_SHARDS.c.shard)
    hosts = tuple(db.execute(query).scalars())
    return GalleryRoute(
        gallery_id=row.gallery_id,
        name=row.name,
        dim=row.dim,
        code_bits=row.code_bits,
        embedder=row.embedder,
        in_sync=tuple((host,) for host in hosts),
        epochs=(1,) * len(hosts),
        model_id=row.model_id,
        version=row.version,
    )
