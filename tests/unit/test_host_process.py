"""What a shard host's process shows to the network: its ports, and what probes are told. Without Ray."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator import host_process
from coordinator import probes as probes_module
from coordinator.dataplane.tls import TlsFiles
from coordinator.host_process import ShardHostProcess
from coordinator.messages import ConfigureShards, CreateShard, InventoryRequest
from coordinator.probes import ProbeServer, Report
from coordinator.types import ShardConfig
from tests.ports import free_port

pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'facegrid[cluster]'")

SECRET = b"0123456789abcdef0123456789abcdef"
GALLERY = "0123456789abcdef"
SOON = 10.0


@contextlib.contextmanager
def running(directory: Path, **options: Any) -> Iterator[ShardHostProcess]:
    process = ShardHostProcess("a", str(directory), SECRET, "127.0.0.1", None, None, **options)
    try:
        yield process
    finally:
        process.close()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def reasons(port: int) -> list[str]:
    """Why it is not ready; () with 200 only."""
    status, body = get(port, "/readyz")
    told = json.loads(body)
    assert told["host"] == "a"
    assert told["is_ready"] == (status == 200) == (not told["reasons"])
    return list(told["reasons"])


def configured(epoch: int, in_sync: tuple[str, ...], joining: tuple[str, ...] = ()) -> ConfigureShards:
    return ConfigureShards((ShardConfig(GALLERY, 0, epoch, in_sync[0], in_sync, joining),), (1,))


def test_the_ports_are_those_that_were_asked_for(tmp_path: Path) -> None:
    data_port, probe_port = free_port(), free_port()
    with running(tmp_path / "a", data_port=data_port, probe_port=probe_port) as process:
        assert process.data_address().unwrap() == ("127.0.0.1", data_port)
        assert get(probe_port, "/livez") == (200, "ok\n")
        assert reasons(probe_port) == []
    with pytest.raises(OSError, match="refused"):
        get(probe_port, "/livez")


def test_arguments_of_before_are_enough(tmp_path: Path) -> None:
    """A detached actor that an earlier version started is restarted with the arguments of then."""
    with running(tmp_path / "a") as process:
        assert process.data_address().unwrap()[1] > 0


def test_a_fixed_port_that_the_process_before_still_has_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        timer = threading.Timer(0.3, before.close)
        timer.start()
        with running(tmp_path / "a", data_port=port) as process:
            assert process.data_address().unwrap() == ("127.0.0.1", port)
        timer.join()


def test_a_port_that_stays_taken_is_named_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_process, "LOCK_WAIT_S", 0.2)
    probe_port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(tmp_path / "a", data_port=port, probe_port=probe_port) as process:
            outcome = process.data_address()
            assert outcome.code == "host_unavailable"
            assert f"the data port 127.0.0.1:{port} cannot be bound" in str(outcome.message)
            assert get(probe_port, "/livez")[0] == 200
            (reason,) = reasons(probe_port)
            assert "the host is not open: host_unavailable: the data port" in reason
            other.close()
            assert process.data_address().unwrap() == ("127.0.0.1", port)
            assert reasons(probe_port) == []


def test_certificates_that_are_not_there_keep_the_host_from_opening(tmp_path: Path) -> None:
    files = TlsFiles(*(tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")))
    with running(tmp_path / "a", tls=files) as process:
        assert process.data_address().code == "invalid_certificate"


def test_a_host_is_ready_when_it_was_told_what_its_shards_are_and_they_are_level(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path / "a", probe_port=port) as process:
        assert reasons(port) == []  # it holds nothing
        process.execute(CreateShard(GALLERY, 0, 64)).unwrap()
        assert reasons(port) == ["replicas that wait for a configuration by the coordinator: 1"]
        process.execute(configured(1, ("a",))).unwrap()
        assert reasons(port) == []
    with running(tmp_path / "a", probe_port=port) as process:
        # Once more the same files, of which this process has not been told anything.
        process.execute(InventoryRequest()).unwrap()
        assert reasons(port) == ["replicas that wait for a configuration by the coordinator: 1"]
        process.execute(configured(2, ("b",), ("a",))).unwrap()
        assert reasons(port) == ["replicas that are being copied: 1"]
        process.execute(configured(3, ("b", "a"))).unwrap()
        assert reasons(port) == []
        assert 'facegrid_shard_host_replicas{host="a",state="in_sync"} 1\n' in get(port, "/metrics")[1]


def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    parser = pytest.importorskip(
        "prometheus_client.parser", reason="prometheus-client is not installed: pip install 'facegrid[service]'"
    )
    port = free_port()
    with running(tmp_path / "a", probe_port=port) as process:
        process.execute(CreateShard(GALLERY, 0, 64)).unwrap()
        status, text = get(port, "/metrics")
    assert status == 200
    found = {
        (sample.name, sample.labels.get("state")): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["facegrid_shard_host_ready", None] == 0
    assert found["facegrid_shard_host_replicas", "unconfigured"] == 1
    assert found["facegrid_shard_host_primaries", None] == 0
    assert 0 < found["facegrid_shard_host_disk_free_bytes", None] <= found["facegrid_shard_host_disk_bytes", None]


@pytest.fixture
def probes() -> Iterator[ProbeServer]:
    server = ProbeServer("a", "127.0.0.1", 0, lambda: Report(()))
    yield server
    server.close()
    server.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/livez?verbose", 200), ("POST", "/readyz", 405), ("GET", "/../etc/passwd", 404)],
)
def test_nothing_but_three_paths_is_answered(probes: ProbeServer, method: str, path: str, status: int) -> None:
    assert get(probes.address[1], path, method)[0] == status


@pytest.mark.parametrize("sent", [b"", b"\0" * 20_000, b"GET " + b"a" * 20_000, b"\r\n\r\n"])
def test_what_is_no_request_ends_without_harm(probes: ProbeServer, sent: bytes) -> None:
    with socket.create_connection(probes.address, timeout=SOON) as sock, contextlib.suppress(OSError):
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4_096):
            pass
    assert get(probes.address[1], "/livez")[0] == 200


def test_connections_are_bounded(probes: ProbeServer) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(probes.address, timeout=SOON)) for _ in range(64)]
        with socket.create_connection(probes.address, timeout=SOON) as one_more:
            assert one_more.recv(1) == b""
        assert len(idle) == 64
    until = time.monotonic() + SOON
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if get(probes.address[1], "/livez")[0] == 200:
                return
        assert time.monotonic() < until


def test_a_report_that_fails_is_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[Exception] = [OSError(5, "Input/output error"), ZeroDivisionError("a bug")]

    def fail() -> Report:
        raise faults[0]

    server = ProbeServer("a", "127.0.0.1", 0, fail)
    try:
        for said in ("OSError: [Errno 5] Input/output error", "ZeroDivisionError: a bug"):
            status, body = get(server.address[1], "/readyz")
            assert status == 503
            assert json.loads(body)["reasons"] == [f"the host cannot say how it is: {said}"]
            assert 'facegrid_shard_host_ready{host="a"} 0\n' in get(server.address[1], "/metrics")[1]
            faults.pop(0)
    finally:
        server.close()
    assert "the report of shard host a failed" in caplog.text


def test_a_report_that_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "REPORT_S", 0.2)
    goes_on, calls = threading.Event(), []

    def hang() -> Report:
        calls.append(1)
        goes_on.wait(6 * SOON)
        return Report(())

    server = ProbeServer("a", "127.0.0.1", 0, hang)
    try:
        port = server.address[1]
        for _ in range(2):
            status, body = get(port, "/readyz")
            assert status == 503
            assert json.loads(body)["reasons"] == ["the host has not said within 0.2 s how it is"]
        assert get(port, "/livez")[0] == 200
        assert calls == [1]  # one at a time
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < SOON
    finally:
        goes_on.set()
        server.close()


def test_who_asks_after_a_report_that_hung_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "REPORT_S", 0.2)
    goes_on = threading.Event()
    found = iter([Report(("of long ago",)), Report(())])

    def hang_once() -> Report:
        assert goes_on.wait(SOON)
        return next(found)

    server = ProbeServer("a", "127.0.0.1", 0, hang_once)
    try:
        assert get(server.address[1], "/readyz")[0] == 503
        goes_on.set()
        until = time.monotonic() + SOON
        while get(server.address[1], "/readyz")[0] != 200:
            assert time.monotonic() < until
    finally:
        server.close()
