"""`Shell`: what every request passes before FastAPI sees it, and every answer on its way out.

Request id, limits on size and time of the body, gzip, headers that must not come twice, the key; metrics, access log
and audit afterwards. An error that leaves the routes ends here as a problem document.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.service import problems
from cluster.service.auth import Principal, bearer
from cluster.service.bodies import Bodies, Gone, Held, Message, Receive
from cluster.service.gateway import Gateway
from cluster.service.logs import REQUEST_ID
from cluster.service.problems import HttpProblem, malformed
from cluster.service.readiness import PROBES
from coordinator.names import check_tenant_name, tenant_name
from coordinator.tenant_types import METRICS, AuditEntry, KeyRecord
from shard.errors import InvalidParameter, PermissionDenied, QuotaExceeded, RateLimited

if TYPE_CHECKING:
    from cluster.service.tracing import Tracing

_ACCESS = logging.getLogger("facegrid.access")
Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE = "facegrid.exchange"
"""Under which key of the scope the `Exchange` is."""
PUBLIC = ("/healthz", "/livez", "/readyz", "/openapi.json", "/console", "/")
"""Paths that need no key. What lies below /console is public too: the page's own files, without any data."""
_ONCE = (
    b"authorization", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"host",
    b"idempotency-key", b"x-request-id", b"accept",
)  # fmt: skip
HEADERS_BYTES = 32 << 10
"""Of one request, names and values."""
TARGET_BYTES = 16 << 10
"""Of a request's path, and of its query."""
_LIMITS = (RateLimited.code, QuotaExceeded.code)
_IDS = random.Random()
"""Of request ids, which are no secret: asking the kernel for each one hands the interpreter to another thread."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_LAST = [(b"connection", b"close")]
"""With the answers of a gateway that is stopping, so that a client's next request goes to another one."""


@dataclass(slots=True)
class Exchange:
    """One request and what becomes of it. The routes fill in what only they know."""

    gateway: Gateway
    request_id: str
    body: bytes = b""
    held: Held | None = None
    principal: Principal | None = None
    operation: str = "unrouted"
    gallery: str | None = None
    tenant: str | None = None
    count: int | None = None
    is_audited: bool = False
    status: int = 0
    code: str = "ok"
    began: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    """When key and body were there."""


