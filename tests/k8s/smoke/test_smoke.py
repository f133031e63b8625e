"""The chart's release as containers of podman: installed, used through HTTPS, broken in several ways, and whole again.

The steps are in order and share one release. What no machine without a cluster can show is in k8s/README.md.

SMOKE_IMAGE: an image to run instead of one built from this tree.   SMOKE_RESULTS: file that the figures are written to
(benchmarks/results/k8s-smoke.json has those of one run).
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shard.errors import Unauthenticated
from tests.k8s.image import built_image, needs_podman
from tests.k8s.smoke.cluster import SmokeCluster, render, wait_until
from tests.k8s.smoke.faults import (
    READY_S,
    cut_off,
    replace_lost_control,
    replace_lost_head,
    replace_lost_shard,
    roll,
)
from tests.k8s.smoke.installed import GALLERY, Installed
from tests.k8s.smoke.podman import podman, run_once
from tests.k8s.smoke.traffic import connect, embedding

pytestmark = pytest.mark.podman

DATA = Path(os.environ.get("FACEGRID_DATA", Path(__file__).parents[4] / "shared" / "data"))
CUT_S = 15.0


@pytest.fixture(scope="module")
def release() -> Iterator[Installed]:
    needs_podman()
    image = os.environ.get("SMOKE_IMAGE") or built_image()
    models = DATA / "models"
    cluster = SmokeCluster(render(image), models if models.is_dir() else None)
    installed = Installed(cluster)
    try:
        installed.install()
        yield installed
        results = os.environ.get("SMOKE_RESULTS")
        if results:
            installed.write_figures(Path(results))
    except BaseException:
        print(cluster.describe())
        raise
    finally:
        cluster.close()


def test_enroll_and_search_as_brute_force_does(release: Installed) -> None:
    with release.under_traffic("no fault"):
        time.sleep(10)
    numbers = np.array(release.ledger.acknowledged)
    templates = np.stack([embedding(number) for number in numbers])
    probes = np.stack([embedding(number) for number in range(10**6, 10**6 + 5)])
    with release.client() as client:
        found = client.gallery(GALLERY).search(probes, k=10, exact=True)
    scores = probes @ templates.T
    for row, expected in enumerate(np.argsort(-scores, axis=1)[:, :10]):
        assert list(found.template_ids[row]) == [f"t{numbers[at]}" for at in expected]
        np.testing.assert_allclose(found.scores[row], scores[row][expected], atol=1e-5)


def test_photos(release: Installed) -> None:
    if not (DATA / "photos").is_dir() or not (DATA / "models").is_dir():
        pytest.skip(f"no photos and models in {DATA}; set FACEGRID_DATA")
    photos = [DATA / "photos" / name for name in ("img1.jpg", "img10.jpg", "img11.jpg")]
    with release.client() as client:
        people = client.gallery("acme/people", create=True, embedder="edgeface_xs", replicas=2)
        for photo in photos:
            people.enroll_image(photo.read_bytes(), identity=photo.stem)
        found = people.search_image(photos[1].read_bytes(), k=1)
    assert found[0].identity == "img10"


def test_who_is_not_known_is_refused(release: Installed) -> None:
    cluster = release.cluster
    with connect(cluster.url, "fg_nobody", cluster.gateway_authority) as stranger, pytest.raises(Unauthenticated):
        stranger.gallery(GALLERY)
    assert asks_ray(cluster, cluster.secrets[cluster.release.name]["auth_token"].decode())[0] == 0
    status, output = asks_ray(cluster, "0" * 64)
    assert status != 0
    assert "InvalidAuthToken" in output
    assert "certificate" in handshake_error(cluster.pod("shard", 0).address, 7600)


def asks_ray(cluster: SmokeCluster, token: str) -> tuple[int, str]:
    """A pod that does not belong to the release asks the GCS, with that token."""
    head = cluster.pod("head")
    return run_once(
        f"--label={cluster.label}", f"--network={cluster.run}", "--entrypoint=timeout", "--env=RAY_AUTH_MODE=token",
        f"--env=RAY_AUTH_TOKEN={token}", head.runnable.main.image,
        "100", "ray", "health-check", f"--address={head.address}:6379",
    )  # fmt: skip


def handshake_error(address: str, port: int) -> str:
    """What a caller without a certificate is told by a data port."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain) as tunnel:
                return f"it was let in: {tunnel.recv(1)!r}"
        except ssl.SSLError as error:
            return str(error).lower()


