"""`KeyRing`: the data keys of tenants whose files are encrypted, wrapped in the catalog, in the clear only in memory.

Removing a tenant's wrapped key makes everything that was written with it unreadable, wherever a copy of it is. Knows no
files and no hosts: `shard.encryption` encrypts with these keys, and `coordinator.replication` hands them to hosts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.catalog_rows import insert_new
from coordinator.catalog_tables import GALLERIES, METADATA, MODELS, TENANTS
from coordinator.key_service import KeyService
from shard.encryption import KEY_BYTES, check_key, seal, unseal
from shard.errors import CorruptData, FacegridError, InvalidParameter, KeyUnavailable, error_from_code

TENANT_KEYS = sa.Table(
    "tenant_keys",
    METADATA,
    sa.Column("tenant_id", sa.String(8), primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
SEALED_MODELS = sa.Table(
    "sealed_models",
    METADATA,
    sa.Column("gallery_id", sa.String(32), sa.ForeignKey("galleries.gallery_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_id", sa.String(64), sa.ForeignKey("models.model_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)


ASK_AGAIN_S = 30.0
"""Pause before a service that did not give a key is asked for it again."""
_SETTINGS = "a master key: one of the settings encryption_key_file, encryption_key and encryption_kms"


@dataclass(frozen=True, slots=True)
class _Known:
    """What came of unwrapping a key. at: time.monotonic()."""

    wrapped: bytes
    key: bytes = field(repr=False)
    error: FacegridError | None
    at: float

    def is_due(self, now: float) -> bool:
        return self.error is not None and now - self.at >= ASK_AGAIN_S

    def result(self) -> bytes:
        if self.error is not None:
            raise error_from_code(self.error.code, str(self.error))  # a new one, each has a traceback of its own
        return self.key


class Transactions(Protocol):
    """The catalog's database."""

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection that sees one state."""

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction."""


