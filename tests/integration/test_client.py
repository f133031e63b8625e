"""A gallery of a service is like one of an open home: the same calls give the same results and the same errors."""

from __future__ import annotations

import secrets
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import AsyncCluster, Cluster, tenancy
from cluster.client import RemoteCluster, RetryPolicy
from cluster.results import RangeBatch, SearchBatch
from shard import errors
from tests.faces_like import unit_rows
from tests.integration.served import Lossy, awaited, serving

DIM = 64
QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02)


@dataclass(frozen=True)
class Served:
    """An open home, its service, and keys to it."""

    grid: Any
    url: str
    operator: str
    key: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Cluster.open(tmp_path_factory.mktemp("served") / "home") as grid, serving(grid) as url:
        _, operator = grid.tenants.create_key(None, "operator", scopes=("admin",))
        grid.tenants.create("acme")
        _, key = grid.tenants.create_key("acme", "all", scopes=("admin",))
        yield Served(grid, url, operator, key)


@pytest.fixture(scope="module", params=["blocking", "asyncio"])
def remote(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    """A client with the tenant's key."""
    if request.param == "blocking":
        with Cluster.connect(served.url, served.key, retry=QUICK) as client:
            yield client
    else:
        with awaited(lambda: AsyncCluster.connect(served.url, served.key, retry=QUICK)) as client:
            yield client


@pytest.fixture
def both(served: Served, remote: Any) -> Iterator[tuple[Any, Any]]:
    """Two new galleries alike, one of the home, one of the client."""
    names = [f"acme/{kind}-{secrets.token_hex(4)}" for kind in ("own", "remote")]
    yield (
        served.grid.gallery(names[0], create=True, shards=3, dim=DIM),
        remote.gallery(names[1], create=True, shards=3, dim=DIM),
    )
    for name in names:
        served.grid.drop(name)


def plain(value: Any) -> Any:
    """Something that can be compared: arrays by their bits, names of galleries and what size on disk is left out."""
    if isinstance(value, (SearchBatch, RangeBatch)):
        scores = np.ascontiguousarray(value.scores).view(np.uint32).tolist()
        rest = value.threshold if isinstance(value, SearchBatch) else value.is_truncated
        return value.template_ids, scores, value.identities, astuple(value.coverage), rest
    if hasattr(value, "disk_bytes"):
        return replace(value, name="", disk_bytes=0, hosts=())
    return value


def outcome(gallery: Any, verb: Any) -> Any:
    """What a call returns, or the error that it raises."""
    try:
        return plain(verb(gallery))
    except errors.FacegridError as error:
        return type(error), str(error).replace(gallery.name, "GALLERY"), getattr(error, "reason", None)


ROWS = unit_rows(60, DIM, seed=1) * np.float32(2.5)
IDS = [f"t{i}/é" for i in range(60)]
NAMES = [None if i % 7 == 0 else f"p{i % 5} &?#" for i in range(60)]
META: list[Any] = [{"door": i, "deep": {"a": [1, None, "x"]}} if i % 3 else None for i in range(60)]


def same(both: tuple[Any, Any], verb: Any) -> Any:
    """What the home's gallery answers, once the client's has answered alike."""
    expected, got = (outcome(gallery, verb) for gallery in both)
    assert got == expected
    return expected


def filled(both: tuple[Any, Any]) -> tuple[Any, Any]:
    same(both, lambda g: g.enroll(ROWS, identities=NAMES, template_ids=IDS, metadata=META))
    return both


def test_the_life_of_a_gallery(both: Any) -> None:
    filled(both)
    same(both, lambda g: len(g))
    same(both, lambda g: g.search(ROWS[:9], 4))
    same(both, lambda g: g.search(ROWS[:9], 100, exact=True))
    same(both, lambda g: g.search(ROWS[:9], 60, threshold=0.5))
    same(both, lambda g: g.search(ROWS[:2], 5, identities=["p1 &?#", "p2 &?#"]))
    same(both, lambda g: g.search(ROWS[:2] * np.float32(1e-6), 3, recall=0.9, deadline_ms=5_000, allow_partial=True))
    same(both, lambda g: g.range_search(ROWS[:7], 0.3))
    same(both, lambda g: g.range_search(ROWS[:7], 0.2, limit=5, exact=True))
    same(both, lambda g: g.range_search(-ROWS[:2], 0.999))
    same(both, lambda g: g.range_search(ROWS[:7], 0.1, where={"door": {"lt": 30}}, recall=0.95))
    same(both, lambda g: g.verify(ROWS[1], "p1 &?#", threshold=0.9))
    same(both, lambda g: g.verify(ROWS[1], "p2 &?#", threshold=0.9))
    same(both, lambda g: g.get(IDS[1]))
    same(both, lambda g: g.templates([IDS[5], "nobody", IDS[2], IDS[0]]))
    same(both, lambda g: [(one.identity, one.templates) for one in g.identities()])
    same(both, lambda g: ["p1 &?#" in g, "p9" in g, "" in g, 7 in g, "\0" in g])
    same(both, lambda g: [one.identity for one in g.identities(start="p2")])
    same(both, lambda g: sorted(t.template_id for t in g.list(limit=1_000)))
    same(both, lambda g: sorted(t.template_id for t in g.list(identity="p2 &?#").templates))
    same(both, lambda g: g.update(IDS[3], {"door": 99, "ü": [None, 1.5, True]}))
    same(both, lambda g: g.update(IDS[3], None))
    same(both, lambda g: g.get(IDS[3]))
    same(both, lambda g: g.search(ROWS[:5], 9, where={"door": {"gte": 4}}))
    same(both, lambda g: (g.name and g.shards, g.code_bits, g.embedder, g.replicas, g.min_in_sync, g.model_id))
    same(both, lambda g: g.rename_identity("p4 &?#", "p5/ü"))
    same(both, lambda g: g.merge_identities(["p3 &?#", "p5/ü"], "p3 &?#"))
    same(both, lambda g: [(one.identity, one.templates) for one in g.identities()])
    same(both, lambda g: g.stats())
    same(both, lambda g: g.delete(identity="p1 &?#"))
    same(both, lambda g: g.delete(template_ids=[IDS[0], IDS[2], "nobody"], identities=["p2 &?#"]))
    same(both, lambda g: g.flush())
    same(both, lambda g: g.erase())
    same(both, lambda g: [(one.shard, one.dead_rows, one.is_clean) for one in g.erasure_report()])
    same(both, lambda g: g.search(ROWS[:9], 4))
    same(both, lambda g: bool(g))


def test_ids_that_are_there(both: Any) -> None:
    same(both, lambda g: g.enroll(ROWS[:4], template_ids=IDS[:4]))
    same(both, lambda g: g.enroll(ROWS[:6], template_ids=IDS[:6]))
    same(both, lambda g: len(g))
    same(both, lambda g: g.enroll(ROWS[:6], template_ids=IDS[:6], if_exists="skip"))
    for gallery in both:
        result = gallery.enroll(ROWS[:3])
        assert (result.enrolled, result.skipped, len(set(result.template_ids))) == (3, 0, 3)
        assert len(gallery) == 9


BAD = ROWS[:2].copy()
BAD[1] = 0


WRONG: list[Any] = [
    lambda g: g.enroll(BAD),
    lambda g: g.enroll(ROWS[:2], identities=["a"]),
    lambda g: g.enroll(ROWS[:2], identities=["a", ""]),
    lambda g: g.enroll(ROWS[:2], identities="ab"),
    lambda g: g.enroll(ROWS[:2], template_ids=["a", "a"]),
    lambda g: g.enroll(ROWS[:2], metadata=[None, {"a": float("inf")}]),
    lambda g: g.enroll(ROWS[:2], metadata=[None, {"a": "x" * 17_000}]),
    lambda g: g.enroll(ROWS[:2], metadata=[None, [1]]),
    lambda g: g.enroll(ROWS[:2], if_exists="never"),
    lambda g: g.enroll(ROWS[:2].tolist()),
    lambda g: g.search(ROWS[:2, :5]),
    lambda g: g.search(BAD),
    lambda g: g.search(ROWS[:2], 0),
    lambda g: g.search(ROWS[:2], 3, recall=1.0),
    lambda g: g.search(ROWS[:2], 3, threshold=1.5),
    lambda g: g.search(ROWS[:2], 3, identities=[]),
    lambda g: g.range_search(ROWS[:2], None),
    lambda g: g.range_search(ROWS[:2], 1.5),
    lambda g: g.range_search(ROWS[:2], 0.5, limit=0),
    lambda g: g.range_search(BAD, 0.5),
    lambda g: g.range_search(ROWS[:2], 0.5, where={"door": {"near": 4}}),
    lambda g: g.verify(ROWS[1], "nobody", threshold=0.5),
    lambda g: g.verify(ROWS[1], "", threshold=0.5),
    lambda g: g.verify(ROWS[:1], "p1 &?#", threshold=0.5),
    lambda g: g.verify(ROWS[1][:5], "p1 &?#", threshold=0.5),
    lambda g: g.verify(ROWS[1], "p1 &?#", threshold=2),
    lambda g: g.rename_identity("nobody", "x"),
    lambda g: g.rename_identity("p1 &?#", "p2 &?#"),
    lambda g: g.rename_identity("p1 &?#", ""),
    lambda g: g.merge_identities([], "x"),
    lambda g: g.merge_identities("p1 &?#", "x"),
    lambda g: g.merge_identities(["nobody"], "x"),
    lambda g: g.get("nobody"),
    lambda g: g.update("nobody", {}),
    lambda g: g.update("a", [1]),
    lambda g: g.list(limit=0),
    lambda g: g.list(identity=""),
    lambda g: g.list(cursor="nonsense"),
    lambda g: g.search(ROWS[:2], where={"door": {"near": 4}}),
    lambda g: g.delete(),
    lambda g: g.delete(identity="a\n"),
    lambda g: g.train(),
    lambda g: g.search(ROWS[:2], 3, target_fpir=0.01),
    lambda g: g.calibrate(),
    lambda g: g.calibration(),
]


def test_errors_are_the_same(both: Any) -> None:
    filled(both)
    for verb in WRONG:
        same(both, verb)
    same(both, lambda g: len(g))


def test_pages_go_on_where_the_one_before_ended(both: Any) -> None:
    for gallery in filled(both):
        cursor, seen = None, []
        while True:
            page = gallery.list(cursor=cursor, limit=7)
            seen += [template.template_id for template in page]
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(seen) == sorted(IDS)


def test_a_large_enrollment_is_cut(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.client.operations.templates.REQUEST_ROWS", 100)
    rows = unit_rows(1_050, DIM, seed=3)
    ids = [f"t{i}" for i in range(len(rows))]
    told: list[tuple[int, int]] = []
    own, remote = both
    expected = own.enroll(rows, template_ids=ids)
    assert remote.enroll(rows, template_ids=ids, progress=lambda *now: told.append(now)) == expected
    assert told[-1] == (1_050, 1_050)
    assert len(told) == 11
    same(both, lambda g: g.search(rows[:300], 3, exact=True))
    report = remote.train()
    assert report.templates == 1_050
    assert own.train().sample == report.sample
    same(both, lambda g: g.search(rows[:5], 3).template_ids)


def test_galleries_are_made_found_listed_and_dropped(served: Served, remote: Any) -> None:
    name = f"acme/{secrets.token_hex(4)}"
    for grid in (served.grid, remote):
        with pytest.raises(errors.UnknownGallery):
            grid.gallery(name)
    made = remote.gallery(name, create=True, dim=DIM, shards=2, code_bits=256)
    assert (made.name, made.dim, made.embedder) == (name, DIM, None)
    for grid in (served.grid, remote):
        assert grid.gallery(name, create=True, dim=DIM, shards=2).stats().code_bits == 256
        with pytest.raises(errors.AlreadyExists, match="shards=2, not 3"):
            grid.gallery(name, create=True, shards=3)
        assert name in [gallery.name for gallery in grid.galleries("acme")]
    remote.drop(name)
    for grid in (served.grid, remote):
        with pytest.raises(errors.UnknownGallery):
            grid.drop(name)
        assert name not in [gallery.name for gallery in grid.galleries()]


def test_what_belongs_to_the_operator(served: Served, remote: Any) -> None:
    assert remote.whoami()["tenant"] == "acme"
    for verb in (remote.hosts, remote.replicas, remote.tenants.all):
        with pytest.raises(errors.PermissionDenied):
            verb()
    with Cluster.connect(served.url, served.operator) as operator:
        assert [host.host for host in operator.hosts()] == [host.host for host in served.grid.hosts()]
        assert operator.replicas() == served.grid.replicas()
        assert operator.tenants.all() == served.grid.tenants.all()
        assert operator.usage("acme") == tenancy.usage(served.grid, "acme")


def test_tenants_and_keys(served: Served) -> None:
    with Cluster.connect(served.url, served.operator) as operator:
        tenants = operator.tenants
        made = tenants.create("globex", weight=20)
        assert made == served.grid.tenants.get("globex") == tenants.get("globex")
        assert tenants.update("globex", keeps_thumbnails=True).keeps_thumbnails
        key, secret = tenants.create_key("globex", "door", scopes=["write"], galleries=["staff"])
        assert [one.key_id for one in tenants.keys("globex")] == [key.key_id]
        with Cluster.connect(served.url, secret) as door:
            assert door.whoami()["galleries"] == ["staff"]
            with pytest.raises(errors.UnknownGallery):
                door.gallery("acme/staff")
            with pytest.raises(errors.PermissionDenied):
                door.drop("globex/staff")
        rotated, other = tenants.rotate_key(key.key_id)
        assert other != secret
        assert tenants.revoke_key(rotated.key_id, tenant="globex").revoked_at is not None
        with Cluster.connect(served.url, other) as late, pytest.raises(errors.Unauthenticated):
            late.whoami()
        assert {"tenants.create", "keys.create"} <= {entry.action for entry in tenants.audit("globex")}
        tenants.drop("globex")
        with pytest.raises(errors.UnknownTenant):
            tenants.get("globex")


def test_no_key_and_a_wrong_one(served: Served) -> None:
    for key in (None, "fg_000000000000_" + "x" * 43, "nonsense"):
        with Cluster.connect(served.url, key) as nobody, pytest.raises(errors.Unauthenticated) as caught:
            nobody.galleries()
        assert key is None or key not in str(caught.value)


@pytest.fixture
def lossy(served: Served) -> Iterator[tuple[Lossy, RemoteCluster]]:
    """A client whose answers get lost on the way."""
    proxy = Lossy(served.url)
    try:
        with Cluster.connect(proxy.url, served.operator, retry=QUICK) as client:
            yield proxy, client
    finally:
        proxy.close()


def test_what_was_carried_out_is_not_carried_out_twice(served: Served, lossy: tuple[Lossy, RemoteCluster]) -> None:
    proxy, client = lossy
    name = f"acme/{secrets.token_hex(4)}"

    def losing(verb: Any, *, answers: int = 1) -> Any:
        proxy.left, proxy.seen = answers, []
        return verb()

    gallery = losing(lambda: client.gallery(name, create=True, dim=DIM), answers=0)
    result = losing(lambda: gallery.enroll(ROWS[:10]), answers=2)
    assert (result.enrolled, result.skipped, len(served.grid.gallery(name))) == (10, 0, 10)
    keys = {key for _, _, key in proxy.seen}
    assert len(proxy.seen) == 3
    assert len(keys) == 1
    assert None not in keys
    result = losing(lambda: gallery.enroll(ROWS[10:20], template_ids=IDS[10:20]))
    assert (result.enrolled, result.skipped, len(served.grid.gallery(name))) == (10, 0, 20)
    # Stored just as asked: a repeated request has them, whoever stored them.
    result = losing(lambda: gallery.enroll(ROWS[10:20], template_ids=IDS[10:20]))
    assert (result.enrolled, result.skipped, len(served.grid.gallery(name))) == (10, 0, 20)
    assert losing(lambda: gallery.search(ROWS[:1], 1)).template_ids[0]
    losing(lambda: gallery.delete(template_ids=IDS[10:15]))
    assert len(served.grid.gallery(name)) == 15
    losing(lambda: client.drop(name))
    with pytest.raises(errors.UnknownGallery):
        served.grid.gallery(name)
    losing(lambda: client.gallery(name, create=True, dim=DIM, shards=2), answers=0)
    client.drop(name)


def test_what_could_be_carried_out_twice_is_not_repeated(served: Served, lossy: tuple[Lossy, RemoteCluster]) -> None:
    proxy, client = lossy
    proxy.left = 1
    before = len(served.grid.tenants.keys("acme"))
    with pytest.raises(errors.HostUnavailable):
        client.tenants.create_key("acme", "door", scopes=["read"])
    assert len(served.grid.tenants.keys("acme")) == before + 1
    assert len(proxy.seen) == 1


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of nobody's for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            *subject,
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed, which makes the certificate")
def test_a_certificate_is_checked(certified: tuple[Path, Path], tmp_path: Path) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        _, key = grid.tenants.create_key(None, "operator", scopes=("admin",))
        with serving(grid, certificate=certified[0], key=certified[1]) as url:
            assert url.startswith("https://")
            with Cluster.connect(url, key) as wary, pytest.raises(errors.AuthenticationFailed, match="not trusted"):
                wary.whoami()
            for verify in (str(certified[0]), ssl.create_default_context(cafile=certified[0]), False):
                with Cluster.connect(url, key, verify=verify) as trusting:
                    assert trusting.whoami()["name"] == "operator"


def test_threads_share_a_client(served: Served) -> None:
    with Cluster.connect(served.url, served.operator, max_connections=3) as client:
        gallery = client.gallery(f"acme/{secrets.token_hex(4)}", create=True, dim=DIM)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: gallery.enroll(ROWS[i : i + 1], template_ids=[IDS[i]]), range(40)))
            found = list(pool.map(lambda i: gallery.search(ROWS[i : i + 1], 1).template_ids[0][0], range(40)))
        assert found == IDS[:40]
        client.drop(gallery.name)


def test_a_service_that_is_not_there() -> None:
    never = pytest.raises(errors.HostUnavailable, match=r"127\.0\.0\.1:9")
    with Cluster.connect("http://127.0.0.1:9", "key", retry=QUICK) as nobody, never:
        nobody.galleries()