def test_a_shard_host_dies(release: Installed) -> None:
    with release.under_traffic("shard host killed"):
        replace_lost_shard(release.cluster, 1)


def test_a_link_is_cut(release: Installed) -> None:
    with release.under_traffic("link of a shard host cut for 15 s"):
        pod = release.cluster.pod("shard", 2)
        with cut_off(pod):
            time.sleep(CUT_S)
        release.cluster.wait_ready(pod, seconds=600)


def test_control_dies(release: Installed) -> None:
    with release.under_traffic("control killed"):
        replace_lost_control(release.cluster)


def test_the_head_dies(release: Installed) -> None:
    with release.under_traffic("head killed"):
        replace_lost_head(release.cluster)


def test_the_image_is_rolled(release: Installed) -> None:
    image = release.cluster.pod("head").runnable.main.image
    other = rebuilt(image)
    with release.under_traffic("image rolled"):
        said = roll(release.cluster, render(other))
    for pod, output in said.items():
        assert not output or output.startswith("status 0"), f"{pod}: {output}"
    assert {pod.runnable.main.image for pod in release.cluster.kubelet.pods.values()} == {other}


def test_scale_out_and_in(release: Installed) -> None:
    name = f"{release.cluster.release.name}-shard-3"

    def held() -> int:
        with release.client(release.operator_key) as operator:
            return sum(host.replicas for host in operator.hosts() if host.host == name)

    with release.under_traffic("scaled out by a shard host"):
        release.cluster.wait_ready(release.cluster.start_shard(3), seconds=READY_S)
        wait_until(lambda: held() > 0, READY_S, release.cluster.describe)
    with release.under_traffic("scaled in: drained, then removed"):
        release.in_control("facegrid", "cluster", "drain", name)
        assert held() == 0
        release.cluster.kubelet.delete(release.cluster.pod("shard", 3))


def test_a_volume_is_lost(release: Installed) -> None:
    pod = release.cluster.pod("shard", 0)
    with release.under_traffic("shard host and its volume lost"):
        release.cluster.kubelet.lose(pod)
        release.cluster.kubelet.storage.delete_claim(f"home-{pod.name}")
        release.cluster.wait_ready(release.cluster.start_shard(0), seconds=READY_S)


def test_certificates_and_keys_are_rotated(release: Installed) -> None:
    cluster = release.cluster
    with release.under_traffic("data plane's certificates renewed"):
        cluster.renew("facegrid-data-tls", cluster.data_authority.secret("renewed", ["renewed"]))
        # A new connection reads them again: that of a host that comes back.
        replace_lost_shard(cluster, 1)
    with release.under_traffic("gateways' certificate renewed"):
        fresh = cluster.authority.secret("renewed", [cluster.service_name, "localhost"], ["127.0.0.1"])
        cluster.renew("facegrid-gateway-tls", fresh)
        # Read again by themselves; connections are spread over the gateways one by one.
        shown = ssl.PEM_cert_to_DER_cert(fresh["tls.crt"].decode())
        wait_until(
            lambda: all(served_certificate(cluster) == shown for _ in cluster.pods("gateway")),
            READY_S,
            cluster.describe,
        )


def served_certificate(cluster: SmokeCluster) -> bytes:
    """The certificate that the gateways' Service shows, DER."""
    context = ssl.create_default_context(cafile=str(cluster.gateway_authority))
    with (
        socket.create_connection((cluster.https.address, cluster.https.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tunnel,
    ):
        shown = tunnel.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def rebuilt(image: str) -> str:
    """The same image with another version, as a release of the next day."""
    name = f"{image.rsplit(':', 1)[0]}:smoke-next"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Containerfile").write_text(f'FROM {image}\nLABEL org.opencontainers.image.version="next"\n')
        podman("build", "--quiet", "--format=docker", "--tag", name, folder, timeout=600)
    return name
