"""HTTP itself, from raw sockets on loopback: what is ambiguous is refused, what is slow or endless is ended.

After each test the service still answers.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from cluster.service import connection
from cluster.service.gateway import Limits
from tests.service import Running, faces_like, running

BODY_BYTES = 1 << 20
SEARCH = "/v1/galleries/acme/staff/search"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(body_bytes=BODY_BYTES, bodies_bytes=4 * BODY_BYTES, body_s=1.0)
    patch = pytest.MonkeyPatch()
    patch.setattr(connection.Connection, "head_s", 1.0)
    patch.setattr(connection, "UNREAD_S", 1.0)
    with running(tmp_path_factory.mktemp("http") / "home", limits=limits) as s:
        s.tenant("acme")
        s.cluster.gallery("acme/staff", create=True, dim=64, shards=1).enroll(faces_like(3))
        yield s
    patch.undo()


@pytest.fixture(scope="module")
def key(service: Running) -> str:
    return service.key("acme", "admin")


@pytest.fixture(autouse=True)
def _it_lives_on(service: Running) -> Iterator[None]:
    yield
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok", "control_plane": "answers"}


@contextlib.contextmanager
def connected(service: Running) -> Iterator[socket.socket]:
    port = int(service.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as found:
        yield found


def sent(service: Running, *parts: bytes) -> bytes:
    """Everything that comes back until the connection ends, for bytes that ask for its end, or are refused."""
    with connected(service) as to:
        for part in parts:
            with contextlib.suppress(ConnectionError):
                to.sendall(part)
        return rest(to)


def rest(of: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := of.recv(65536):
            got += part
    return got


def statuses(answer: bytes) -> list[int]:
    """Of each answer in what came back."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def request(key: str, *headers: bytes, method: bytes = b"POST", path: bytes = SEARCH.encode()) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Authorization: Bearer " + key.encode(), *headers]
    if not any(header.lower().startswith(b"host:") for header in headers):
        lines.append(b"Host: x")
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


PROBE = json.dumps({"probes": faces_like(1)[0].tolist()}).encode()
LENGTH = b"Content-Length: %d" % len(PROBE)


def test_a_right_request_is_answered(service: Running, key: str) -> None:
    assert statuses(sent(service, request(key, LENGTH) + PROBE)) == [200]


