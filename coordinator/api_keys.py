"""API keys: made, rotated, revoked, and told from what only looks like one.

A key is `fg_<key id, 12 hex>_<secret>`, the secret 32 random bytes as base64url (43 characters). The catalog keeps the
SHA-256 of those bytes: they are random, so that nobody finds them by trying, and a slow hash would only slow down each
request. No message, log or record has the secret; the text is given once, by whoever makes or rotates the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from coordinator.catalog import Catalog
from coordinator.catalog_tables import API_KEYS, TENANTS
from coordinator.names import check_name_in_tenant, check_tenant_name
from coordinator.tenant_rows import locked_tenant, tenant_record
from coordinator.tenant_types import KEY_ID, METRICS, SCOPES, GoodKey, KeyRecord, TenantRecord
from shard.errors import InvalidParameter, Unauthenticated, UnknownKey

MAX_NAME = 63
MAX_GALLERIES = 1_000
"""Galleries that one key may be bound to."""
_TEXT = re.compile(r"fg_([0-9a-f]{12})_([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])")
# The last character stands for 4 bits: so there is one text for each secret.
_NOBODY = bytes(32)
"""Compared with where there is no such key, so that an unknown id takes as long as a wrong secret."""
_NOT_VALID = "the API key is not valid"
_COLUMNS = (*API_KEYS.c, TENANTS.c.name.label("tenant"))
_FROM = API_KEYS.outerjoin(TENANTS, TENANTS.c.tenant_id == API_KEYS.c.tenant_id)


class ApiKeys:
    """The API keys of a home. Every method is one transaction. Thread-safe."""

    def __init__(self, catalog: Catalog, clock: Callable[[], float]) -> None:
        """clock: unix seconds."""
        self._catalog, self._clock = catalog, clock

    def create(
        self, tenant: str | None, name: str, scopes: Sequence[str], galleries: Sequence[str], expires_at: float | None
    ) -> tuple[KeyRecord, str]:
        """See `Tenants.create_key`."""
        now, (text, digest) = self._clock(), _new_text(key_id := secrets.token_hex(6))
        row = {
            "key_id": key_id, "name": _checked_name(name), "scopes": ",".join(_checked_scopes(scopes, tenant)),
            "galleries": json.dumps(_checked_galleries(galleries)), "digest": digest, "created_at": now,
            "expires_at": _checked_expiry(expires_at, now),
        }  # fmt: skip
        if tenant is None and (len(scopes) != 1 or galleries):
            raise InvalidParameter(f"an operator's key: expected the scope admin or {METRICS} alone, and no galleries")
        with self._catalog.writing() as db:
            row["tenant_id"] = None if tenant is None else locked_tenant(db, check_tenant_name(tenant)).tenant_id
            db.execute(API_KEYS.insert(), row)
            return _record(_found(db, key_id)), text

    def of(self, tenant_id: str | None) -> list[KeyRecord]:
        """Keys of a tenant, or the operator's, oldest first."""
        query = sa.select(*_COLUMNS).select_from(_FROM).where(API_KEYS.c.tenant_id == tenant_id)
        with self._catalog.reading() as db:
            rows = db.execute(query.order_by(API_KEYS.c.created_at, API_KEYS.c.key_id)).all()
        return [_record(row) for row in rows]

    def get(self, key_id: str) -> KeyRecord:
        """See `Tenants.key`."""
        with self._catalog.reading() as db:
            return _record(_found(db, key_id))

    def rotate(self, key_id: str, overlap_s: float) -> tuple[KeyRecord, str]:
        """See `Tenants.rotate_key`."""
        if isinstance(overlap_s, bool) or not 0 <= overlap_s < math.inf:
            raise InvalidParameter(f"overlap_s: expected seconds of at least 0, got {overlap_s!r:.80}")
        now, (text, digest) = self._clock(), _new_text(key_id)
        with self._catalog.writing() as db:
            row = _found(db, key_id, is_locked=True)
            if (why := _end_of(row, now)) is not None:
                raise UnknownKey(f"the API key {key_id} {why}; it cannot be rotated")
            previous = {"previous_digest": row.digest, "previous_until": now + overlap_s} if overlap_s else _NO_PREVIOUS
            db.execute(API_KEYS.update().where(API_KEYS.c.key_id == key_id).values(digest=digest, **previous))
            return _record(row), text

    def revoke(self, key_id: str) -> KeyRecord:
        """See `Tenants.revoke_key`."""
        with self._catalog.writing() as db:
            is_there = (API_KEYS.c.key_id == key_id, API_KEYS.c.revoked_at.is_(None))
            db.execute(API_KEYS.update().where(*is_there).values(revoked_at=self._clock(), **_NO_PREVIOUS))
            return _record(_found(db, key_id))

    def good(self, limit: int) -> list[GoodKey]:
        """See `Tenants.good_keys`."""
        now = self._clock()
        is_good = sa.and_(
            API_KEYS.c.revoked_at.is_(None), sa.or_(API_KEYS.c.expires_at.is_(None), API_KEYS.c.expires_at > now)
        )
        newest = (API_KEYS.c.created_at.desc(), API_KEYS.c.key_id)
        with self._catalog.reading() as db:
            rows = db.execute(sa.select(*_COLUMNS).select_from(_FROM).where(is_good).order_by(*newest).limit(limit))
            found = rows.all()
            tenants: dict[str | None, TenantRecord | None] = {None: None}
            for row in db.execute(TENANTS.select().where(TENANTS.c.dropped_at.is_(None))):
                tenants[row.tenant_id] = tenant_record(row)
        return [
            GoodKey(
                _record(row),
                tenants[row.tenant_id],
                (bytes(row.digest), bytes(row.previous_digest)) if _overlaps(row, now) else (bytes(row.digest),),
            )
            for row in found
            if row.tenant_id in tenants
        ]

    def authenticate(self, text: str) -> KeyRecord:
        """See `Tenants.authenticate`."""
        key_id, digest = digest_of(text)
        with self._catalog.reading() as db:
            row = db.execute(sa.select(*_COLUMNS).select_from(_FROM).where(API_KEYS.c.key_id == key_id)).first()
        now = self._clock()
        digests = (_NOBODY, _NOBODY) if row is None else (bytes(row.digest), bytes(row.previous_digest or _NOBODY))
        is_new, is_previous = (hmac.compare_digest(digest, known) for known in digests)
        if row is None or not (is_new or (is_previous and _overlaps(row, now))):
            raise Unauthenticated(_NOT_VALID)
        if (why := _end_of(row, now)) is not None:
            raise Unauthenticated(f"the API key {row.key_id} {why}")
        return _record(row)