class Shell:
    """ASGI application around the routes."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._bodies = Bodies(gateway.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's event, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            if self._gateway.tracing is None:
                await self._request(scope, receive, send)
            else:
                await self._traced(self._gateway.tracing, scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _traced(self, tracing: Tracing, scope: Scope, receive: Receive, send: Send) -> None:
        span = tracing.begin(scope["headers"])
        try:
            await self._request(scope, receive, send)
        finally:
            tracing.end(span, scope[STATE], getattr(scope.get("route"), "path", None), scope["method"])

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        exchange = scope[STATE] = Exchange(self._gateway, _request_id(headers))
        REQUEST_ID.set(exchange.request_id)  # for this task, which is the request's own
        self._gateway.metrics.in_flight.inc()
        is_probe = scope["path"] in PROBES
        if not is_probe:
            self._gateway.traffic.came()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", exchange.request_id.encode()),
                    *[header for header in _ALWAYS if header[0] not in given],
                    *(_LAST if self._gateway.is_stopping else ()),
                ]
            await send(message)

        try:
            await self._admit(scope, receive, exchange)
            exchange.admitted = time.perf_counter()
            await self._app(scope, _once(exchange.body), answer)
        except Gone:
            exchange.status, exchange.code = 499, "gone"
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            if not exchange.status:
                await refuse(error, exchange, answer)
            elif exchange.code == "ok":
                problems.problem_of(error)  # too late to be answered, not to be logged
        finally:
            if exchange.held is not None:
                exchange.held.release()
            self._gateway.metrics.in_flight.dec()
            if not is_probe:
                self._gateway.traffic.went()
            self._finish(scope, exchange)

    async def _admit(self, scope: Scope, receive: Receive, exchange: Exchange) -> None:
        """Check the headers, who asks, and read the body: in this order, so that strangers send no bodies."""
        if scope["http_version"] not in ("1.0", "1.1"):
            raise HttpProblem(505, "http_version", "expected HTTP/1.1 or HTTP/1.0")
        headers = _single(scope["headers"])
        if max(len(scope.get("raw_path") or b""), len(scope["query_string"])) > TARGET_BYTES:
            raise HttpProblem(414, "target_too_long", f"path and query: expected at most {TARGET_BYTES} bytes each")
        if not is_public(scope["path"]):
            given = headers.get(b"authorization")
            # What manages tenants and keys looks the key up each time; galleries look at its tenant themselves.
            exchange.principal = await self._gateway.principal(
                bearer(None if given is None else given.decode("latin-1")),
                is_fresh=not scope["path"].startswith("/v1/galleries/"),
            )
            if METRICS in exchange.principal.key.scopes and scope["path"] != "/metrics":
                raise PermissionDenied("this key may read /metrics and nothing else")
        if b"content-length" in headers or b"transfer-encoding" in headers:
            flow = "" if exchange.principal is None else exchange.principal.flow
            exchange.held = Held(self._bodies, flow)
            exchange.body = await self._bodies.read(headers, receive, exchange.held)

    def _finish(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        metrics = self._gateway.metrics
        metrics.answered(exchange.operation, exchange.status, seconds)
        if exchange.code != "ok":
            metrics.refused.labels(exchange.code).inc()
            if exchange.code in _LIMITS and exchange.principal is not None and exchange.principal.tenant is not None:
                metrics.limited.labels(metrics.tenant(exchange.principal.tenant.name), exchange.code).inc()
        key = exchange.principal.key if exchange.principal is not None else None
        if _ACCESS.isEnabledFor(logging.INFO):
            route = scope.get("route")
            tracing = self._gateway.tracing
            trace = {} if tracing is None else {"trace_id": tracing.trace_id()}
            _ACCESS.info(
                "request",
                extra={
                    "fields": {
                        "request_id": exchange.request_id,
                        "method": scope["method"],
                        "route": getattr(route, "path", None),  # never the path itself, which may hold a template id
                        "operation": exchange.operation,
                        "status": exchange.status,
                        "code": exchange.code,
                        "ms": round(seconds * 1000, 3),
                        "key_id": None if key is None else key.key_id,
                        "gallery": exchange.gallery,
                        **trace,
                    }
                },
            )
        if key is not None and not exchange.is_audited and exchange.operation != "unrouted":
            self._audit(exchange, key)

    def _audit(self, exchange: Exchange, key: KeyRecord) -> None:
        """Searches of one key in one gallery are counted together until the log is written."""
        if exchange.operation.startswith("search") and exchange.gallery is not None:
            self._gateway.audit_searches(
                (exchange.operation, key, exchange.gallery, exchange.code), exchange.count or 0, exchange.request_id
            )
        else:
            self._gateway.audit(audit_entry(exchange))


async def refuse(error: BaseException, exchange: Exchange, send: Send) -> None:
    """Answer with the problem document of an error."""
    problem = problems.problem_of(error)
    exchange.code = problem.code
    body = problems.document(problem, exchange.request_id)
    headers = [*problems.headers(problem), (b"content-length", str(len(body)).encode())]
    if problem.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def audit_entry(exchange: Exchange) -> AuditEntry:
    """Who did what, and what came of it."""
    key = exchange.principal.key if exchange.principal is not None else None
    tenant = exchange.tenant
    if tenant is None and key is not None:
        tenant = key.tenant
    if exchange.gallery is not None:
        tenant = tenant_name(exchange.gallery)
    if not _is_name(tenant):
        tenant = None  # what was asked for cannot be a tenant
    return AuditEntry(
        at=time.time(),
        tenant=tenant,
        key_id=None if key is None else key.key_id,
        action=exchange.operation,
        gallery=exchange.gallery,
        count=exchange.count,
        outcome=exchange.code,
        request_id=exchange.request_id,
    )


def _is_name(tenant: str | None) -> bool:
    try:
        return tenant is not None and bool(check_tenant_name(tenant))
    except InvalidParameter:
        return False


def is_public(path: str) -> bool:
    """Whether a path needs no key."""
    return path in PUBLIC or path.startswith("/console/")


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"{_IDS.getrandbits(64):016x}"


def _single(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if size > HEADERS_BYTES:
            raise HttpProblem(431, "headers_too_large", f"headers: expected at most {HEADERS_BYTES} bytes")
        if name in found and name in _ONCE:
            raise malformed(f"header {name.decode('latin-1')}: expected once, came twice")
        found[name] = value
    return found


def _once(body: bytes) -> Receive:
    """The body as one message; then the connection is taken to stay open."""
    is_given = False

    async def receive() -> Message:
        nonlocal is_given
        if is_given:
            return {"type": "http.disconnect"}
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
