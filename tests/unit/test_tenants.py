"""Tenants, keys and the audit log on a catalog in a file; `tests/integration/test_tenant_catalog.py` has PostgreSQL."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.catalog import Catalog
from coordinator.key_service import MasterKey
from coordinator.tenant_types import SCOPES, AuditEntry, KeyRecord, Quotas, Usage
from coordinator.tenants import Tenants
from shard.errors import (
    AlreadyExists,
    InvalidParameter,
    QuotaExceeded,
    Unauthenticated,
    UnknownKey,
    UnknownTenant,
)


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.db", MasterKey(bytes(32)))
    yield opened
    opened.close()


@pytest.fixture
def tenants(catalog: Catalog, clock: Clock) -> Tenants:
    return Tenants(catalog, lambda: None, clock=clock)


# Tenants


def test_a_tenant_is_created_found_changed_and_listed(tenants: Tenants, clock: Clock) -> None:
    quotas = Quotas(galleries=2, templates=1_000, queries_per_s=2.5, bytes=1 << 40)
    made = tenants.create("acme", quotas=quotas, weight=20, keeps_thumbnails=True, is_encrypted=True)
    assert (made.name, made.created_at, made.quotas, made.weight) == ("acme", clock.now, quotas, 20)
    assert made.keeps_thumbnails
    assert made.is_encrypted
    assert len(bytes.fromhex(made.tenant_id)) == 4
    assert tenants.get("acme") == made
    other = tenants.create("abc")
    assert (other.quotas, other.weight, other.keeps_thumbnails, other.is_encrypted) == (Quotas(), 10, False, False)
    assert tenants.all() == [other, made]
    changed = tenants.update("acme", quotas=Quotas(templates=5), weight=1, keeps_thumbnails=False)
    assert changed == replace(made, quotas=Quotas(templates=5), weight=1, keeps_thumbnails=False)
    assert tenants.update("acme") == tenants.get("acme") == changed


def test_a_name_is_given_once(tenants: Tenants) -> None:
    tenants.create("acme")
    with pytest.raises(AlreadyExists, match="'acme'"):
        tenants.create("acme")


def test_a_tenant_that_is_not_there_is_named(tenants: Tenants) -> None:
    for call in (tenants.get, tenants.update, tenants.drop, tenants.keys, tenants.audit):
        with pytest.raises(UnknownTenant, match="'acme'"):
            call("acme")
    with pytest.raises(UnknownTenant, match="'acme'"):
        tenants.create_key("acme", "app", scopes=["read"])


@pytest.mark.parametrize("name", ["", "Acme", "a/b", "#a", "a" * 64, ".a", "a b", 3, None])
def test_what_is_no_name_is_refused(tenants: Tenants, name: str) -> None:
    with pytest.raises(InvalidParameter, match="tenant name"):
        tenants.create(name)


@pytest.mark.parametrize(
    "quotas",
    [Quotas(galleries=-1), Quotas(templates=True), Quotas(bytes=1.5), Quotas(queries_per_s=0.0),  # type: ignore[arg-type]
     Quotas(queries_per_s=float("nan")), Quotas(queries_per_s=float("inf")), Quotas(templates=2**63)],
)  # fmt: skip
def test_quotas_out_of_range_are_refused(tenants: Tenants, quotas: Quotas) -> None:
    tenants.create("acme")
    for call in (lambda: tenants.create("b", quotas=quotas), lambda: tenants.update("acme", quotas=quotas)):
        with pytest.raises(InvalidParameter, match="quota of"):
            call()


@pytest.mark.parametrize("weight", [0, 101, True, 1.0, "3"])
def test_a_weight_is_from_1_to_100(tenants: Tenants, weight: int) -> None:
    with pytest.raises(InvalidParameter, match="weight"):
        tenants.create("acme", weight=weight)


def test_quotas_are_checked_against_what_there_is() -> None:
    quotas, has = Quotas(galleries=2, templates=100, bytes=1_000), Usage(galleries=2, templates=90, bytes=999)
    quotas.check("acme", has, templates=10, size=1)
    for more in ({"galleries": 1}, {"templates": 11}, {"size": 2}):
        with pytest.raises(QuotaExceeded, match="tenant 'acme' may have"):
            quotas.check("acme", has, **more)
    quotas.check("acme", Usage(9, 9_999, 9_999))
    Quotas().check("acme", Usage(10**6, 10**12, 10**15), galleries=1, templates=1, size=1)


def test_an_id_is_never_given_again(tenants: Tenants, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["00000001", "00000001", "00000001", "00000002"])
    monkeypatch.setattr("coordinator.tenant_rows.secrets.token_hex", lambda _n: next(ids))
    assert tenants.create("acme").tenant_id == "00000001"
    tenants.drop("acme")
    assert tenants.all() == []
    assert tenants.create("acme").tenant_id == "00000002"


# Keys


def test_a_key_is_shown_once_and_known_again(tenants: Tenants, clock: Clock) -> None:
    tenant = tenants.create("acme")
    key, text = tenants.create_key("acme", "app", scopes=["read", "write"], galleries=["b", "a", "b"])
    assert text.startswith(f"fg_{key.key_id}_")
    assert len(text) == 3 + 12 + 1 + 43
    expected = KeyRecord(
        key.key_id, "acme", tenant.tenant_id, "app", ("write", "read"), ("a", "b"), clock.now, None, None
    )
    assert key == expected
    assert tenants.authenticate(text) == tenants.key(key.key_id) == key
    assert tenants.keys("acme") == [key]
    assert tenants.keys(None) == []


def test_the_secret_is_nowhere(
    tenants: Tenants, tmp_path: Path, caplog: pytest.LogCaptureFixture, catalog: Catalog
) -> None:
    caplog.set_level(logging.DEBUG)
    key, text = tenants.create_key(None, "root", scopes=["admin"])
    secret = text.split("_", 2)[2]  # which may have the sign in it too
    said = [repr(key), repr(tenants.authenticate(text)), repr(tenants.keys(None))]
    tenants.revoke_key(key.key_id)
    for wrong in (text, f"{text}x", text.upper()):
        with pytest.raises(Unauthenticated) as caught:
            tenants.authenticate(wrong)
        said.append(repr(caught.value))
    catalog.close()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret not in "".join(said) + caplog.text
    assert secret.encode() not in files
    assert key.key_id.encode() in files


@pytest.mark.parametrize(
    "text", ["", "fg_", "Bearer x", "fg_0123456789ab_short", None, b"fg", f"fg_{0:012}_{0:A>43}", f"fg_{0:012}_{0:043}"]
)
def test_what_is_no_key_is_refused(tenants: Tenants, text: str) -> None:
    with pytest.raises(Unauthenticated, match="the API key is not valid"):
        tenants.authenticate(text)


def test_one_text_alone_is_right(tenants: Tenants) -> None:
    _, text = tenants.create_key(None, "root", scopes=["admin"])
    for place in range(len(text)):
        for other in "AQgw09af_-":
            if other != text[place]:
                with pytest.raises(Unauthenticated, match="not valid"):
                    tenants.authenticate(text[:place] + other + text[place + 1 :])
    with pytest.raises(Unauthenticated):
        tenants.authenticate(f"{text}\n")


def test_a_key_expires(tenants: Tenants, clock: Clock) -> None:
    key, text = tenants.create_key(None, "root", scopes=["admin"], expires_at=clock.now + 10)
    clock.now += 9.5
    assert tenants.authenticate(text) == key
    clock.now += 0.5
    with pytest.raises(Unauthenticated, match="has expired"):
        tenants.authenticate(text)
    with pytest.raises(Unauthenticated, match="not valid"):  # only who has the secret is told more
        tenants.authenticate(text[:-43] + "A" * 43)
    with pytest.raises(UnknownKey, match="has expired"):
        tenants.rotate_key(key.key_id)


def test_a_key_is_revoked_for_good(tenants: Tenants, clock: Clock) -> None:
    key, first = tenants.create_key(None, "root", scopes=["admin"])
    _, second = tenants.rotate_key(key.key_id, overlap_s=100)
    revoked = tenants.revoke_key(key.key_id)
    assert revoked == replace(key, revoked_at=clock.now)
    clock.now += 1
    assert tenants.revoke_key(key.key_id) == revoked
    with pytest.raises(Unauthenticated, match="not valid"):
        tenants.authenticate(first)
    with pytest.raises(Unauthenticated, match="was revoked"):
        tenants.authenticate(second)
    with pytest.raises(UnknownKey, match="was revoked"):
        tenants.rotate_key(key.key_id)
    assert tenants.keys(None) == [revoked]


def test_a_rotated_key_has_two_texts_for_a_while(tenants: Tenants, clock: Clock) -> None:
    key, first = tenants.create_key(None, "root", scopes=["admin"])
    same, second = tenants.rotate_key(key.key_id, overlap_s=60)
    assert same == key
    assert tenants.authenticate(first) == tenants.authenticate(second) == key
    clock.now += 60
    with pytest.raises(Unauthenticated):
        tenants.authenticate(first)
    _, third = tenants.rotate_key(key.key_id, overlap_s=60)
    _, fourth = tenants.rotate_key(key.key_id, overlap_s=60)
    with pytest.raises(Unauthenticated):
        tenants.authenticate(second)
    assert tenants.authenticate(third) == tenants.authenticate(fourth) == key
    _, fifth = tenants.rotate_key(key.key_id)
    for old in (third, fourth):
        with pytest.raises(Unauthenticated):
            tenants.authenticate(old)
    assert tenants.authenticate(fifth) == key


@pytest.mark.parametrize("overlap_s", [-1.0, float("inf"), float("nan"), True])
def test_an_overlap_is_seconds(tenants: Tenants, overlap_s: float) -> None:
    key, _ = tenants.create_key(None, "root", scopes=["admin"])
    with pytest.raises(InvalidParameter, match="overlap_s"):
        tenants.rotate_key(key.key_id, overlap_s=overlap_s)


@pytest.mark.parametrize("key_id", ["0" * 12, "", "x", "0" * 13, None])
def test_a_key_that_is_not_there_is_named(tenants: Tenants, key_id: str) -> None:
    for call in (tenants.key, tenants.rotate_key, tenants.revoke_key):
        with pytest.raises(UnknownKey):
            call(key_id)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["read"], "galleries": ["acme/staff"]}, "within the tenant"),
        ({"scopes": ["read"], "galleries": "staff"}, "galleries"),
        ({"scopes": ["read"], "expires_at": 5.0}, "expires_at"),
        ({"scopes": ["read"], "expires_at": float("nan")}, "expires_at"),
        ({"scopes": ["read"], "expires_at": True}, "expires_at"),
    ],
)
def test_a_key_out_of_range_is_refused(tenants: Tenants, given: dict[str, object], match: str) -> None:
    tenants.create("acme")
    with pytest.raises(InvalidParameter, match=match):
        tenants.create_key("acme", "app", **given)  # type: ignore[arg-type]
    assert tenants.keys("acme") == []


@pytest.mark.parametrize("name", ["", " ", "a\n", "a" * 64, " a"])
def test_a_name_of_a_key_is_printable(tenants: Tenants, name: str) -> None:
    with pytest.raises(InvalidParameter, match="name of a key"):
        tenants.create_key(None, name, scopes=["admin"])


@pytest.mark.parametrize("given", [{"scopes": ["read"]}, {"scopes": ["admin"], "galleries": ["a"]}])
def test_an_operators_key_may_do_all_and_not_less(tenants: Tenants, given: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter, match="operator"):
        tenants.create_key(None, "root", **given)


LEVEL = {"read": 1, "write": 2, "admin": 3}
OWN = [scopes for n in (1, 2, 3) for scopes in itertools.combinations(SCOPES, n)]


@pytest.mark.parametrize("scopes", OWN)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("galleries", [(), ("staff",), ("staff", "other")])
@pytest.mark.parametrize("gallery", ["acme/staff", "acme/more", "acmes/staff", "acm/staff", "staff", "", None])
def test_what_a_tenants_key_allows(
    scopes: tuple[str, ...], scope: str, galleries: tuple[str, ...], gallery: str | None
) -> None:
    key = KeyRecord("0" * 12, "acme", "00000001", "app", scopes, galleries, 0.0, None, None)
    is_in_reach = {
        None: not galleries,
        "acme/staff": True,
        "acme/more": not galleries,
    }.get(gallery, False)
    assert key.allows(scope, gallery) == (is_in_reach and max(map(LEVEL.get, scopes)) >= LEVEL[scope])  # type: ignore[type-var]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("gallery", ["acme/staff", "other/more", None])
def test_an_operators_key_allows_all(scope: str, gallery: str | None) -> None:
    key = KeyRecord("0" * 12, None, None, "root", ("admin",), (), 0.0, None, None)
    assert key.allows(scope, gallery)
    with pytest.raises(InvalidParameter, match="scope"):
        key.allows("root", gallery)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_for_metrics_allows_nothing_of_a_tenants(tenants: Tenants, scope: str) -> None:
    key, _ = tenants.create_key(None, "prometheus", scopes=("metrics",))
    assert key.scopes == ("metrics",)
    assert not key.allows(scope, "acme/staff")
    assert not key.allows(scope, None)


def test_a_key_for_metrics_is_the_operators_and_for_that_alone(tenants: Tenants) -> None:
    tenants.create("acme")
    with pytest.raises(InvalidParameter, match="scopes"):
        tenants.create_key("acme", "prometheus", scopes=("metrics",))
    with pytest.raises(InvalidParameter, match="alone"):
        tenants.create_key(None, "prometheus", scopes=("admin", "metrics"))


# The audit log

ENTRY = AuditEntry(100.0, "acme", None, "faces.enroll", "acme/staff", 7, "ok", "r-1")


def test_entries_are_read_page_by_page_the_newest_first(tenants: Tenants) -> None:
    tenants.create("acme")
    tenants.create("beta")
    # Five of each moment, so that pages end within one.
    own = [replace(ENTRY, at=float(i // 5), request_id=f"r-{i}") for i in range(40)]
    tenants.record(
        [entry for pair in zip(own, [replace(e, tenant="beta") for e in own], strict=True) for entry in pair]
    )
    tenants.record([])
    read: list[AuditEntry] = []
    before = None
    while page := tenants.audit("acme", before=before, limit=7):
        read += page
        before = page[-1].at
    assert read == own[::-1]
    assert len(tenants.audit(None, limit=1_000)) == 80
    assert tenants.audit("acme", limit=1)[0] == own[-1]


def test_an_entry_is_of_the_keys_tenant(tenants: Tenants) -> None:
    tenants.create("acme")
    tenants.create("beta")
    own, _ = tenants.create_key("acme", "app", scopes=["read"])
    root, _ = tenants.create_key(None, "root", scopes=["admin"])
    wrong = replace(ENTRY, tenant="beta", key_id=own.key_id, outcome="unknown_gallery")
    by_operator = replace(ENTRY, key_id=root.key_id)
    unknown = replace(ENTRY, key_id="0" * 12)
    tenants.record([wrong, by_operator, unknown, replace(ENTRY, tenant=None)])
    assert tenants.audit("acme") == [by_operator, wrong]
    assert tenants.audit("beta") == []
    assert len(tenants.audit(None)) == 4


def test_a_tenant_that_is_created_again_begins_with_nothing(tenants: Tenants) -> None:
    tenants.create("acme")
    key, text = tenants.create_key("acme", "app", scopes=["admin"])
    tenants.record([replace(ENTRY, key_id=key.key_id), ENTRY])
    tenants.drop("acme")
    with pytest.raises(UnknownTenant):
        tenants.get("acme")
    tenants.create("acme")
    # Recorded late: what the key of the dropped tenant did is not the new one's.
    tenants.record([replace(ENTRY, key_id=key.key_id)])
    assert tenants.audit("acme") == []
    assert len(tenants.audit(None)) == 3
    assert tenants.keys("acme") == []
    with pytest.raises(Unauthenticated):
        tenants.authenticate(text)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "a b"}, {"action": "a" * 65}, {"outcome": "ä"}, {"request_id": "r\n"}, {"request_id": "r" * 129},
        {"gallery": "Alice Smith"}, {"tenant": "Alice"}, {"key_id": "fg_0123"}, {"at": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_entry_is_refused_with_all_of_its_batch(tenants: Tenants, change: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        tenants.record([ENTRY, replace(ENTRY, **change)])  # type: ignore[arg-type]
    assert tenants.audit(None) == []


@pytest.mark.parametrize("limit", [0, 1_001, True, 1.0])
def test_a_page_has_a_limit(tenants: Tenants, limit: int) -> None:
    with pytest.raises(InvalidParameter, match="limit"):
        tenants.audit(None, limit=limit)


def test_the_log_is_trimmed(catalog: Catalog, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.audit._AT_A_TIME", 3)
    tenants = Tenants(catalog, lambda: None, audit_s=50.0, clock=clock)
    tenants.record([replace(ENTRY, at=clock.now - i) for i in range(100)])
    assert tenants.trim_audit() == 49
    assert [entry.at for entry in tenants.audit(None, limit=1_000)] == [clock.now - i for i in range(51)]
    assert tenants.trim_audit(clock.now) == 50
    assert tenants.trim_audit() == 0