class KeyRing:
    """Data keys by tenant id. Thread-safe."""

    def __init__(self, database: Transactions, service: KeyService | None) -> None:
        """service: what wraps keys; None where none was set, so that no tenant can be encrypted or read."""
        self._database, self._service = database, service
        self._known: dict[str, _Known] = {}
        self._lock, self._asking = threading.Lock(), threading.Event()

    def create(self, db: Connection, tenant_id: str) -> None:
        """A new key for a tenant, in the caller's transaction; InvalidParameter where nothing was set to wrap it."""
        if self._service is None:
            raise InvalidParameter(f"an encrypted tenant needs {_SETTINGS}")
        key = os.urandom(KEY_BYTES)
        try:
            wrapped = self._service.wrap(key, _context(tenant_id))
        except FacegridError:
            raise
        except Exception as error:  # noqa: BLE001 - the operator's own code, of which nothing is known
            raise KeyUnavailable(f"the key service wrapped no key: {type(error).__name__}") from None
        db.execute(TENANT_KEYS.insert(), {"tenant_id": tenant_id, "wrapped": wrapped, "created_at": time.time()})
        self._note(tenant_id, _Known(wrapped, key, None, time.monotonic()))

    def destroy(self, db: Connection, tenant_id: str) -> None:
        """Forget a tenant's key for good, in the caller's transaction: its files cannot be read any more."""
        db.execute(TENANT_KEYS.delete().where(TENANT_KEYS.c.tenant_id == tenant_id))
        with self._lock:
            self._known.pop(tenant_id, None)

    def data_key(self, tenant_id: str) -> bytes:
        """The key of an encrypted tenant; KeyUnavailable if it was destroyed or cannot be unwrapped, WrongKey."""
        query = sa.select(TENANT_KEYS.c.wrapped).where(TENANT_KEYS.c.tenant_id == tenant_id)
        with self._database.reading() as db:
            wrapped = db.execute(query).scalar_one_or_none()
        if wrapped is None:
            raise KeyUnavailable(f"tenant {tenant_id} is encrypted and its key was destroyed")
        return self._unwrapped(tenant_id, bytes(wrapped))

    def _unwrapped(self, tenant_id: str, wrapped: bytes) -> bytes:
        known = self._last(tenant_id, wrapped)
        if known is None or known.is_due(time.monotonic()):
            known = self._asked(tenant_id, wrapped)  # without a lock: a service that hangs holds up nobody else
            self._note(tenant_id, known)
        return known.result()

    def _last(self, tenant_id: str, wrapped: bytes) -> _Known | None:
        with self._lock:
            known = self._known.get(tenant_id)
        return known if known is not None and known.wrapped == wrapped else None

    def _note(self, tenant_id: str, known: _Known) -> None:
        with self._lock:
            self._known[tenant_id] = known

    def _asked(self, tenant_id: str, wrapped: bytes) -> _Known:
        now = time.monotonic()
        try:
            if self._service is None:
                raise KeyUnavailable(f"tenant {tenant_id} is encrypted; its key needs {_SETTINGS}")
            return _Known(wrapped, check_key(self._service.unwrap(wrapped, _context(tenant_id))), None, now)
        except FacegridError as error:
            return _Known(wrapped, b"", error, now)
        except Exception as error:  # noqa: BLE001 - the operator's own code, of which nothing is known
            # Without what it says, which may be of a key.
            kind = type(error).__name__
            return _Known(
                wrapped, b"", KeyUnavailable(f"tenant {tenant_id}: its key could not be unwrapped: {kind}"), now
            )

    def is_encrypted(self, gallery_id: str) -> bool:
        """Whether a gallery's tenant is one whose files are encrypted."""
        return self._tenant_of(gallery_id) is not None

    def _tenant_of(self, gallery_id: str) -> str | None:
        """The tenant of a gallery, if it is encrypted."""
        query = (
            sa.select(TENANTS.c.tenant_id)
            .join(GALLERIES, GALLERIES.c.tenant_id == TENANTS.c.tenant_id)
            .where(GALLERIES.c.gallery_id == gallery_id, TENANTS.c.is_encrypted)
        )
        with self._database.reading() as db:
            return db.execute(query).scalar_one_or_none()

    def of_gallery(self, gallery_id: str) -> bytes | None:
        """The key of a gallery, None if it is in the clear; raises as `data_key`."""
        tenant_id = self._tenant_of(gallery_id)
        return None if tenant_id is None else self.data_key(tenant_id)

    def all(self, *, wait: bool = True) -> tuple[dict[str, bytes], dict[str, FacegridError]]:
        """The key of every tenant that has one, and why those of others cannot be had, by tenant id.

        wait: for a service that is asked now; without it what is asked is here at a later call, and in neither.
        """
        with self._database.reading() as db:
            rows = db.execute(sa.select(TENANT_KEYS.c.tenant_id, TENANT_KEYS.c.wrapped)).all()
        keys: dict[str, bytes] = {}
        failures: dict[str, FacegridError] = {}
        unknown: list[tuple[str, bytes]] = []
        for tenant_id, wrapped in sorted((str(row[0]), bytes(row[1])) for row in rows):
            known = self._last(tenant_id, wrapped)
            if not wait and (known is None or known.is_due(time.monotonic())):
                unknown.append((tenant_id, wrapped))
                if known is None:
                    continue
            try:
                keys[tenant_id] = self._unwrapped(tenant_id, wrapped) if wait or known is None else known.result()
            except FacegridError as error:
                failures[tenant_id] = error
        if unknown and not self._asking.is_set():
            self._asking.set()
            threading.Thread(target=self._ask, args=(unknown,), name="facegrid-keys", daemon=True).start()
        return keys, failures

    def _ask(self, unknown: Sequence[tuple[str, bytes]]) -> None:
        try:
            for tenant_id, wrapped in unknown:
                with contextlib.suppress(FacegridError):  # which is known from now on
                    self._unwrapped(tenant_id, wrapped)
        finally:
            self._asking.clear()

    def sealed_for(self, tenant_id: str, purpose: str, data: bytes) -> bytes:
        """What the catalog may keep of a tenant's data: as it is, unless the tenant is encrypted."""
        return seal(self.data_key(tenant_id), purpose, data) if self._is_encrypted(tenant_id) else data

    def opened_for(self, tenant_id: str, purpose: str, kept: bytes) -> bytes:
        """What `sealed_for` was given."""
        return unseal(self.data_key(tenant_id), purpose, kept) if self._is_encrypted(tenant_id) else kept

    def _is_encrypted(self, tenant_id: str) -> bool:
        query = sa.select(TENANTS.c.is_encrypted).where(TENANTS.c.tenant_id == tenant_id)
        with self._database.reading() as db:
            return bool(db.execute(query).scalar_one_or_none())

    # Models tell of the templates that they were fitted to.

    def sealed_model(self, gallery_id: str, model_id: str, data: bytes) -> bytes | None:
        """What the catalog keeps of a model of an encrypted gallery; None if the gallery is in the clear."""
        key = self.of_gallery(gallery_id)
        return None if key is None else seal(key, f"model {model_id}", data)

    def model(self, gallery_id: str, model_id: str) -> bytes:
        """The bytes of a gallery's model; CorruptData if the catalog has lost them, and what `data_key` raises."""
        key = self.of_gallery(gallery_id)
        table = MODELS if key is None else SEALED_MODELS
        query = sa.select(table.c.data).where(table.c.model_id == model_id)
        if key is not None:
            query = query.where(SEALED_MODELS.c.gallery_id == gallery_id)
        with self._database.reading() as db:
            found = db.execute(query).scalar_one_or_none()
        if not found:
            raise CorruptData(f"the catalog has lost model {model_id} of gallery {gallery_id}")
        return bytes(found) if key is None else unseal(key, f"model {model_id}", bytes(found))


def put_model(
    db: Connection, gallery_id: str, model_id: str, templates: int, data: bytes, sealed: bytes | None
) -> None:
    """Enter a model of a gallery, in the caller's transaction; one that is there already stays.

    sealed: of `KeyRing.sealed_model`; where it is given the data are in no other form in the catalog, unless another
    gallery, in the clear, has the same model.
    """
    row = {"model_id": model_id, "templates": templates, "data": data if sealed is None else b""}
    insert_new(db, MODELS, [row])
    if sealed is None:
        is_empty = sa.func.length(MODELS.c.data) == 0
        db.execute(MODELS.update().where(MODELS.c.model_id == model_id, is_empty).values(data=data))
        return
    own = (SEALED_MODELS.c.gallery_id == gallery_id, SEALED_MODELS.c.model_id == model_id)
    db.execute(SEALED_MODELS.delete().where(*own))
    db.execute(SEALED_MODELS.insert(), {"gallery_id": gallery_id, "model_id": model_id, "data": sealed})


def _context(tenant_id: str) -> str:
    return f"facegrid tenant {tenant_id}"
