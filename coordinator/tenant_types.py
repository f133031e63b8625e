"""What is known of tenants, of API keys and of what was done with them. Values only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from coordinator.names import check_gallery_name, check_tenant_name
from shard.errors import InvalidParameter, QuotaExceeded

SCOPES = ("admin", "write", "read")
"""What a key may do, the most first; each implies those after it."""
METRICS = "metrics"
"""The scope of an operator's key that may read the service's metrics, and do nothing else."""
KEY_ID = re.compile(r"[0-9a-f]{12}")
MAX_WEIGHT = 100
_MAX_COUNT = 2**62
DEFAULT_JOBS = 10
"""Jobs of a tenant that wait or run, where nobody said otherwise."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has: galleries, templates, and bytes of files of one replica of each shard."""

    galleries: int
    templates: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a tenant may have, and ask: None is no limit. jobs: those that wait or run."""

    galleries: int | None = None
    templates: int | None = None
    queries_per_s: float | None = None
    bytes: int | None = None
    jobs: int | None = DEFAULT_JOBS

    def check(self, tenant: str, usage: Usage, *, galleries: int = 0, templates: int = 0, size: int = 0) -> None:
        """QuotaExceeded if the tenant, with that many more galleries, templates or bytes (`size`), had too much."""
        for what, has, more, limit in (
            ("galleries", usage.galleries, galleries, self.galleries),
            ("templates", usage.templates, templates, self.templates),
            ("bytes", usage.bytes, size, self.bytes),
        ):
            if limit is not None and more and has + more > limit:
                raise QuotaExceeded(
                    f"tenant {tenant!r} may have {limit:,} {what}; it has {has:,}, asked for {more:,} more"
                )

    def check_jobs(self, tenant: str, active: int) -> None:
        """QuotaExceeded if the tenant, which has so many jobs that wait or run, may have no more."""
        if self.jobs is not None and active >= self.jobs:
            raise QuotaExceeded(f"tenant {tenant!r} may have {self.jobs:,} jobs that wait or run; it has {active:,}")


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant. tenant_id: 8 hex digits, never given again. created_at: unix seconds. weight: 1 to 100, its share."""

    tenant_id: str
    name: str
    created_at: float
    quotas: Quotas
    weight: int
    keeps_thumbnails: bool
    is_encrypted: bool


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key, without its secret. tenant: None for an operator's, whose scopes hold in every tenant.

    scopes: of SCOPES; of an operator's either admin or METRICS. galleries: names inside the tenant that it is bound to;
    () is all. Times are unix seconds.
    """

    key_id: str
    tenant: str | None
    tenant_id: str | None
    name: str
    scopes: tuple[str, ...]
    galleries: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def allows(self, scope: str, gallery: str | None) -> bool:
        """Whether the key may do what needs `scope` in a gallery, `tenant/gallery`; None: in its tenant as a whole.

        A key that is bound to galleries may do nothing in the tenant as a whole. InvalidParameter for another scope.
        """
        if scope not in SCOPES:
            raise InvalidParameter(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r:.80}")
        if not any(own in SCOPES[: SCOPES.index(scope) + 1] for own in self.scopes):
            return False
        if self.tenant is None:
            return True
        if gallery is None:
            return not self.galleries
        tenant, _, name = gallery.partition("/")
        return tenant == self.tenant and (not self.galleries or name in self.galleries)


@dataclass(frozen=True, slots=True)
class GoodKey:
    """A key that is of use. tenant: None for an operator's. digests: of its secret, and of the previous one while that
    is good too; see `api_keys.digest_of`.
    """

    key: KeyRecord
    tenant: TenantRecord | None
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """That something was done, or refused: who, what, when, how many; never to whom. at: unix seconds.

    action: such as "faces.enroll". gallery: `tenant/gallery`. outcome: "ok" or an error's code.
    """

    at: float
    tenant: str | None
    key_id: str | None
    action: str
    gallery: str | None
    count: int | None
    outcome: str
    request_id: str


def checked_quotas(quotas: Quotas) -> Quotas:
    """The quotas; InvalidParameter for one that is no number of at least 0, or a rate that is not above 0."""
    for what, limit in (
        ("galleries", quotas.galleries), ("templates", quotas.templates), ("bytes", quotas.bytes), ("jobs", quotas.jobs)
    ):  # fmt: skip
        if limit is not None and (type(limit) is not int or not 0 <= limit <= _MAX_COUNT):
            raise InvalidParameter(
                f"quota of {what}: expected a whole number of at least 0, or none; got {limit!r:.80}"
            )
    rate = quotas.queries_per_s
    if rate is None:
        return quotas
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise InvalidParameter(f"quota of queries_per_s: expected a number above 0, or none; got {rate!r:.80}")
    return replace(quotas, queries_per_s=float(rate))


def checked_weight(weight: int) -> int:
    """The weight; InvalidParameter unless it is from 1 to MAX_WEIGHT."""
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        raise InvalidParameter(f"weight: expected a whole number from 1 to {MAX_WEIGHT}, got {weight!r:.80}")
    return weight


def checked_entry(entry: AuditEntry) -> AuditEntry:
    """The entry; InvalidParameter for text that is no action, code, gallery or request id.

    So nothing can be put into the log in their place.
    """
    for what, text, longest in (
        ("action", entry.action, 64), ("outcome", entry.outcome, 64), ("request id", entry.request_id, 128)
    ):  # fmt: skip
        if len(text) > longest or not text.isascii() or not text.isprintable() or " " in text:
            raise InvalidParameter(
                f"audit: {what}: expected at most {longest} visible ASCII characters, got {text!r:.160}"
            )
    if entry.gallery is not None:
        check_gallery_name(entry.gallery)
    if entry.tenant is not None:
        check_tenant_name(entry.tenant)
    if entry.key_id is not None and not KEY_ID.fullmatch(entry.key_id):
        raise InvalidParameter(f"audit: key id: expected 12 hexadecimal digits, got {entry.key_id!r:.80}")
    if not math.isfinite(entry.at):
        raise InvalidParameter(f"audit: expected a time in unix seconds, got {entry.at!r}")
    return entry
