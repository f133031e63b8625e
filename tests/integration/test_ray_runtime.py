"""Shard hosts as Ray actors: a real gallery on three nodes, killed processes, wrong secrets, missing hosts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.actors import HEALTH
from coordinator.catalog import Catalog
from coordinator.coordinator import Coordinator
from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.tls import TlsFiles
from coordinator.directories import gallery_directories
from coordinator.home import Home
from coordinator.messages import ModelsRequest, StatsReply, StatsRequest
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.router import Router
from coordinator.runtime import LocalRuntime
from coordinator.types import GalleryRoute, GallerySpec
from shard.errors import (
    AuthenticationFailed,
    ClusterNotReady,
    FacegridError,
    HomeLocked,
    HostUnavailable,
    InvalidCertificate,
    InvalidParameter,
    UnknownGallery,
    UnknownIdentity,
)
from shard.keys import in_listing_order
from shard.types import EnrollBatch, SearchParams
from shard.where import canonical
from tests.faces_like import unit_rows
from tests.integration.conftest import SharedRay

pytestmark = pytest.mark.ray

DIM, ROWS = 64, 600
EXACT = SearchParams(5, exact=True)
SOON = 30.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    opened = Home(tmp_path_factory.mktemp("ray") / "home")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def cluster(ray_cluster: SharedRay, home: Home) -> Iterator[RayCluster]:
    running = start(ray_cluster, home)
    yield running
    running.close()


def start(ray_cluster: SharedRay, home: Home, *known: str) -> RayCluster:
    return RayCluster.start(RayOptions(ray_cluster.address), home.directory, home.home_id, home.secret, known)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return unit_rows(ROWS, DIM, seed=5)


@pytest.fixture(scope="module")
def route(cluster: RayCluster, rows: np.ndarray) -> GalleryRoute:
    route = cluster.coordinator.create_gallery(GallerySpec("acme/staff", DIM, 6, 256, None))
    batch = EnrollBatch(rows, tuple(f"t{i}" for i in range(ROWS)), (None,) * ROWS, (b'{"n":1}',) + (None,) * (ROWS - 1))
    assert Router(cluster.runtime).enroll(route, batch, skip_existing=False, new_ids=True).enrolled == ROWS
    return route


def found(router: Router, route: GalleryRoute, probes: np.ndarray) -> list[tuple[str, ...]]:
    return list(router.search(route, probes, EXACT).candidates.template_ids)


def expected(rows: np.ndarray, probes: np.ndarray) -> list[tuple[str, ...]]:
    order = np.argsort(-(probes.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)
    return [tuple(f"t{i}" for i in row[:5]) for row in order]


def until(call: Callable[[], object]) -> object:
    """Repeat a call that may fail with a retryable error, as a client would."""
    end = time.monotonic() + SOON
    while True:
        try:
            return call()
        except FacegridError as error:
            if not error.is_retryable or time.monotonic() > end:
                raise


def kill(cluster: RayCluster, host: str) -> int:
    pid = cluster.actors[host].call("health", group=HEALTH, timeout_s=SOON)
    os.kill(pid, signal.SIGKILL)
    return int(pid)


def test_hosts_are_the_nodes_that_offer_to_be(cluster: RayCluster, ray_cluster: SharedRay, home: Home) -> None:
    assert cluster.runtime.hosts() == ray_cluster.hosts == cluster.coordinator.hosts()
    assert home.local_hosts() == ray_cluster.hosts


def test_labels_change_on_three_hosts(cluster: RayCluster, rows: np.ndarray) -> None:
    """Filters, listings, updates and renamed identities, over the data plane and by the coordinator's actor."""
    route = cluster.coordinator.create_gallery(GallerySpec("acme/labels", DIM, 6, 256, None))
    names, router = tuple(f"n{i}" for i in range(60)), Router(cluster.runtime)
    people = tuple(f"p{i % 7}" for i in range(60))
    batch = EnrollBatch(rows[:60], names, people, tuple(b'{"n":%d}' % i for i in range(60)))
    router.enroll(route, batch, skip_existing=False, new_ids=True)
    assert router.amend(route, "n7", b'{"n":-1}')
    assert not router.amend(route, "nobody", b"{}")
    negative = SearchParams(5, exact=True, where=canonical({"n": {"lt": 0}}))
    assert router.search(route, rows[:1], negative).candidates.template_ids == (("n7",),)
    assert router.template_ids(route, after="", limit=100, identity=None) == in_listing_order(names)
    mark = cluster.coordinator.identities.mark("acme/labels")
    for i in range(6):  # some of them to another shard, some within theirs
        assert cluster.coordinator.identities.rename("acme/labels", f"p{i}", f"q{i}") == people.count(f"p{i}")
    with pytest.raises(UnknownIdentity):
        cluster.coordinator.identities.rename("acme/labels", "p0", "q9")
    assert cluster.coordinator.identities.merge("acme/labels", [f"q{i}" for i in range(6)], "p6") == 60 - 8
    assert cluster.coordinator.identities.mark("acme/labels") != mark
    of_p6 = SearchParams(100, exact=True, identities=("p6",))
    assert sorted(router.search(route, rows[:1], of_p6).candidates.template_ids[0]) == sorted(names)
    assert router.delete(route, template_ids=names[:10], identities=()) == 10


