"""TLS of the data plane over real sockets: who is let in, what the others are told, certificates that are renewed."""

from __future__ import annotations

import functools
import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.handshake import ANSWER_BYTES, GREETING_BYTES, VERDICT_BYTES
from coordinator.dataplane.kinds import kind_of
from coordinator.dataplane.server import DataServer, ServerLimits
from coordinator.dataplane.tls import TlsContexts, TlsFiles
from coordinator.dataplane.tunnel import Tunnel
from coordinator.messages import (
    DataRequest,
    Reply,
    RowsReply,
    RowsRequest,
    StatsReply,
    StatsRequest,
)
from shard.errors import (
    AuthenticationFailed,
    CertificateRefused,
    HostBusy,
    InvalidCertificate,
    ProtocolError,
    TlsMismatch,
)

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'facegrid[encryption]'")

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import DAY, NOW, Authority, mount

SECRET = b"0123456789abcdef0123456789abcdef"
SOON = 10.0
ASK = StatsRequest("g", (0,), (1,))


class Answering:
    """A host that answers at once; rows are as many floats as were asked for."""

    def execute(self, request: DataRequest) -> Reply:
        if isinstance(request, RowsRequest):
            return RowsReply(np.arange(request.last * 64, dtype=np.float32).reshape(-1, 64))
        return StatsReply(())


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def use_uvloop(request: pytest.FixtureRequest) -> bool:
    if request.param:
        pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'facegrid[cluster]'")
    return bool(request.param)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def loop(use_uvloop: bool) -> Iterator[ClientLoop]:
    running = ClientLoop(use_uvloop=use_uvloop)
    yield running
    running.close()


class Serving:
    """A server with the files of one end, and clients with those of others."""

    def __init__(self, loop: ClientLoop, use_uvloop: bool, files: TlsFiles | None, **limits: float) -> None:
        self._loop = loop
        self._clients: list[DataClient] = []
        self.server = DataServer(
            Answering(),
            SECRET,
            limits=ServerLimits(**limits),  # type: ignore[arg-type]
            use_uvloop=use_uvloop,
            tls=None if files is None else TlsContexts(files),
        )

    def client(self, files: TlsFiles | None, secret: bytes = SECRET) -> DataClient:
        tls = None if files is None else TlsContexts(files)
        self._clients.append(DataClient("a", self.server.address, secret, self._loop, tls))
        return self._clients[-1]

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self.server.close()


Serve = Callable[..., Serving]


@pytest.fixture
def serve(loop: ClientLoop, use_uvloop: bool) -> Serve:
    """Starts a server with the files of one end."""
    return functools.partial(Serving, loop, use_uvloop)


@pytest.fixture
def host(authority: Authority, tmp_path: Path) -> TlsFiles:
    """Files of one end."""
    return authority.issue(tmp_path / "host", "host")


@pytest.fixture
def router(authority: Authority, tmp_path: Path) -> TlsFiles:
    """Files of the other one."""
    return authority.issue(tmp_path / "router", "router")


def ask(client: DataClient, request: DataRequest = ASK) -> Reply:
    return sent(client, request).result(SOON)


def sent(client: DataClient, request: DataRequest = ASK) -> Future[Reply]:
    return client.submit(request, time.monotonic() + SOON)


