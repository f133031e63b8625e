"""Whether the service lives, can serve, and how it does; the OpenAPI document. No key is needed, but for metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from cluster.service import media
from cluster.service.calls import Asked
from cluster.service.gateway import Gateway
from cluster.service.operations import openapi, operation
from cluster.service.schemas import Reply
from cluster.service.shell import STATE

router = APIRouter()


class HealthReply(Reply):
    """status: ok, or what is wrong. control_plane: `answers`, or `away`, during which queries are answered still."""

    status: str
    control_plane: str | None = None


@operation(router, "GET", "/livez", "livez", reply=HealthReply, produces=(media.JSON,), is_public=True, tag="health")
async def livez() -> Response:
    """The process answers. A liveness probe: restart it if this fails."""
    return _status("ok", 200)


@operation(router, "GET", "/readyz", "readyz", reply=HealthReply, produces=(media.JSON,), is_public=True, tag="health")
async def readyz(request: Request) -> Response:
    """Queries can be served: keys and galleries are known, and the service is not being stopped. A readiness probe."""
    return await _ready(request)


@operation(
    router, "GET", "/healthz", "healthz", reply=HealthReply, produces=(media.JSON,), is_public=True, tag="health"
)
async def healthz(request: Request) -> Response:
    """The same as /readyz."""
    return await _ready(request)


async def _ready(request: Request) -> Response:
    gateway: Gateway = request.scope[STATE].gateway
    if gateway.is_stopping:
        return _status("stopping", 503)
    control = "answers" if await gateway.readiness.is_control_there() else "away"
    if gateway.readiness.was_ready:
        return _status("ok", 200, control_plane=control)
    missing = "keys and galleries are not known yet" if control == "answers" else "the control plane does not answer"
    return _status(missing, 503, control_plane=control)


def _status(text: str, status: int, **more: str) -> Response:
    return Response(media.encode({"status": text, **more}, media.JSON), status, media_type=media.JSON)


@operation(router, "GET", "/metrics", "metrics", reply=None, produces=("text/plain",), tag="health")
async def metrics(call: Asked) -> Response:
    """Prometheus metrics of this gateway. Needs a key of the operator, of which one may be for metrics alone."""
    call.reader_of_metrics()
    gateway = call.gateway
    await gateway.overview.refresh()
    text = await asyncio.to_thread(gateway.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@operation(router, "GET", "/openapi.json", "openapi", reply=None, produces=(media.JSON,), is_public=True, tag="health")
async def document(request: Request) -> Response:
    """This document."""
    return Response(media.encode(openapi(request.app, request.app.version), media.JSON), media_type=media.JSON)
