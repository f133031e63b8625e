"""`Call`: one request as a route sees it. What it may do is asked here, and nowhere else.

Another tenant's gallery is not there (404), whatever else is wrong with the request; a scope that is missing within
the own tenant is refused (403).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ValidationError

from cluster.service import media
from cluster.service.auth import Principal
from cluster.service.gateway import Gateway
from cluster.service.shell import STATE, Exchange, audit_entry
from coordinator.names import check_gallery_name
from coordinator.tenant_types import METRICS
from shard.errors import (
    InvalidParameter,
    PermissionDenied,
    Unauthenticated,
    UnknownGallery,
    UnknownTenant,
)

if TYPE_CHECKING:
    from cluster.gallery import Gallery

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)


class Call:
    """One request: who asks, for what, and how the answer is written."""

    def __init__(self, request: Request, exchange: Exchange, operation: str) -> None:
        self.request = request
        self.exchange = exchange
        self.gateway: Gateway = exchange.gateway
        exchange.operation = operation

    @property
    def principal(self) -> Principal:
        """Who asks. Unauthenticated where the shell let somebody pass without a key."""
        if self.exchange.principal is None:
            raise Unauthenticated("expected an API key in the header `Authorization: Bearer <key>`, got none")
        return self.exchange.principal

    # What may be done

    def operator(self) -> None:
        """PermissionDenied unless the key is the operator's."""
        if self.principal.key.tenant is not None or "admin" not in self.principal.key.scopes:
            raise PermissionDenied("this needs a key of the operator")

    def reader_of_metrics(self) -> None:
        """PermissionDenied unless the key is the operator's: one that may do all, or one that is for metrics."""
        if METRICS not in self.principal.key.scopes:
            self.operator()

    async def tenant(self, name: str) -> str:
        """Manage a tenant, or read about it: UnknownTenant for another's, PermissionDenied without the scope admin."""
        key = self.principal.key
        self.exchange.tenant = name
        if key.tenant is None:
            if "admin" not in key.scopes:
                raise PermissionDenied("this needs a key with the scope admin")
            return name
        if key.tenant != name:
            self.exchange.tenant = key.tenant
            raise UnknownTenant(f"no tenant {name!r:.80}")
        if "admin" not in key.scopes or key.galleries:
            raise PermissionDenied("this needs a key of the tenant with the scope admin, bound to no gallery")
        present = await self.run(lambda: self.gateway.cluster.tenants.get(name), kind="lookup")
        if present.tenant_id != key.tenant_id:  # made again under the name; the key is of the one before
            raise UnknownTenant(f"no tenant {name!r}")
        return name

    def gallery_name(self, scope: str) -> str:
        """The gallery that the path names, if the key may do this with it."""
        params = self.request.path_params
        return self.named_gallery(f"{params['tenant']}/{params['gallery']}", scope)

    def named_gallery(self, name: str, scope: str) -> str:
        """A gallery by name, if the key may do this with it.

        UnknownGallery where it is not the key's to know of, or a name that no gallery can have.
        """
        try:
            check_gallery_name(name)
        except InvalidParameter:
            raise UnknownGallery(f"no gallery {name!r:.160}") from None
        key = self.principal.key
        tenant, _, own = name.partition("/")
        if (key.tenant is not None and key.tenant != tenant) or (key.galleries and own not in key.galleries):
            raise UnknownGallery(f"no gallery {name!r}")
        self.exchange.gallery = name
        if not key.allows(scope, name):
            raise PermissionDenied(f"this needs a key with the scope {scope}; this one has {', '.join(key.scopes)}")
        return name

    async def gallery(self, scope: str) -> Gallery:
        """The gallery that the path names, open; UnknownGallery, PermissionDenied."""
        return await self.gateway.gallery(self.principal, self.gallery_name(scope))

    # What came

    @property
    def body(self) -> bytes:
        """The body as it came, inflated."""
        return self.exchange.body

    @property
    def body_type(self) -> str:
        """Its media type."""
        value = self.request.headers.get("content-type")
        return media.content_type(None if value is None else value.encode("latin-1"))

    def read(self, model: type[ModelT]) -> ModelT:
        """The body as a model of `schemas`; HttpProblem 400 or 415, InvalidParameter naming the first wrong field."""
        return checked(model, media.decode(self.body, self.body_type) if self.body else {})

    # What is done

    async def run(self, call: Callable[[], T], *, kind: str = "work") -> T:
        """A blocking call of the library, when it is the tenant's turn."""
        try:
            return await self.gateway.run(self.principal, kind, call)
        except UnknownGallery:
            if self.exchange.gallery is not None:
                self.gateway.forget_gallery(self.exchange.gallery)
            raise

    async def audit_now(self, count: int | None = None) -> None:
        """Have what was done in the audit log before it is answered."""
        self.exchange.count = count
        self.exchange.is_audited = True
        self.gateway.audit(audit_entry(self.exchange))
        await asyncio.to_thread(self.gateway.write_audit)

    def reply(self, value: Any, status: int = 200) -> Response:
        """The answer in the media type that was asked for."""
        accept = self.request.headers.get("accept")
        kind = media.accepted(None if accept is None else accept.encode("latin-1"))
        return Response(media.encode(value, kind), status, media_type=kind)


def checked(model: type[ModelT], values: dict[str, Any]) -> ModelT:
    """Values as a model; InvalidParameter that names the first wrong field, what was expected and what came."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidParameter(first_fault(error.errors())) from None


def first_fault(faults: Any) -> str:
    """One line of what pydantic found first."""
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"]) or "body"
    got = fault.get("input")
    shown = f", got {got!r:.80}" if isinstance(got, (str, int, float, bool)) else ""
    return f"{where}: {fault['msg']}{shown}"


async def begin(request: Request) -> Call:
    """The call of a request."""
    return Call(request, request.scope[STATE], request.scope["route"].operation_id)


Asked = Annotated[Call, Depends(begin)]