def said(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    """Whether the server said it, soon."""
    until = time.monotonic() + SOON
    while what not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    return what in caplog.text


def test_both_ends_show_a_certificate_of_the_authority(serve: Serve, host: TlsFiles, router: TlsFiles) -> None:
    with serve(host) as serving:
        client = serving.client(router)
        futures = [sent(client) for _ in range(500)]
        assert all(future.result(SOON) == StatsReply(()) for future in futures)


def test_frames_larger_than_any_record_arrive_whole(serve: Serve, host: TlsFiles) -> None:
    with serve(host) as serving:
        reply = ask(serving.client(host), RowsRequest("g", 0, 0, 60_000))
        assert isinstance(reply, RowsReply)
        assert np.array_equal(reply.embeddings.ravel(), np.arange(60_000 * 64, dtype=np.float32))


def test_the_secret_is_asked_for_inside(serve: Serve, host: TlsFiles) -> None:
    with serve(host) as serving, pytest.raises(AuthenticationFailed):
        ask(serving.client(host, b"another secret, also long"))


@pytest.mark.parametrize("has_own", [True, False], ids=["own certificate", "the host's certificate"])
def test_who_has_a_certificate_and_not_the_secret_relays_nothing(
    loop: ClientLoop, serve: Serve, host: TlsFiles, router: TlsFiles, caplog: pytest.LogCaptureFixture, has_own: bool
) -> None:
    """It ends TLS towards each end and hands on what is inside, the proofs of the secret among it."""
    with serve(host) as serving:
        tls = TlsContexts(router if has_own else host)
        relay = Relay(serving.server.address, tls)
        client = DataClient("a", relay.address, SECRET, loop, TlsContexts(host))
        with pytest.raises(AuthenticationFailed, match="or somebody between ends the TLS"):
            ask(client, RowsRequest("a gallery", 0, 0, 4))
        client.close()
        relay.close()
        assert said(caplog, "the client does not know the cluster's secret, or is relayed by somebody who ends its TLS")
    assert relay.down.startswith(b"FGDP")  # it had the proofs in its hands
    assert len(relay.up) == ANSWER_BYTES
    assert len(relay.down) == GREETING_BYTES + VERDICT_BYTES


class Relay:
    """Stands between one client and a server, on the path of every byte, and keeps what goes each way.

    tls: it has a tunnel of its own with each end, and keeps what is inside.
    """

    def __init__(self, server: tuple[str, int], tls: TlsContexts | None = None) -> None:
        self._tls = tls
        self.up, self.down = bytearray(), bytearray()
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._server)
        if self._tls is not None:
            client = self._tls.server().wrap_socket(client, server_side=True)
            server = self._tls.client().wrap_socket(server)
        ways = {client: (server, self.up), server: (client, self.down)}
        with client, server:
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    target, kept = ways[source]
                    data = _received(source)
                    if not data:
                        return
                    kept += data
                    target.sendall(data)

    def close(self) -> None:
        """Wait for the end of the connection, which has to be closed."""
        self._thread.join(SOON)
        assert not self._thread.is_alive()
        self._listener.close()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65_536)
    except OSError:
        return b""


@pytest.mark.parametrize("is_plain", [False, True], ids=["tls", "plain"])
def test_nothing_travels_in_the_clear(loop: ClientLoop, serve: Serve, host: TlsFiles, is_plain: bool) -> None:
    """Who is on the path reads neither names nor embeddings nor the handshake; without TLS, all of it."""
    files = None if is_plain else host
    gallery = "tenant-of-visitors/gallery-of-visitors"
    with serve(files) as serving:
        relay = Relay(serving.server.address)
        client = DataClient("a", relay.address, SECRET, loop, None if files is None else TlsContexts(files))
        reply = ask(client, RowsRequest(gallery, 0, 0, 4))
        client.close()
        relay.close()
    assert isinstance(reply, RowsReply)
    up, down = bytes(relay.up), bytes(relay.down)
    seen = [gallery.encode() in up, hashlib.sha256(b"a").digest() in up, b"FGDP" in down]
    seen += [row.tobytes() in down for row in reply.embeddings]
    assert seen == [is_plain] * 7
    if not is_plain:
        assert _types_of_records(up) <= {20, 22, 23}
        assert _types_of_records(down) <= {20, 22, 23}


def _types_of_records(data: bytes) -> set[int]:
    """Of whole records of TLS: 20 is for middle boxes, 22 the greetings, 23 what is encrypted."""
    found, at = set(), 0
    while at < len(data):
        found.add(data[at])
        at += 5 + int.from_bytes(data[at + 3 : at + 5], "big")
    assert at == len(data)
    return found


