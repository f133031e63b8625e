"""The data plane's rules over real sockets: proof, order, stacking, limits, deadlines, breaks.

The executor here is a tiny one whose calls the test holds and releases; what a real shard host answers over the same
sockets is in tests/integration/test_dataplane.py.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from coordinator.dataplane import lane
from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.handshake import (
    ANSWER_BYTES,
    GREETING_BYTES,
    VERDICT_BYTES,
    ClientHandshake,
    ServerHandshake,
)
from coordinator.dataplane.server import DataServer, ServerLimits
from coordinator.frames import FrameSplitter, decode_replies, encode_message, request_frame
from coordinator.messages import (
    DataRequest,
    Done,
    EnrollRequest,
    FlushRequest,
    Reply,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from shard.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FacegridError,
    HostBusy,
    HostUnavailable,
    InvalidParameter,
    ProtocolError,
    ShardClosed,
    UnknownGallery,
    WrongHost,
)
from shard.types import CandidateBatch, EnrollBatch, EnrollReceipt, SearchParams

SECRET = b"0123456789abcdef0123456789abcdef"
SOON = 10.0


class Held:
    """An executor that answers when the test lets it: the key of a candidate is the probe's first number."""

    def __init__(self) -> None:
        self.requests: list[DataRequest] = []
        self._writes = itertools.count(1)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def execute(self, request: DataRequest) -> Reply:
        self.requests.append(request)
        self.entered.release()
        assert self.gate.wait(SOON)
        if isinstance(request, SearchRequest):
            return self._search(request)
        if isinstance(request, EnrollRequest):
            return EnrollReceipt(len(request.batch), 0, next(self._writes))
        return StatsReply(()) if isinstance(request, StatsRequest) else Done()

    def _search(self, request: SearchRequest) -> SearchReply:
        if request.gallery_id == "none":
            raise UnknownGallery("no gallery none")
        if request.gallery_id == "bug":
            raise ZeroDivisionError("a bug")
        if np.isnan(request.probes).any():
            raise InvalidParameter("probe with NaN")
        firsts = request.probes[:, :1]
        ids = tuple((f"t{first:g}",) for (first,) in firsts)
        return SearchReply(CandidateBatch(firsts, firsts.astype(np.uint64), ids, ((None,),) * len(ids)), request.shards)


@contextlib.contextmanager
def serving(host: Held, **limits: float) -> Iterator[DataServer]:
    server = DataServer(host, SECRET, limits=ServerLimits(**limits))  # type: ignore[arg-type]
    try:
        yield server
    finally:
        host.gate.set()
        server.close()


@pytest.fixture
def host() -> Held:
    return Held()


@pytest.fixture
def server(host: Held) -> Iterator[DataServer]:
    with serving(host) as running:
        yield running


@pytest.fixture
def loop() -> Iterator[ClientLoop]:
    running = ClientLoop()
    yield running
    running.close()


@pytest.fixture
def client(server: DataServer, loop: ClientLoop) -> Iterator[DataClient]:
    running = DataClient("a", server.address, SECRET, loop)
    yield running
    running.close()


def search(first: float, gallery: str = "g", dim: int = 64, k: int = 5, epoch: int = 1) -> SearchRequest:
    return SearchRequest(gallery, (0,), np.full((1, dim), first, np.float32), SearchParams(k), (epoch,))


def soon() -> float:
    return time.monotonic() + SOON


def keys(future: Future[Reply]) -> list[int]:
    reply = future.result(SOON)
    assert isinstance(reply, SearchReply)
    return [int(key) for key in reply.candidates.keys[:, 0]]


def waits(condition: Callable[[], bool]) -> None:
    """Wait for another thread's effect, bounded; the interval only sets how often it is looked at."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "never happened"
        threading.Event().wait(0.002)


def raw(server: DataServer) -> socket.socket:
    sock = socket.create_connection(server.address, timeout=SOON)
    sock.settimeout(SOON)
    return sock


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            break
        data += part
    return data


def proven(server: DataServer) -> socket.socket:
    sock, handshake = raw(server), ClientHandshake(SECRET, "server")
    sock.sendall(handshake.answer(received(sock, GREETING_BYTES)))
    handshake.check(received(sock, VERDICT_BYTES))
    return sock


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


# --- proof of the secret


def test_a_short_secret_is_refused(host: Held) -> None:
    with pytest.raises(InvalidParameter, match="at least 16 bytes, got 5 bytes"):
        DataServer(host, b"short")


def test_another_secret_is_refused_by_name(host: Held, server: DataServer, loop: ClientLoop) -> None:
    client = DataClient("a", server.address, b"another secret, also long", loop)
    with pytest.raises(AuthenticationFailed, match="refused this client"):
        client.submit(search(1), soon()).result(SOON)
    assert host.requests == []
    client.close()


def test_a_server_that_does_not_know_the_secret_is_refused() -> None:
    mine, theirs = ClientHandshake(SECRET, "server"), ServerHandshake(b"x" * 32, is_full=False)
    answer = mine.answer(theirs.greeting)
    refused, verdict = theirs.verdict(answer)
    assert isinstance(refused, AuthenticationFailed)
    liar = bytearray(verdict)
    liar[5] = 0
    with pytest.raises(AuthenticationFailed, match="does not know"):
        mine.check(bytes(liar))


def test_another_host_at_the_address_is_named_and_does_nothing(host: Held, loop: ClientLoop) -> None:
    """Pods get addresses that others had: what is meant for one must not be carried out by another."""
    server = DataServer(host, SECRET, name="b")
    client, meant = DataClient("a", server.address, SECRET, loop), DataClient("b", server.address, SECRET, loop)
    with pytest.raises(WrongHost, match=r"shard host 'a' at .* is another shard host by now"):
        client.submit(enroll(1), soon()).result(SOON)
    assert host.requests == []
    assert meant.submit(enroll(1), soon()).result(SOON) == EnrollReceipt(1, 0, 1)
    for closing in (client, meant):
        closing.close()
    server.close()


def test_a_proof_cannot_be_reflected() -> None:
    """A fake server that returns the client's own proof does not pass for the real one."""
    mine, fake = ClientHandshake(SECRET, "server"), ServerHandshake(b"x" * 32, is_full=False)
    answer = mine.answer(fake.greeting)
    verdict = fake.greeting[:5] + b"\0\0\0" + answer[64:]
    assert len(verdict) == VERDICT_BYTES
    with pytest.raises(AuthenticationFailed):
        mine.check(verdict)


def test_frames_before_the_proof_are_never_decoded(host: Held, server: DataServer) -> None:
    sock = raw(server)
    sock.sendall(b"".join(request_frame([(1, 1_000, encode_message(search(1)))])))
    received(sock, GREETING_BYTES)
    verdict = received(sock, VERDICT_BYTES)
    assert verdict[5] == 2
    assert verdict[8:] == bytes(32)
    assert is_closed(sock)
    assert host.requests == []


def test_a_silent_stranger_is_closed_in_time(host: Held) -> None:
    with serving(host, handshake_s=0.05) as server:
        sock = raw(server)
        received(sock, GREETING_BYTES)
        assert is_closed(sock)


