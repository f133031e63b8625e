"""How a route is declared: its operation id, its bodies and answers for the OpenAPI document, and its problems.

Handlers read bodies themselves (`Call.read`), since FastAPI knows no msgpack; what they read is declared here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from cluster.service import media
from cluster.service.calls import Call
from cluster.service.schemas import Problem
from cluster.service.shell import STATE

Handler = Callable[..., Any]
_PROBLEMS = {
    400: "The request cannot be read.",
    401: "No valid key.",
    403: "The key's scopes or the tenant's quotas do not allow it.",
    404: "It is not there, or not the key's to know of.",
    409: "It contradicts what is there.",
    413: "The body is too large.",
    415: "Another media type was expected.",
    422: "A value is out of range.",
    429: "Too many requests; see Retry-After.",
    500: "A fault of the service.",
    501: "This installation lacks an extra.",
    503: "Not available now.",
    504: "The deadline passed.",
}
_HOT: list[tuple[str, str, str, Handler]] = []
_BODIES: dict[str, type[BaseModel]] = {}
_REFERENCE = "#/components/schemas/{model}"


def operation(
    router: APIRouter,
    method: str,
    path: str,
    name: str,
    *,
    reply: type[BaseModel] | None,
    body: type[BaseModel] | None = None,
    status: int = 200,
    images: bool = False,
    produces: Sequence[str] = (media.JSON, media.MSGPACK),
    is_public: bool = False,
    is_hot: bool = False,
    tag: str,
) -> Callable[[Handler], Handler]:
    """Declare a route. name: its operation id, which metrics and the audit log use too.

    body, reply: models of the bodies. images: the body may be an encoded image instead. The handler's docstring is the
    description. is_hot: see `hot_routes`; the handler takes the call, and no parameters but those of the path.
    """
    problems = {
        code: {"description": text, "content": {"application/problem+json": {"schema": _reference(Problem)}}}
        for code, text in _PROBLEMS.items()
        if not (is_public and code in (401, 403))
    }
    good: dict[str, Any] = {"description": "Done."}
    if reply is not None:
        good["content"] = {kind: {"schema": _reference(reply)} for kind in produces}
    elif produces != (media.JSON, media.MSGPACK):
        good["content"] = {kind: {"schema": {"type": "string"}} for kind in produces}
    extra: dict[str, Any] = {"responses": {str(status): good, **{str(k): v for k, v in problems.items()}}}
    if body is not None or images:
        extra["requestBody"] = _request_body(body, images)
    if is_public:
        extra["security"] = []

    def declare(handler: Handler) -> Handler:
        router.add_api_route(
            path,
            handler,
            methods=[method],
            name=name,
            operation_id=name,
            status_code=status,
            summary=(handler.__doc__ or name).strip().split("\n", 1)[0],
            tags=[tag],
            openapi_extra=extra,
            response_model=None,
        )
        if is_hot:
            _HOT.append((router.prefix + path, method, name, handler))
        return handler

    return declare


def hot_routes() -> list[Route]:
    """Routes of hot operations without FastAPI's dependencies, to be asked first: a third of a search's cost.

    They are in FastAPI's router too, which documents them.
    """

    def endpoint(name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            answered: Response = await handler(Call(request, request.scope[STATE], name), **request.path_params)
            return answered

        return answer

    return [Route(path, endpoint(name, handler), methods=[method], name=name) for path, method, name, handler in _HOT]


def _request_body(body: type[BaseModel] | None, images: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if body is not None:
        examples = body.model_json_schema(ref_template=_REFERENCE).get("examples", [])
        for kind in (media.JSON, media.MSGPACK):
            content[kind] = {"schema": _reference(body)}
            if examples and kind == media.JSON:
                content[kind]["example"] = examples[0]
    if images:
        for kind in media.IMAGES:
            content[kind] = {"schema": {"type": "string", "contentMediaType": kind}}
    return {"required": True, "content": content}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    _BODIES[model.__name__] = model
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def openapi(app: FastAPI, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes and of the bodies that they declared."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="Facegrid",
            version=version,
            openapi_version="3.1.0",
            description="Face search in sharded, multi-tenant galleries. Every answer has an X-Request-Id.",
            routes=app.routes,
        )
        models = [(model, "validation") for model in _BODIES.values()]
        _, found = models_json_schema(models, ref_template=_REFERENCE)  # type: ignore[arg-type]
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(found["$defs"])
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "bearerFormat": "fg_<id>_<secret>"}
        }
        document["security"] = [{"key": []}]
        _drop_validation_errors(document)
        app.openapi_schema = document
    return app.openapi_schema


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """FastAPI's own form of errors, which never leaves this service."""
    schemas = document["components"]["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for methods in document["paths"].values():
        for said in methods.values():
            said["responses"].get("422", {}).get("content", {}).pop(media.JSON, None)