def test_a_gallery_on_three_hosts_gives_the_exact_list(
    cluster: RayCluster, route: GalleryRoute, rows: np.ndarray
) -> None:
    assert set(route.hosts) == {"a", "b", "c"}
    probes = unit_rows(20, DIM, seed=6)
    router = Router(cluster.runtime)
    assert found(router, route, probes) == expected(rows, probes)
    (record,) = router.records(route, ("t0",))
    assert record.metadata == b'{"n":1}'


def test_hosts_run_at_normal_priority(cluster: RayCluster) -> None:
    for actor in cluster.actors.values():
        assert os.getpriority(os.PRIO_PROCESS, actor.call("health", group=HEALTH, timeout_s=SOON)) == 0


@pytest.mark.parametrize("setting", ["data_port", "probe_port"])
def test_hosts_that_share_an_address_cannot_share_a_port(ray_cluster: SharedRay, home: Home, setting: str) -> None:
    options = RayOptions(ray_cluster.address, **{setting: 7_600})  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match=rf"{setting}: expected none where shard hosts share an address, got"):
        RayCluster.start(options, home.directory, home.home_id, home.secret, ())


def test_certificates_that_are_not_there_are_named_before_anything_starts(tmp_path: Path, home: Home) -> None:
    options = RayOptions("127.0.0.1:1", tls=TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"))
    with pytest.raises(InvalidCertificate, match=r"tls.crt cannot be read: No such file"):
        RayCluster.start(options, home.directory, home.home_id, home.secret, ())


def test_errors_of_the_coordinator_keep_their_class(cluster: RayCluster) -> None:
    with pytest.raises(UnknownGallery, match="no/such"):
        cluster.coordinator.gallery("no/such")


def test_errors_of_a_host_keep_their_class(cluster: RayCluster, route: GalleryRoute) -> None:
    call = ("a", ModelsRequest("0123456789abcdef", (0,)))
    with pytest.raises(UnknownGallery, match="has no gallery 0123456789abcdef"):
        cluster.runtime.control([call])
    future = cluster.runtime.submit("a", StatsRequest("0123456789abcdef", (0,), (1,)), deadline=time.monotonic() + SOON)
    with pytest.raises(UnknownGallery, match="has no gallery 0123456789abcdef"):
        future.result(SOON)


def test_an_unknown_host_is_named(cluster: RayCluster) -> None:
    with pytest.raises(HostUnavailable, match="no shard host 'z'; this cluster has a, b, c"):
        cluster.runtime.submit("z", StatsRequest("g", (0,), (1,)), deadline=time.monotonic() + SOON).result(SOON)
    with pytest.raises(HostUnavailable, match="no shard host 'z'"):
        cluster.runtime.control([("z", ModelsRequest("g", (0,)))])


def test_the_data_port_refuses_another_secret(cluster: RayCluster, route: GalleryRoute) -> None:
    address = cluster.actors["a"].call("data_address", group=HEALTH, timeout_s=SOON)
    loop = ClientLoop()
    client = DataClient("a", address, b"not the secret of this cluster", loop)
    with pytest.raises(AuthenticationFailed):
        client.submit(StatsRequest(route.gallery_id, (0,), (1,)), time.monotonic() + SOON).result(SOON)
    client.close()
    loop.close()


def test_a_killed_host_is_a_named_error_and_comes_back_with_its_data(
    cluster: RayCluster, route: GalleryRoute, rows: np.ndarray
) -> None:
    router, probes = Router(cluster.runtime), unit_rows(5, DIM, seed=7)
    assert found(router, route, probes) == expected(rows, probes)
    shards = route.shards_by_host()["b"]
    before = kill(cluster, "b")
    request = StatsRequest(route.gallery_id, shards, route.epochs_of(shards))
    with pytest.raises(HostUnavailable, match="shard host 'b' at"):
        cluster.runtime.submit("b", request, deadline=time.monotonic() + SOON).result(SOON)
    assert until(lambda: found(router, route, probes)) == expected(rows, probes)
    assert cluster.actors["b"].call("health", group=HEALTH, timeout_s=SOON) != before
    reply = cluster.runtime.submit("b", request, deadline=time.monotonic() + SOON).result(SOON)
    assert isinstance(reply, StatsReply)
    assert sum(stats.templates for stats in reply.stats) > 0


def test_queries_go_on_while_the_coordinator_is_dead_and_it_comes_back(
    cluster: RayCluster, route: GalleryRoute, rows: np.ndarray
) -> None:
    router, probes = Router(cluster.runtime), unit_rows(5, DIM, seed=8)
    pid = cluster.coordinator.actor.call("health", group=HEALTH, timeout_s=SOON)
    os.kill(pid, signal.SIGKILL)
    assert found(router, route, probes) == expected(rows, probes)
    assert until(lambda: cluster.coordinator.gallery("acme/staff")) == route


def test_training_ships_the_model_to_every_host(cluster: RayCluster, home: Home) -> None:
    route = cluster.coordinator.create_gallery(GallerySpec("acme/large", DIM, 3, 128, None))
    rows = unit_rows(1_500, DIM, seed=9)
    batch = EnrollBatch(rows, tuple(f"u{i}" for i in range(1_500)), (None,) * 1_500, (None,) * 1_500)
    router = Router(cluster.runtime)
    router.enroll(route, batch, skip_existing=False, new_ids=True)
    report = cluster.coordinator.train_if_due("acme/large")
    assert report is not None
    assert {stats.model_id for stats in router.stats(route)} == {report.model_id}
    assert found(router, route, rows[:4]) == expected_prefix(rows, rows[:4], "u")
    cluster.coordinator.drop_gallery("acme/large")
    hosts = list(home.hosts_directory.iterdir())
    assert hosts
    assert not [host for host in hosts if route.gallery_id in gallery_directories(host)]


def expected_prefix(rows: np.ndarray, probes: np.ndarray, prefix: str) -> list[tuple[str, ...]]:
    return [tuple(f"{prefix}{name[1:]}" for name in names) for names in expected(rows, probes)]


def test_a_second_process_on_the_same_directories_is_refused(cluster: RayCluster, home: Home) -> None:
    with pytest.raises(HomeLocked):
        LocalRuntime(home.hosts_directory, ["a"])


def test_missing_hosts_are_named_with_the_resource_to_offer(ray_cluster: SharedRay, home: Home) -> None:
    with pytest.raises(ClusterNotReady, match=r"offers facegrid_host_y, facegrid_host_z; hosts present: a, b, c\."):
        start(ray_cluster, home, "z", "a", "y")


def test_this_process_cannot_be_on_two_clusters(ray_cluster: SharedRay, home: Home) -> None:
    with pytest.raises(ClusterNotReady, match="connected to the Ray cluster at"):
        RayCluster.start(RayOptions("127.0.0.1:1"), home.directory, home.home_id, home.secret, ())
    with pytest.raises(ClusterNotReady, match="connected to the Ray cluster at"):
        RayCluster.start(RayOptions(), home.directory, home.home_id, home.secret, ())


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1", ""])
def test_addresses_of_another_form_are_refused(home: Home, ray_cluster: SharedRay, address: str) -> None:
    with pytest.raises(InvalidParameter, match="expected 'local' or 'host:port'"):
        RayCluster.start(RayOptions(address), home.directory, home.home_id, home.secret, ())


JOIN = """
    import sys
    from pathlib import Path
    import ray
    from coordinator.ray_cluster import RayCluster, RayOptions
    from shard.errors import ClusterNotReady

    if sys.argv[2]:
        ray.__version__ = sys.argv[2]
    try:
        RayCluster.start(RayOptions(sys.argv[1], start_timeout_s=5), Path("nowhere"), "id", b"s" * 32, ())
    except ClusterNotReady as error:
        print(error)
"""


def join_elsewhere(address: str, version: str = "") -> str:
    """What a process of its own, not connected to Ray yet, is told when it joins."""
    program = textwrap.dedent(JOIN)
    command = [sys.executable, "-c", program, address, version]
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=root, env=os.environ | {"PYTHONPATH": root}
    ).stdout


def test_another_version_of_ray_is_named(ray_cluster: SharedRay) -> None:
    said = join_elsewhere(ray_cluster.address, "1.2.3")
    assert f"cannot join the Ray cluster at {ray_cluster.address}" in said
    assert "1.2.3" in said


def test_nothing_at_the_address_is_named_in_time(ray_cluster: SharedRay) -> None:
    assert "no Ray cluster answers at 127.0.0.1:9" in join_elsewhere("127.0.0.1:9")


def test_closing_releases_the_directories_and_a_local_runtime_reads_them(
    cluster: RayCluster, home: Home, route: GalleryRoute, rows: np.ndarray
) -> None:
    """Last in this file: it closes the cluster that the others use."""
    cluster.close()
    runtime = LocalRuntime(home.hosts_directory, home.local_hosts())
    coordinator = Coordinator(Catalog(home.catalog_path), runtime)
    probes = unit_rows(5, DIM, seed=10)
    assert found(Router(runtime), route, probes) == expected(rows, probes)
    coordinator.close()
    runtime.close()