@pytest.mark.parametrize(
    "headers",
    [
        (LENGTH, b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", LENGTH),
        (LENGTH, b"Content-Length: 3"),
        (LENGTH, LENGTH),
        (b"Content-Length: 1, 1",),
        (b"Content-Length: -1",),
        (b"Content-Length: +5",),
        (b"Content-Length: 0x10",),
        (b"Content-Length: 5 5",),
        (b"Content-Length: 99999999999999999999999999",),
        (b"Content-Length: \xd9\xa3",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding : chunked",),
        (b"Transfer-Encoding:\x0bchunked",),
        (LENGTH, b"Content-Type: application/json", b"Content-Type: application/msgpack"),
        (LENGTH, b"Authorization: Bearer fg_other"),
        (LENGTH, b"Host: a", b"Host: b"),
        (LENGTH, b"Content-Encoding: gzip", b"Content-Encoding: identity"),
        (LENGTH, b"Idempotency-Key: a", b"Idempotency-Key: b"),
        (LENGTH, b"X-Request-Id: a", b"X-Request-Id: b"),
        (LENGTH, b" folded: 1"),
        (LENGTH, b"na me: 1"),
        (LENGTH, b"name\x00: 1"),
        (LENGTH, b"name: a\x00b"),
        (LENGTH, b": empty"),
        (LENGTH, b"no colon"),
    ],
    ids=repr,
)
def test_ambiguous_headers_are_refused(service: Running, key: str, headers: tuple[bytes, ...]) -> None:
    found = statuses(sent(service, request(key, *headers) + PROBE))
    assert len(found) <= 1, "nothing is taken for a second request"
    assert found in ([400], [413], []), found


@pytest.mark.parametrize(
    "chunks",
    [b"5\r\nhello", b"zz\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n", b"5;" + b"x" * 100 + b"\r\nhello\r\n0\r\n\r\n",
     b"ffffffffffffffffff\r\nx", b"5\r\nhelloXX0\r\n\r\n", b"5\nhello\n0\n\n"],
)  # fmt: skip
def test_chunks_that_are_wrong_end_the_connection(service: Running, key: str, chunks: bytes) -> None:
    found = statuses(sent(service, request(key, b"Transfer-Encoding: chunked") + chunks))
    assert found in ([400], [408], [422], []), found


def test_trailers_are_no_headers(service: Running, key: str) -> None:
    body = b"%x\r\n%b\r\n0\r\nContent-Type: application/msgpack\r\nIdempotency-Key: x\r\n\r\n" % (len(PROBE), PROBE)
    assert statuses(sent(service, request(key, b"Transfer-Encoding: chunked") + body)) == [200]


def test_a_body_over_the_limit_is_refused_before_it_is_read(service: Running, key: str) -> None:
    answer = sent(service, request(key, b"Content-Length: %d" % (BODY_BYTES + 1)))
    assert statuses(answer) == [413]
    assert b'"code":"request_too_large"' in answer
    assert b"connection: close" in answer.lower()


def test_chunks_over_the_limit_are_refused(service: Running, key: str) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = sent(service, request(key, b"Transfer-Encoding: chunked"), *[chunk] * 17)
    assert statuses(answer) in ([413], [])  # a reset may overtake the answer
    with service.client(key) as client:
        refused = client.post(SEARCH, content=(b" " * 1000 for _ in range(1100)))
        assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")


def test_a_slow_body_is_refused(service: Running, key: str) -> None:
    began = time.monotonic()
    answer = sent(service, request(key, b"Content-Length: 100") + b"{")
    assert statuses(answer) == [408]
    assert time.monotonic() - began < 10
    answer = sent(service, request(key, b"Transfer-Encoding: chunked") + b"5\r\nhel")
    assert statuses(answer) == [408]


@pytest.mark.parametrize("began", [b"", b"\r\n", b"GET", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_slow_head_is_ended(service: Running, began: bytes) -> None:
    started = time.monotonic()
    assert statuses(sent(service, began)) == []
    assert time.monotonic() - started < 10


def test_a_head_that_trickles_is_ended(service: Running) -> None:
    """Slowloris: each byte is in time, the head is not."""
    with connected(service) as to:
        to.settimeout(0.2)
        started, is_open = time.monotonic(), True
        to.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        while is_open and time.monotonic() - started < 15:
            try:
                to.sendall(b"a")
                is_open = to.recv(1) != b""
            except TimeoutError:
                continue
            except ConnectionError:
                is_open = False
    assert not is_open


def test_a_second_head_that_trickles_is_ended(service: Running) -> None:
    with connected(service) as to:
        to.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\n")
        assert statuses(rest(to)) == [200]


def test_a_body_that_nobody_reads_is_not_sent_at_leisure(service: Running) -> None:
    head = b"POST /v1/whoami HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with connected(service) as to:
        started = time.monotonic()
        to.sendall(head + b"x")
        answer = rest(to)
    assert statuses(answer) == [401]
    assert time.monotonic() - started < 10


def test_a_head_without_end_is_not_kept(service: Running) -> None:
    for begin in (b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"):
        with connected(service) as to, contextlib.suppress(ConnectionError):
            to.sendall(begin)
            sent_bytes = 0
            while sent_bytes < 64 << 20:
                to.sendall(b"a: b\r\n" * 10_000 if begin.endswith(b"\n") else b"a" * 60_000)
                sent_bytes += 60_000
        assert sent_bytes < 16 << 20, "the service went on reading"


def test_long_heads_are_refused_by_name(service: Running, key: str) -> None:
    assert statuses(sent(service, request(key, b"X: " + b"a" * 40_000, method=b"GET"))) == [431]
    assert statuses(sent(service, request(key, *[b"X%d: a" % i for i in range(8_000)], method=b"GET"))) in (
        [431],
        [400],
    )
    assert statuses(sent(service, request(key, method=b"GET", path=b"/v1/" + b"a" * 20_000))) == [414]
    assert statuses(sent(service, request(key, method=b"GET", path=b"/v1/whoami?" + b"a" * 20_000))) == [414]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(PROBE), 200),
        (gzip.compress(b" " * (64 << 20)), 413),
        (gzip.compress(gzip.compress(b" " * (64 << 20))), 400),
        (gzip.compress(PROBE) + b"tail", 400),
        (gzip.compress(PROBE) + gzip.compress(PROBE), 400),
        (gzip.compress(PROBE)[:-5], 400),
        (gzip.compress(PROBE)[:12], 400),
        (b"", 400),
        (PROBE, 400),
        (zlib.compress(PROBE), 400),
        (gzip.compress(PROBE)[:-8] + struct.pack("<II", 1, 2), 400),
        (b"\x1f\x8b\x08\xff" + b"a" * 100, 400),
    ],
    ids=range(12),
)
def test_gzip(service: Running, key: str, body: bytes, status: int) -> None:
    with service.client(key) as client:
        answer = client.post(SEARCH, content=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1", "compress"])
def test_other_encodings_are_refused(service: Running, key: str, encoding: str) -> None:
    with service.client(key) as client:
        answer = client.post(SEARCH, content=PROBE, headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_what_was_held_is_given_back(service: Running, key: str) -> None:
    """Bodies that were refused, broken off or answered are counted no more: as many again find room."""
    big = b" " * (BODY_BYTES - 1)
    with service.client(key) as client:
        for _ in range(10):
            assert client.post(SEARCH, content=big).status_code == 400
            assert client.post(SEARCH, content=gzip.compress(big), headers={"content-encoding": "gzip"}).is_error
    for _ in range(10):
        with connected(service) as to:
            to.sendall(request(key, b"Content-Length: %d" % BODY_BYTES) + b" " * 100_000)
    assert statuses(sent(service, request(key, LENGTH) + PROBE)) == [200]


def test_one_tenants_uploads_leave_room(service: Running, key: str) -> None:
    """Small bodies always find room, and another tenant's large ones do."""
    service.tenant("rival")
    rival = service.key("rival", "admin")
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            to = stack.enter_context(connected(service))
            to.sendall(request(rival, b"Content-Length: %d" % BODY_BYTES, path=b"/v1/detect") + b" " * 100_000)
        assert statuses(sent(service, request(key, LENGTH) + PROBE)) == [200]
        with service.client(key) as client:
            assert client.post(SEARCH, content=b" " * (BODY_BYTES - 1)).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/galleries/acme%2f..%2fother/staff",
        b"/v1/galleries/%2e%2e/%2e%2e/etc/passwd",
        b"/v1/galleries/acme/..",
        b"/v1/galleries/acme/%2e%2e",
        b"/v1/galleries/acme/..%5c..%5cstaff",
        b"/v1/galleries/acme/staff%00",
        b"/v1/galleries/acme/staff%2500",
        b"/v1/galleries/acme/%252e%252e",
        b"/v1/galleries/acme/%c0%ae%c0%ae",
        b"/v1/galleries/acme/%ed%a0%80",
        b"/v1/galleries/acme/%ff%fe",
        b"/v1/galleries/acme/staff%0d%0aX: y",
        b"/v1/galleries/ACME/staff",
        b"/v1/galleries/acme/staff/",
        b"/v1//galleries/acme/staff",
        b"//v1/galleries/acme/staff",
        b"/v1/galleries/acme/staff/snapshots/..%2f..%2f/restore",
        b"/console/..%2f..%2fshell.py",
        b"/console/%2e%2e/shell.py",
        b"/console/....//shell.py",
        b"/console/../v1/whoami",
        b"/console/index.html%00.css",
        b"/openapi.json/",
        b"/v1/galleries/acme/staff;a=b",
        b"/v1/galleries/acme/%",
        b"/v1/galleries/acme/%zz",
        b"/v1/galleries/acme/\xc3\xa9",
        b"/v1/galleries/acme/" + b"a/" * 1000,
        b"/v1/galleries/acme/" + b"%61" * 3000,
    ],
)
def test_names_that_wander_lead_nowhere(service: Running, key: str, path: bytes) -> None:
    answer = sent(service, request(key, method=b"GET", path=path))
    assert statuses(answer) in ([404], [400], [405]), answer
    assert b"Traceback" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize(
    "path", [b"?identity=%00", b"?identity=%ed%a0%80", b"?identity=%ff", b"?identity=" + b"a" * 2000,
             b"?limit=1&limit=2",
             b"?limit=%31%00", b"?limit=nan", b"?limit=1e2", b"?limit=99999999999999999999", b"?cursor=../../x",
             b"?cursor=%00", b"?cursor=" + b"a" * 1000, b"?&&&===", b"?" + b"&".join([b"a=b"] * 3000), b"?%", b"?[]=1"]
)  # fmt: skip
def test_queries_that_are_odd_are_answered(service: Running, key: str, path: bytes) -> None:
    target = b"/v1/galleries/acme/staff/faces" + path
    assert statuses(sent(service, request(key, method=b"GET", path=target)))[0] in (200, 400, 404, 414, 422)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"GET /healthz\r\n\r\n", [505]),
        (b"GET /healthz HTTP/0.9\r\n\r\n", [505]),
        (b"GET /healthz HTTP/1.0\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.2\r\nConnection: close\r\n\r\n", [400]),
        (b"GET /healthz HTTP/2.0\r\n\r\n", [505]),
        (b"GET /healthz HTTP/1.1 \r\n\r\n", [400]),
        (b"GET  /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", [200, 400]),
        (b"GET\t/healthz HTTP/1.1\r\n\r\n", [400]),
        (b"get /healthz HTTP/1.1\r\n\r\n", [400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [400, 401]),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [400]),
        (b"GET http://evil/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [200]),
        (b"GET http://evil/v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [401]),
        (b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [400, 401]),
        (b"GET /healthz HTTP/1.1\r\nHost: \"<script>\r\nConnection: close\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\nHost: a:b:c@d/..%00\r\nConnection: close\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", [200]),
        (b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [405]),
        (b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [405]),
        (b"OPTIONS /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [401]),
        (b"BREW /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [400]),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n\r\n", [200]),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", [200, 400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
        (b"\x00" * 100, [400]),
    ],
    ids=lambda v: repr(v)[:40],
)  # fmt: skip
def test_odd_request_lines(service: Running, line: bytes, found: list[int]) -> None:
    got = statuses(sent(service, line))
    assert len(got) == 1, got
    assert got[0] in found


def test_pipelined_requests_are_answered_in_their_order(service: Running, key: str) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: r%d\r\n\r\n"
    last = request(key, LENGTH, b"X-Request-Id: last") + PROBE
    answer = sent(service, b"".join(one % i for i in range(50)) + last)
    assert statuses(answer) == [200] * 51
    ids = [line.split(b": ")[1] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"r%d" % i for i in range(50)] + [b"last"]


def test_a_body_is_no_request(service: Running, key: str) -> None:
    """What follows a refused request's headers is its body, whatever it looks like."""
    inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: inner\r\n\r\n"
    head = b"POST /v1/whoami HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
    answer = sent(service, head + inner + request(key, method=b"GET", path=b"/healthz"))
    assert statuses(answer) == [401, 200]
    assert b"inner" not in answer


@pytest.mark.parametrize("value", [b"a\rb", b"a b", b"a" * 65, b"<x>", b"\xff", b"", b"a%0d%0ab", b"../x", b'"'])
def test_request_ids_that_are_odd_are_not_echoed(service: Running, value: bytes) -> None:
    answer = sent(service, b"GET /healthz HTTP/1.1\r\nX-Request-Id: " + value + b"\r\nConnection: close\r\n\r\n")
    if statuses(answer) == [200]:
        line = next(line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: "))
        assert len(line) == len("x-request-id: ") + 16
        assert value not in line or not value
    else:
        assert statuses(answer) == [400]


def test_answers_are_not_for_caches_or_other_pages(service: Running, key: str) -> None:
    for path in (b"/v1/whoami", b"/healthz", b"/v1/nothing"):
        answer = sent(service, request(key, b"Origin: https://evil", method=b"GET", path=path)).lower()
        assert b"cache-control: no-store" in answer
        assert b"x-content-type-options: nosniff" in answer
        assert b"access-control-allow" not in answer
        assert b"set-cookie" not in answer
        assert b"\r\nserver:" not in answer


def test_an_answer_may_take_longer_than_a_head(service: Running, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a connection may rest between requests: the bounds are on heads that have begun."""
    gallery = service.cluster.gallery("acme/staff")
    released = threading.Event()
    monkeypatch.setattr(type(gallery), "flush", lambda _: released.wait(20))
    timer = threading.Timer(2 * connection.Connection.head_s, released.set)
    timer.start()
    with service.client(key) as client:
        assert client.post("/v1/galleries/acme/staff/flush").status_code == 204
    timer.join()
    with connected(service) as to:
        for _ in range(2):
            to.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert statuses(to.recv(65536)) == [200]
            to.settimeout(1.5 * connection.Connection.head_s)
            with pytest.raises(TimeoutError):
                to.recv(1)
            to.settimeout(20)