_NO_PREVIOUS: dict[str, Any] = {"previous_digest": None, "previous_until": None}


def digest_of(text: str) -> tuple[str, bytes]:
    """Id of the key that a text is of, and the digest that the catalog has of its secret. Unauthenticated if the text
    is no key's at all.
    """
    cut = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if cut is None:
        raise Unauthenticated(_NOT_VALID)
    return cut.group(1), _digest(cut.group(2))


def _new_text(key_id: str) -> tuple[str, bytes]:
    """The text of a key with a new secret, and the secret's digest."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return f"fg_{key_id}_{secret}", _digest(secret)


def _digest(secret: str) -> bytes:
    """SHA-256 of the 32 bytes that 43 characters of base64url stand for."""
    return hashlib.sha256(base64.urlsafe_b64decode(f"{secret}=")).digest()


def _found(db: Connection, key_id: str, *, is_locked: bool = False) -> Row[Any]:
    query = sa.select(*_COLUMNS).select_from(_FROM).where(API_KEYS.c.key_id == key_id)
    row = None
    if isinstance(key_id, str) and KEY_ID.fullmatch(key_id):
        row = db.execute(query.with_for_update(of=API_KEYS) if is_locked else query).first()
    if row is None:
        raise UnknownKey(f"no API key with the id {key_id!r:.80}")
    return row


def _overlaps(row: Row[Any], now: float) -> bool:
    """Whether the key's previous secret is good still."""
    return row.previous_until is not None and now < row.previous_until


def _end_of(row: Row[Any], now: float) -> str | None:
    """Why a key is of no use any more, None if it is of use."""
    if row.revoked_at is not None:
        return "was revoked"
    return "has expired" if row.expires_at is not None and row.expires_at <= now else None


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        key_id=row.key_id,
        tenant=row.tenant,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=tuple(row.scopes.split(",")),
        galleries=tuple(json.loads(row.galleries)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise InvalidParameter(f"name of a key: expected 1 to {MAX_NAME} printable characters, got {name!r:.160}")
    return name


def _checked_scopes(scopes: Sequence[str], tenant: str | None) -> list[str]:
    known = ("admin", METRICS) if tenant is None else SCOPES
    if isinstance(scopes, str) or not scopes or not set(scopes) <= set(known):
        whose = " of an operator's key" if tenant is None else ""
        raise InvalidParameter(f"scopes{whose}: expected some of {', '.join(known)}; got {scopes!r:.160}")
    return [scope for scope in known if scope in scopes]


def _checked_galleries(galleries: Sequence[str]) -> list[str]:
    if isinstance(galleries, str) or len(galleries) > MAX_GALLERIES:
        raise InvalidParameter(f"galleries: expected at most {MAX_GALLERIES} names, got {galleries!r:.160}")
    return sorted({check_name_in_tenant(name) for name in galleries})


def _checked_expiry(expires_at: float | None, now: float) -> float | None:
    if expires_at is None:
        return None
    is_number = isinstance(expires_at, (int, float)) and not isinstance(expires_at, bool)
    if not is_number or not now < expires_at < math.inf:
        raise InvalidParameter(f"expires_at: expected a time to come, in unix seconds; got {expires_at!r:.80}")
    return float(expires_at)