def test_a_connection_that_fails_in_the_middle_holds_up_no_other_host(
    loop: ClientLoop, serve: Serve, host: TlsFiles
) -> None:
    """A record that was changed on its way, and in the same turn of the loop calls to that host and to another one."""
    with serve(host) as serving, serve(host) as other:
        broken, whole = serving.client(host), other.client(host)
        ask(broken)
        ask(whole)
        wire = broken._lanes[kind_of(ASK)]._wire
        assert wire is not None
        tunnel = cast(Tunnel, wire.transport)
        futures: list[Future[Reply]] = []

        def turn() -> None:
            tunnel.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
            tunnel.write(b"dropped, as every transport does once it closes")
            futures.extend((sent(broken), sent(whole)))
            loop._drain()

        done: Future[None] = Future()
        loop.thread.call(lambda: done.set_result(turn()))
        done.result(SOON)
        assert futures[1].result(SOON) == StatsReply(())
        with pytest.raises(ProtocolError, match=r"TLS 1\.3 failed: DECRYPTION_FAILED"):
            futures[0].result(SOON)
        assert ask(broken) == StatsReply(())


# --- who is refused


def test_a_client_without_tls_is_told_what_is_expected(
    serve: Serve, host: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(host, hello_s=0.1) as serving:
        with pytest.raises(TlsMismatch, match=r"'a' at .* expects TLS; data_certificate is not set at this end"):
            ask(serving.client(None))
        assert said(caplog, "tls_mismatch: the client does not begin TLS")


def test_a_server_without_tls_is_named(serve: Serve, router: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    with serve(None) as serving:
        with pytest.raises(TlsMismatch, match=r"'a' at .* does not speak TLS, which data_certificate of this end"):
            ask(serving.client(router))
        assert said(caplog, "tls_mismatch: the client speaks TLS; data_certificate is not set at this end")


def test_something_else_than_tls_is_named(serve: Serve, host: TlsFiles, caplog: pytest.LogCaptureFixture) -> None:
    with serve(host) as serving:
        with socket.create_connection(serving.server.address, timeout=SOON) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while stranger.recv(4_096):
                pass
        assert said(caplog, "tls_mismatch: the client does not speak TLS")


@pytest.mark.parametrize("end", ["host", "router"])
@pytest.mark.parametrize("fault", ["expired", "foreign", "namesake", "use"])
def test_a_certificate_that_is_not_good_is_refused_at_both_ends(
    serve: Serve, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, end: str, fault: str
) -> None:
    """namesake: of an authority that was made anew under its name. use: for the part of the other end only."""
    other_part = ExtendedKeyUsageOID.CLIENT_AUTH if end == "host" else ExtendedKeyUsageOID.SERVER_AUTH
    certificate = {
        "expired": lambda: authority.signed("bad", until=NOW - DAY),
        "foreign": lambda: Authority("another").signed("bad"),
        "namesake": lambda: Authority().signed("bad", is_bare=True),
        "use": lambda: authority.signed("bad", uses=[other_part]),
    }[fault]()
    bad, good = mount(tmp_path / "bad", *certificate, authority.pem), authority.issue(tmp_path / "good", "good")
    with serve(bad if end == "host" else good) as serving:
        with pytest.raises(CertificateRefused) as refused:
            ask(serving.client(good if end == "host" else bad))
        assert said(caplog, "certificate_refused: the client")
    theirs, ours = {
        "expired": ("certificate has expired", "certificate expired"),
        "foreign": ("unable to get local issuer", "unknown ca"),
        "namesake": ("certificate signature failure", "decrypt error"),
        "use": ("unsuitable certificate purpose", "unsupported certificate"),
    }[fault]
    if end == "host":  # its client looks at it
        assert "shows a certificate that is not accepted here" in str(refused.value)
        assert theirs in str(refused.value)
        assert f"does not accept the certificate of this end: {ours}" in caplog.text
    else:
        assert f"does not accept the certificate of this end: {ours}" in str(refused.value)
        assert theirs in caplog.text


def test_a_certificate_that_names_no_uses_is_good_for_both(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    files = mount(tmp_path / "host", *authority.signed("host", is_bare=True), authority.pem)
    with serve(files) as serving:
        assert ask(serving.client(files)) == StatsReply(())


def test_a_client_without_a_certificate_is_refused(
    serve: Serve, host: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=host.authority)
    context.check_hostname = False
    with serve(host) as serving:
        with socket.create_connection(serving.server.address, timeout=SOON) as sock:
            bare = context.wrap_socket(sock)
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                bare.recv(1)
        assert said(caplog, "certificate_refused: the client shows no certificate")


def test_earlier_versions_of_tls_are_refused(serve: Serve, host: TlsFiles) -> None:
    context = ssl.create_default_context(cafile=host.authority)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(host.certificate, host.private_key)
    with (
        serve(host) as serving,
        socket.create_connection(serving.server.address, timeout=SOON) as sock,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"),
    ):
        context.wrap_socket(sock)


def test_a_host_of_an_earlier_version_of_tls_is_no_matter_of_certificates(loop: ClientLoop, host: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(host.certificate, host.private_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = DataClient("a", listener.getsockname()[:2], SECRET, loop, TlsContexts(host))
        future = sent(client)
        sock, _ = listener.accept()
        with sock, pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
            context.wrap_socket(sock, server_side=True)
        with pytest.raises(ProtocolError, match=r"'a' at .* has ended TLS 1.3: protocol version"):
            future.result(SOON)
        client.close()


def test_a_full_server_says_so_without_a_tunnel(serve: Serve, host: TlsFiles) -> None:
    with serve(host, max_connections=1) as serving:
        first = serving.client(host)
        ask(first)
        with pytest.raises(HostBusy, match="all the connections"):
            ask(serving.client(host))


def test_a_silent_stranger_counts_and_is_closed(serve: Serve, host: TlsFiles) -> None:
    with serve(host, max_handshakes=1, handshake_s=1.5) as serving:
        with socket.create_connection(serving.server.address, timeout=SOON) as stranger:
            stranger.sendall(b"\x16\x03\x01")  # the beginning of TLS, and no more
            with pytest.raises(HostBusy):
                ask(serving.client(host))
            assert stranger.recv(1) == b""
        assert ask(serving.client(host)) == StatsReply(())


# --- files


def test_certificates_are_read_again_when_they_change(
    serve: Serve, host: TlsFiles, router: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    """Another authority in three steps, as it has to be done: trusted, then used, then alone. Nobody restarts."""
    with serve(host) as serving:
        kept = serving.client(router)
        ask(kept)
        later = Authority("a later authority")
        both = authority.pem + later.pem
        for name in ("host", "router"):
            mount(tmp_path / name, *authority.signed(name), both)
        ask(serving.client(router))
        mount(tmp_path / "host", *later.signed("host"), both)
        ask(serving.client(router))
        mount(tmp_path / "router", *later.signed("router"), later.pem)
        later.issue(tmp_path / "host", "host")
        ask(serving.client(router))
        with pytest.raises(CertificateRefused):
            ask(serving.client(authority.issue(tmp_path / "old", "of before")))
        ask(kept)  # a connection that is open stays


def test_an_expired_certificate_is_mended_by_renewing_it(
    serve: Serve, router: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    with serve(authority.issue(tmp_path / "host", "host", until=NOW - DAY)) as serving:
        client = serving.client(router)
        with pytest.raises(CertificateRefused, match="certificate has expired"):
            ask(client)
        authority.issue(tmp_path / "host", "host")
        assert ask(client) == StatsReply(())


def test_renewed_files_that_cannot_be_used_leave_those_of_before(
    serve: Serve,
    host: TlsFiles,
    router: TlsFiles,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(host) as serving:
        mount(tmp_path / "host", authority.signed("host")[0], authority.signed("host")[1], authority.pem)
        assert ask(serving.client(router)) == StatsReply(())
        assert said(caplog, "renewed certificates cannot be used, those read before still are")
        assert "key values mismatch" in caplog.text


def test_files_that_are_no_certificates_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.signed("host")
    for name, content, match in (
        ("key", (certificate, b"no key", authority.pem), r"tls.crt and its unencrypted private key in .*tls.key"),
        ("other", (certificate, authority.signed("other")[1], authority.pem), "key values mismatch"),
        ("authority", (certificate, key, b"nothing"), r"expected PEM certificates in .*ca.crt"),
    ):
        with pytest.raises(InvalidCertificate, match=match):
            TlsContexts(mount(tmp_path / name, *content))
    with pytest.raises(InvalidCertificate, match="nowhere cannot be read: No such file"):
        TlsContexts(TlsFiles(tmp_path / "nowhere", tmp_path / "key", tmp_path / "authority"))