def test_another_protocol_is_named(loop: ClientLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        client = DataClient("a", other.getsockname()[:2], SECRET, loop)
        future = client.submit(search(1), soon())
        sock, _ = other.accept()
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nlonger than a greeting")
        with pytest.raises(ProtocolError, match="does not speak the data plane"):
            future.result(SOON)
        sock.close()
        client.close()


# --- requests and replies


def test_each_request_gets_its_own_reply(client: DataClient) -> None:
    futures = [client.submit(search(i), soon()) for i in range(3_000)]
    assert [keys(future) for future in futures] == [[i] for i in range(3_000)]


def test_waiting_searches_are_stacked_and_split(host: Held, client: DataClient) -> None:
    host.gate.clear()
    first = client.submit(search(0), soon())
    assert host.entered.acquire(timeout=SOON)
    rest = [client.submit(search(i), soon()) for i in range(1, 20)]
    other_k, other_dim = client.submit(search(50, k=6), soon()), client.submit(search(60, dim=128), soon())
    newer = client.submit(search(70, epoch=2), soon())
    host.gate.set()
    assert [keys(future) for future in [first, *rest]] == [[i] for i in range(20)]
    assert (keys(other_k), keys(other_dim), keys(newer)) == ([50], [60], [70])
    stacked = [r for r in host.requests if isinstance(r, SearchRequest) and len(r.probes) > 1]
    assert sum(len(r.probes) for r in stacked) >= 17
    assert all(r.params.k == 5 and r.probes.shape[1] == 64 and r.epochs == (1,) for r in stacked)


def test_one_bad_search_in_a_stack_fails_alone(host: Held, client: DataClient) -> None:
    host.gate.clear()
    first = client.submit(search(0), soon())
    assert host.entered.acquire(timeout=SOON)
    good, bad, unknown = [client.submit(r, soon()) for r in (search(1), search(float("nan")), search(2, "none"))]
    host.gate.set()
    assert (keys(first), keys(good)) == ([0], [1])
    with pytest.raises(InvalidParameter, match="probe with NaN"):
        bad.result(SOON)
    with pytest.raises(UnknownGallery, match="no gallery none"):
        unknown.result(SOON)


def test_a_bug_in_the_host_is_a_named_error_and_the_server_goes_on(client: DataClient) -> None:
    with pytest.raises(FacegridError, match="internal error of the shard host: ZeroDivisionError"):
        client.submit(search(1, "bug"), soon()).result(SOON)
    assert keys(client.submit(search(4), soon())) == [4]


def test_a_slow_write_delays_neither_search_nor_look_up(host: Held, client: DataClient) -> None:
    host.gate.clear()
    write = client.submit(FlushRequest("g", (0,), (1,)), soon())
    assert host.entered.acquire(timeout=SOON)
    look = client.submit(StatsRequest("g", (0,), (1,)), soon())
    found = client.submit(search(3), soon())
    assert host.entered.acquire(timeout=SOON)
    assert host.entered.acquire(timeout=SOON)
    assert not write.done()
    host.gate.set()
    assert (keys(found), look.result(SOON), write.result(SOON)) == ([3], StatsReply(()), Done())


def enroll(lsn: int) -> EnrollRequest:
    return EnrollRequest(
        "g", 0, 1, b"", EnrollBatch(np.zeros((1, 64), np.float32), (f"t{lsn}",), (None,), (None,)), False
    )


def test_each_write_is_carried_out_once_in_whatever_order(host: Held, client: DataClient) -> None:
    """Small writes that do not wait for each other run side by side, so that they share commits."""
    futures = [client.submit(enroll(i), soon()) for i in range(500)]
    lsns = sorted(future.result(SOON).lsn for future in futures)
    assert lsns == list(range(1, 501))
    written = [r.batch.template_ids[0] for r in host.requests if isinstance(r, EnrollRequest)]
    assert sorted(written) == sorted(f"t{i}" for i in range(500))


def test_a_large_enrollment_arrives_whole(client: DataClient) -> None:
    rows = 4_000
    ids = tuple(f"t{i}" for i in range(rows))
    batch = EnrollBatch(np.ones((rows, 512), np.float32), ids, (None,) * rows, (None,) * rows)
    futures = [client.submit(r, soon()) for r in (enroll(0), EnrollRequest("g", 0, 1, b"", batch, False), enroll(1))]
    assert [future.result(SOON).enrolled for future in futures] == [1, rows, 1]


def test_a_request_over_the_frame_limit_is_refused_before_sending(client: DataClient) -> None:
    probes = np.zeros((21_000, 2_048), np.float32)
    with pytest.raises(ProtocolError, match="a message has at most"):
        client.submit(SearchRequest("g", (0,), probes, SearchParams(5), (1,)), soon()).result(SOON)


# --- deadlines


def test_a_deadline_fails_the_future_and_a_late_reply_is_dropped(host: Held, client: DataClient) -> None:
    host.gate.clear()
    late = client.submit(search(1), time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded, match="did not answer within the deadline"):
        late.result(SOON)
    host.gate.set()
    assert keys(client.submit(search(2), soon())) == [2]


def test_what_expired_in_the_queue_is_not_executed(host: Held, client: DataClient) -> None:
    host.gate.clear()
    first = client.submit(search(0), soon())
    assert host.entered.acquire(timeout=SOON)
    expired = client.submit(search(1), time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded):
        expired.result(SOON)
    host.gate.set()
    first.result(SOON)
    assert keys(client.submit(search(2), soon())) == [2]
    assert len(host.requests) == 2


def test_a_deadline_in_the_past_sends_nothing(host: Held, client: DataClient) -> None:
    with pytest.raises(DeadlineExceeded, match="before shard host 'a' was asked"):
        client.submit(search(1), time.monotonic() - 1).result(SOON)
    assert host.requests == []


# --- limits


def test_a_full_queue_is_a_retryable_error(host: Held, loop: ClientLoop) -> None:
    with serving(host, max_queued=1) as server:
        host.gate.clear()
        client = DataClient("a", server.address, SECRET, loop)
        # The server refuses at once what the queue cannot take; the rest waits for the gate.
        futures = [client.submit(search(i), soon()) for i in range(8)]
        waits(lambda: any(future.done() for future in futures))
        refused = [future for future in futures if future.done()]
        error = refused[0].exception(SOON)
        assert isinstance(error, HostBusy)
        assert error.is_retryable
        host.gate.set()
        outcomes = [future.exception(SOON) for future in futures]
        assert outcomes.count(None) >= 1
        assert {type(outcome) for outcome in outcomes if outcome is not None} == {HostBusy}
        client.close()


def test_queued_bytes_are_bounded_too(host: Held, loop: ClientLoop) -> None:
    with serving(host, max_queued_bytes=1_000) as server:
        client = DataClient("a", server.address, SECRET, loop)
        with pytest.raises(HostBusy, match="wait at this host"):
            client.submit(search(1, dim=512), soon()).result(SOON)
        assert keys(client.submit(search(1, dim=64), soon())) == [1]
        client.close()


def test_one_connection_too_many_is_refused_by_name(host: Held, loop: ClientLoop) -> None:
    with serving(host, max_connections=1) as server:
        sock = proven(server)
        client = DataClient("a", server.address, SECRET, loop)
        with pytest.raises(HostBusy, match="all the connections it takes"):
            client.submit(search(1), soon()).result(SOON)
        sock.close()
        waits(lambda: not server.peers)
        assert keys(client.submit(search(1), soon())) == [1]
        client.close()


def test_the_server_closes_idle_connections(host: Held) -> None:
    with serving(host, idle_s=0.1) as server, proven(server) as sock:
        assert is_closed(sock)
        waits(lambda: not server.peers)


def test_a_connection_long_unused_is_made_anew(host: Held, loop: ClientLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(host) as server:
        client = DataClient("a", server.address, SECRET, loop)
        assert keys(client.submit(search(1), soon())) == [1]
        (before,) = server.peers
        unused_since = time.monotonic()
        monkeypatch.setattr(lane, "IDLE_S", 0.05)
        waits(lambda: time.monotonic() > unused_since + 0.1)
        assert keys(client.submit(search(2), soon())) == [2]
        waits(lambda: before not in server.peers)
        assert len(server.peers) == 1
        client.close()


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<II", 2**31, 0),
        struct.pack("<II", 4, 0) + b"junk",
        b"".join(request_frame([(1, 1, encode_message(Done()))])),
    ],
    ids=["length", "checksum", "reply-as-request"],
)
def test_a_malformed_frame_closes_its_connection_only(server: DataServer, client: DataClient, frame: bytes) -> None:
    sock = proven(server)
    sock.sendall(frame)
    assert is_closed(sock)
    assert keys(client.submit(search(1), soon())) == [1]


