"""The probe port of a shard host: three GET requests over HTTP/1.1, for whoever decides whether the process may stay.

    /livez     200: the process answers
    /readyz    200: the host is open and all its replicas are level; 503 and a JSON object with the reasons if not
    /metrics   200: the same in numbers, in the text format of Prometheus

Of a request nothing but the path is used. Each connection is for one request and bounded in number, bytes and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.dataplane.loop import LoopThread
from coordinator.host_state import HostState
from shard.errors import HostUnavailable, ShardClosed

log = logging.getLogger("facegrid.actors")

CONNECTIONS = 64
REQUEST_BYTES = 8 << 10
REQUEST_S = 5.0
REPORT_S = 4.0
"""How long a report may take; who asked is told so, within REQUEST_S."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a host says of itself. reasons: why it is not ready, () if it is. state: None while it is not open."""

    reasons: tuple[str, ...]
    state: HostState | None = None


class ProbeServer:
    """Answers on `bind`:`port` until `close`."""

    def __init__(self, name: str, bind: str, port: int, report: Callable[[], Report]) -> None:
        """name: the host's. report: called in a thread of its own, one at a time; what it raises is the reason why the
        host is not ready. HostUnavailable if the port cannot be bound.
        """
        self._name, self._report = name, report
        self._asking: asyncio.Future[Report] | None = None
        self._count = 0
        self._thread = LoopThread("facegrid-probes")
        try:
            self._server = self._thread.run(self._listen(bind, port))
        except OSError as error:
            self._thread.close()
            raise HostUnavailable(f"the probe port {bind}:{port} cannot be bound: {error}") from error
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Stop listening; a report under way is not waited for. Idempotent."""
        if self._thread.is_running:
            self._thread.call(self._server.close)
            self._thread.close()

    async def _listen(self, bind: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, bind, port, limit=REQUEST_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        try:
            if self._count <= CONNECTIONS:
                await asyncio.wait_for(self._answer(reader, writer), REQUEST_S)
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            pass  # whoever asked has gone, is too slow, or speaks something else
        finally:
            self._count -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET":
            status, kind, body = "405 Method Not Allowed", "text/plain", "GET only\n"
        elif path == b"/livez":
            status, kind, body = "200 OK", "text/plain", "ok\n"
        elif path in (b"/readyz", b"/metrics"):
            report = await self._reported()
            status, kind, body = self._readiness(report) if path == b"/readyz" else self._metrics(report)
        else:
            status, kind, body = "404 Not Found", "text/plain", "/livez, /readyz, /metrics\n"
        data = body.encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
            + data
        )
        await writer.drain()

    async def _reported(self) -> Report:
        """The report, one for all who ask while it is made."""
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.get_running_loop().create_future()
            # Not of an executor, whose threads are waited for when it and when the process ends.
            threading.Thread(target=self._make_report, args=(asking,), name="facegrid-report", daemon=True).start()
        await asyncio.wait([asking], timeout=REPORT_S)
        return asking.result() if asking.done() else Report((f"the host has not said within {REPORT_S:g} s how it is",))

    def _make_report(self, asking: asyncio.Future[Report]) -> None:
        try:
            report = self._report()
        except Exception as error:  # the process boundary: who probes is told that it failed, the log has the traceback
            log.exception("the report of shard host %s failed", self._name)
            report = Report((f"the host cannot say how it is: {type(error).__name__}: {error}",))
        with contextlib.suppress(ShardClosed):
            self._thread.call(self._made, asking, report)

    def _made(self, asking: asyncio.Future[Report], report: Report) -> None:
        self._asking = None
        asking.set_result(report)

    def _readiness(self, report: Report) -> tuple[str, str, str]:
        body = json.dumps({"host": self._name, "is_ready": not report.reasons, "reasons": report.reasons})
        return "503 Service Unavailable" if report.reasons else "200 OK", "application/json", body + "\n"

    def _metrics(self, report: Report) -> tuple[str, str, str]:
        return "200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics_text(self._name, report)


def metrics_text(host: str, report: Report) -> str:
    """The report in the text format of Prometheus. host: a host name, which has no character to escape."""
    lines: list[str] = []

    def add(name: str, what: str, values: dict[str, int]) -> None:
        lines.extend((f"# HELP facegrid_shard_host_{name} {what}", f"# TYPE facegrid_shard_host_{name} gauge"))
        for label, value in values.items():
            state = f',state="{label}"' if label else ""
            lines.append(f'facegrid_shard_host_{name}{{host="{host}"{state}}} {value}')

    add("ready", "1 if the host is open and all its replicas are level.", {"": int(not report.reasons)})
    state = report.state
    if state is not None:
        by_state = {
            "in_sync": state.in_sync,
            "joining": state.joining,
            "catching_up": state.catching_up,
            "unconfigured": state.unconfigured,
            "faulty": state.faulty,
        }
        add("replicas", "Replicas by state; one that catches up or is faulty is of another state too.", by_state)
        add("primaries", "Replicas that are the primary of their shard.", {"": state.primaries})
        add("open_shards", "Shards that are open.", {"": state.open_shards})
        add("disk_bytes", "Size of the file system of its directory.", {"": state.disk_bytes})
        add("disk_free_bytes", "Bytes of it that are free.", {"": state.free_bytes})
    return "\n".join(lines) + "\n"
