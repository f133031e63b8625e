"""Who asks: API keys looked up in the catalog, and remembered for a few seconds.

A key that was revoked through another gateway is refused here within KEY_S. While the catalog is away, keys that were
good are taken to be so for AWAY_S, so that queries go on: those that were looked up, and those of which this process
learned beforehand. Nobody else gets in.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.api_keys import digest_of
from coordinator.ray_tenants import RayTenants
from coordinator.tenant_types import KeyRecord, TenantRecord
from coordinator.tenants import Tenants
from shard.errors import HostUnavailable, StorageError, Unauthenticated, UnknownTenant

KEY_S = 2.0
"""How long a key that was looked up is taken to be as it was."""
AWAY_S = 300.0
"""How long a good key goes on being good while the catalog does not answer."""
MAX_REMEMBERED = 10_000
"""Good keys; and as many bad ones apart from them, so that whoever tries keys makes nobody's be forgotten."""
_SCHEME = "bearer "
_Digest = tuple[str, bytes]
"""Of a key, see `digest_of`."""
AWAY = (HostUnavailable, StorageError)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key, and the tenant that it belongs to (None: the operator's)."""

    key: KeyRecord
    tenant: TenantRecord | None

    @property
    def flow(self) -> str:
        """Under which name its work takes turns."""
        return "" if self.tenant is None else self.tenant.tenant_id

    @property
    def weight(self) -> float:
        """Its share of the machine, relative to others that want it."""
        return 10.0 if self.tenant is None else float(self.tenant.weight)


def bearer(header: str | None) -> str:
    """The key in an Authorization header. Unauthenticated if there is none or it is of another scheme."""
    if header is None:
        raise Unauthenticated("expected an API key in the header `Authorization: Bearer <key>`, got none")
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise Unauthenticated("expected `Authorization: Bearer <key>`, got another scheme")
    return header[len(_SCHEME) :].strip()


@dataclass(slots=True)
class _Known:
    principal: Principal | None
    """None: it was refused."""
    reason: str
    at: float


class Keys:
    """Principals by key. Thread-safe. What is remembered is the digest that the catalog has, never the key."""

    def __init__(self, tenants: Tenants | RayTenants, clock: Callable[[], float] = time.monotonic) -> None:
        self._tenants = tenants
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[_Digest, _Known] = OrderedDict()
        self._refused: OrderedDict[_Digest, _Known] = OrderedDict()
        self.changes = 0
        """How often keys were forgotten. Who asks after that must not share an answer that was asked for before."""

    def remembered(self, text: str) -> Principal | None:
        """The key's principal if it was looked up a moment ago, else None. Unauthenticated if it was refused then, or
        is no key's text at all.
        """
        digest = digest_of(text)
        known = self._known.get(digest) or self._refused.get(digest)
        if known is None or self._clock() - known.at > KEY_S:
            return None
        if known.principal is None:
            raise Unauthenticated(known.reason)
        if _has_expired(known.principal.key):
            raise Unauthenticated("the key has expired")
        return known.principal

    def is_aging(self, text: str) -> bool:
        """Whether it is time to look a remembered key up again, before it is too old."""
        known = self._known.get(digest_of(text))
        return known is not None and self._clock() - known.at > KEY_S / 2

    def good_before(self, text: str) -> Principal | None:
        """The key's principal if it was good within AWAY_S and has not expired: for while the catalog is away."""
        known = self._known.get(digest_of(text))
        if known is None or known.principal is None or self._clock() - known.at > AWAY_S:
            return None
        return None if _has_expired(known.principal.key) else known.principal

    def authenticate(self, text: str) -> Principal:
        """Look the key up; what was good before is while the catalog is away. As `look_up` else. May block."""
        try:
            return self.look_up(text)
        except AWAY:
            before = self.good_before(text)
            if before is None:
                raise
            return before

    def look_up(self, text: str) -> Principal:
        """Look the key up. Unauthenticated, or what the catalog raises. May block."""
        digest = digest_of(text)
        try:
            key = self._tenants.authenticate(text)
            tenant = None if key.tenant is None else self._tenant(key)
        except Unauthenticated as error:
            self._remember(digest, _Known(None, str(error), self._clock()))
            raise
        principal = Principal(key, tenant)
        self._remember(digest, _Known(principal, "", self._clock()))
        return principal

    def learn(self) -> None:
        """Look up every key that is good, or the newest MAX_REMEMBERED: for while the catalog is away. May block.

        Raises what the catalog raises. Where keys are changed here meanwhile, nothing is learned.
        """
        began, changes = self._clock(), self.changes
        learned = [
            ((good.key.key_id, digest), _Known(Principal(good.key, good.tenant), "", began))
            for good in self._tenants.good_keys(MAX_REMEMBERED)
            for digest in good.digests
        ]
        with self._lock:
            if self.changes != changes:
                return
            for digest, known in reversed(learned):
                newest = self._known.get(digest) or self._refused.get(digest)
                if newest is None or newest.at < began:
                    self._keep(digest, known)

    def forget(self) -> None:
        """Look every key up again: keys or tenants were changed here."""
        with self._lock:
            self._known.clear()
            self._refused.clear()
            self.changes += 1

    def _tenant(self, key: KeyRecord) -> TenantRecord:
        assert key.tenant is not None
        try:
            tenant = self._tenants.get(key.tenant)
        except UnknownTenant:
            raise Unauthenticated("the key's tenant is not there any more") from None
        if tenant.tenant_id != key.tenant_id:
            raise Unauthenticated("the key's tenant is not there any more")
        return tenant

    def _remember(self, digest: _Digest, known: _Known) -> None:
        with self._lock:
            self._keep(digest, known)

    def _keep(self, digest: _Digest, known: _Known) -> None:
        """With the lock held."""
        kept, other = self._known, self._refused
        if known.principal is None:
            kept, other = other, kept
        other.pop(digest, None)
        kept[digest] = known
        kept.move_to_end(digest)
        while len(kept) > MAX_REMEMBERED:
            kept.popitem(last=False)


def _has_expired(key: KeyRecord) -> bool:
    return key.expires_at is not None and time.time() >= key.expires_at