def test_frames_glued_to_the_proof_are_served(server: DataServer) -> None:
    sock, handshake = raw(server), ClientHandshake(SECRET, "server")
    answer = handshake.answer(received(sock, GREETING_BYTES))
    assert len(answer) == ANSWER_BYTES
    sock.sendall(answer + b"".join(request_frame([(9, 5_000, encode_message(search(1)))])))
    handshake.check(received(sock, VERDICT_BYTES))
    splitter = FrameSplitter()
    found: list[int] = []
    while not found:
        found = [key for frame in splitter.feed(sock.recv(4_096)) for key, _ in decode_replies(frame)]
    assert found == [9]
    sock.close()


# --- breaks


def test_a_refused_connection_is_host_unavailable(loop: ClientLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()[:2]
    client = DataClient("a", address, SECRET, loop)
    with pytest.raises(HostUnavailable, match=r"shard host 'a' at 127.0.0.1:\d+ cannot be reached"):
        client.submit(search(1), soon()).result(SOON)
    client.close()


def test_a_break_fails_what_was_in_flight_once_and_the_next_use_reconnects(host: Held, loop: ClientLoop) -> None:
    host.gate.clear()
    server = DataServer(host, SECRET)
    client = DataClient("a", server.address, SECRET, loop)
    futures = [client.submit(enroll(i), soon()) for i in range(3)]
    for _ in futures:  # writes are begun side by side
        assert host.entered.acquire(timeout=SOON)
    closing = threading.Thread(target=server.close)
    closing.start()
    for future in futures:
        with pytest.raises(HostUnavailable):
            future.result(SOON)
    host.gate.set()
    closing.join(SOON)
    assert len(host.requests) == 3
    with DataServerAt(host, server.address[1]):
        assert client.submit(enroll(9), soon()).result(SOON) == EnrollReceipt(1, 0, 4)
    client.close()


def test_a_fault_at_one_connection_fails_its_own_calls_and_no_others(
    host: Held, server: DataServer, loop: ClientLoop, client: DataClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(host) as other:
        second = DataClient("b", other.address, SECRET, loop)

        def fault() -> None:
            raise ZeroDivisionError("a bug")

        def both() -> tuple[Future[Reply], Future[Reply]]:
            asked = client.submit(search(1), soon()), second.submit(search(2), soon())
            loop._drain()
            return asked

        with monkeypatch.context() as patch:
            patch.setattr(client._lanes["search"], "pump", fault)
            done: Future[tuple[Future[Reply], Future[Reply]]] = Future()
            loop.thread.call(lambda: done.set_result(both()))
            mine, theirs = done.result(SOON)
            with pytest.raises(HostUnavailable, match=r"'a' at .* failed: ZeroDivisionError"):
                mine.result(SOON)
        assert keys(theirs) == [2]
        assert keys(client.submit(search(3), soon())) == [3]
        second.close()


class DataServerAt(contextlib.AbstractContextManager["DataServerAt"]):
    """A server on the port that another one had."""

    def __init__(self, host: Held, port: int) -> None:
        self._server = DataServer(host, SECRET, port=port)

    def __exit__(self, *_: object) -> None:
        self._server.close()


def test_a_port_in_use_is_named(host: Held, server: DataServer) -> None:
    with pytest.raises(HostUnavailable, match="cannot be bound"):
        DataServer(host, SECRET, port=server.address[1])


def test_closed_client_and_closed_loop(server: DataServer) -> None:
    loop = ClientLoop()
    client = DataClient("a", server.address, SECRET, loop)
    assert keys(client.submit(search(1), soon())) == [1]
    client.close()
    client.close()
    with pytest.raises(ShardClosed, match="was closed"):
        client.submit(search(1), soon())
    loop.close()
    loop.close()


def test_close_fails_what_is_in_flight(host: Held, server: DataServer, loop: ClientLoop) -> None:
    host.gate.clear()
    client = DataClient("a", server.address, SECRET, loop)
    future = client.submit(search(1), soon())
    assert host.entered.acquire(timeout=SOON)
    client.close()
    with pytest.raises(ShardClosed):
        future.result(SOON)
    host.gate.set()
