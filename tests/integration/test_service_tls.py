"""HTTPS of the service: its certificate is renewed while requests are under way, and nobody restarts it."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cluster import Cluster
from cluster.service.gateway import Gateway
from cluster.service.serve import Listen, Service
from coordinator.dataplane.tls import TlsFiles
from shard.errors import InvalidCertificate
from tests.service import Running, running

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'facegrid[encryption]'")

from tests.certificates import DAY, NOW, Authority, mount

SOON = 20.0
UNUSABLE = "renewed certificates cannot be used, those read before still are"
EXPIRES = "facegrid_certificate_expires_timestamp_seconds"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.issue(tmp_path / "tls", "of the start")


@pytest.fixture
def service(files: TlsFiles, tmp_path: Path) -> Iterator[Running]:
    listen = Listen(port=0, certificate=str(files.certificate), key=str(files.private_key))
    with running(tmp_path / "home", listen=listen) as found:
        yield found


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    """Of a client that trusts the authority; certificates of these tests have no name."""
    return trusting(authority)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.check_hostname = False
    return context


def port_of(service: Running) -> int:
    return int(service.url.rsplit(":", 1)[1])


def shown(
    service: Running, trust: ssl.SSLContext, *, name: str | None = None, session: ssl.SSLSession | None = None
) -> tuple[str, ssl.SSLSession | None]:
    """The certificate that a new connection shows, in PEM, and its session; a request is answered there."""
    with (
        socket.create_connection(("127.0.0.1", port_of(service)), timeout=SOON) as plain,
        trust.wrap_socket(plain, server_hostname=name, session=session) as tunnel,
    ):
        tunnel.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := tunnel.recv(4_096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert tunnel.session_reused == (session is not None)
        found = tunnel.getpeercert(binary_form=True)
        assert found is not None
        return ssl.DER_cert_to_PEM_cert(found), tunnel.session


class Asking:
    """Two threads that ask until `close`, which says what failed: on one connection, and on a new one each time."""

    def __init__(self, service: Running, trust: ssl.SSLContext) -> None:
        self.failed: list[str] = []
        self._ends = threading.Event()
        self._asked = {"kept": 0, "fresh": 0}
        kept = http.client.HTTPSConnection("127.0.0.1", port_of(service), timeout=SOON, context=trust)
        kept.connect()
        self.kept_socket = kept.sock

        def on_one() -> None:
            kept.request("GET", "/livez")
            answer = kept.getresponse()
            answer.read()
            assert answer.status == 200
            assert kept.sock is self.kept_socket, "the connection was closed"

        self._threads = [
            threading.Thread(target=self._run, args=("kept", on_one), name="kept"),
            threading.Thread(target=self._run, args=("fresh", lambda: shown(service, trust)), name="fresh"),
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, way: str, ask: Callable[[], object]) -> None:
        while not self._ends.is_set():
            try:
                ask()
            except Exception as error:  # noqa: BLE001 - whatever it is, the test says it
                self.failed.append(f"{way}: {error!r}")
                return
            self._asked[way] += 1

    def close(self) -> dict[str, int]:
        """How often each has asked."""
        self._ends.set()
        for thread in self._threads:
            thread.join(SOON)
        assert self.failed == []
        return self._asked


def test_a_renewed_certificate_is_shown_without_a_restart(
    service: Running, files: TlsFiles, trust: ssl.SSLContext, authority: Authority
) -> None:
    assert shown(service, trust)[0] == files.certificate.read_text()
    asking = Asking(service, trust)
    for i in range(5):
        authority.issue(files.certificate.parent, f"renewal {i}", until=NOW + (40 + i) * DAY)
        fresh = files.certificate.read_text()
        assert shown(service, trust)[0] == fresh
        assert shown(service, trust, name="facegrid.test")[0] == fresh
    asked = asking.close()
    assert min(asked.values()) >= 5
    with httpx.Client(base_url=service.url, verify=trust, headers={"Authorization": f"Bearer {service.operator}"}) as c:
        text = c.get("/metrics").text
    (line,) = (line for line in text.splitlines() if line.startswith(EXPIRES))
    assert float(line.split()[1]) == pytest.approx((NOW + 44 * DAY).timestamp(), abs=1)


def test_another_authority_and_an_earlier_version_of_tls(
    service: Running, files: TlsFiles, trust: ssl.SSLContext
) -> None:
    other = Authority("another")
    mount(files.certificate.parent, *other.signed("of the other"), other.pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(service, trust)
    earlier = trusting(other)
    earlier.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shown(service, earlier)[0] == shown(service, trusting(other))[0] == files.certificate.read_text()


def test_a_session_of_before_is_resumed(
    service: Running, files: TlsFiles, trust: ssl.SSLContext, authority: Authority
) -> None:
    _, session = shown(service, trust)
    assert session is not None
    assert session.has_ticket
    authority.issue(files.certificate.parent, "renewed")
    shown(service, trust, session=session)


def test_files_that_cannot_be_used_leave_the_certificate_of_before(
    service: Running,
    files: TlsFiles,
    trust: ssl.SSLContext,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Half of a renewal, a file that is cut, none at all: each is said, and none breaks a request."""
    first, folder = files.certificate.read_text(), files.certificate.parent
    certificate, key = authority.signed("renewed")
    asking = Asking(service, trust)
    for bad_certificate, bad_key, said in (
        (certificate, authority.signed("other")[1], "key values mismatch"),
        (certificate[: len(certificate) // 2], key, "expected a PEM certificate"),
        (certificate, key[: len(key) // 2], "expected a PEM certificate"),
        (b"", b"", "expected a PEM certificate"),
    ):
        caplog.clear()
        mount(folder, bad_certificate, bad_key, authority.pem)
        assert [shown(service, trust)[0] for _ in range(3)] == [first] * 3
        assert UNUSABLE in caplog.text
        assert said in caplog.text
    files.certificate.unlink()
    assert shown(service, trust)[0] == first
    assert "tls.crt cannot be read: No such file or directory" in caplog.text
    mount(folder, certificate, key, authority.pem)
    assert shown(service, trust)[0] == certificate.decode()
    asking.close()


def test_files_that_are_no_certificate_are_named_before_anything_listens(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("no certificate")
    with Cluster.open(tmp_path / "home") as grid:
        gateway = Gateway(grid)
        listen = Listen(port=0, certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))
        with pytest.raises(InvalidCertificate, match=r"tls\.key cannot be read: No such file"):
            Service(gateway, listen)
        assert gateway.is_stopping
