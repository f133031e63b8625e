"""The application: routes, error answers, and the shell around them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cluster.service import problems
from cluster.service.calls import first_fault
from cluster.service.gateway import Gateway
from cluster.service.operations import hot_routes
from cluster.service.problems import HttpProblem
from cluster.service.routes import (
    calibration,
    console,
    faces,
    galleries,
    health,
    hosts,
    identities,
    job_results,
    jobs,
    photos,
    reviews,
    search,
    snapshots,
    tenants,
)
from cluster.service.shell import STATE, App, Exchange, Shell
from coordinator.kept import installed_version
from shard.errors import FacegridError, InvalidParameter

MODULES = (
    health,
    tenants,
    galleries,
    photos,
    faces,
    search,
    identities,
    calibration,
    snapshots,
    jobs,
    job_results,
    reviews,
    hosts,
    console,
)


def build_app(gateway: Gateway) -> App:
    """The ASGI application of a gateway. The gateway is closed by whoever made it, after the server has stopped."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        kept = (gateway.keep_audit(), gateway.keep_learned(), gateway.replies.keep_told())
        keeping = [asyncio.create_task(one) for one in kept]
        yield
        gateway.is_stopping = True
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)

    app = FastAPI(
        title="Facegrid", version=installed_version(), lifespan=lifespan,
        openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    for module in MODULES:
        app.include_router(module.router)
    app.router.routes[:0] = hot_routes()
    app.add_exception_handler(FacegridError, _refused)
    app.add_exception_handler(HttpProblem, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _refused)  # else Starlette answers a bug by itself, and nobody logs it
    return Shell(app, gateway)


def _answer(request: Request, error: BaseException) -> Response:
    exchange: Exchange = request.scope[STATE]
    problem = problems.problem_of(error)
    exchange.code = problem.code
    answer = Response(problems.document(problem, exchange.request_id), problem.status)
    for name, value in problems.headers(problem):
        answer.headers[name.decode()] = value.decode()
    return answer


async def _refused(request: Request, error: Exception) -> Response:
    return _answer(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    """A path or query parameter of the wrong form."""
    assert isinstance(error, RequestValidationError)
    return _answer(request, InvalidParameter(first_fault(error.errors())))


async def _unrouted(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    code = {404: "no_such_path", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    answer = _answer(request, HttpProblem(error.status_code, code, str(error.detail)))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer
