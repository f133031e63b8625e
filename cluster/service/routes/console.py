"""The console: a page and its files, read once, under a strict content security policy."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fastapi import APIRouter, Response

from cluster.service.operations import operation
from cluster.service.problems import HttpProblem

router = APIRouter()
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "gallery.js": "text/javascript; charset=utf-8",
    "jobs.js": "text/javascript; charset=utf-8",
    "duplicates.js": "text/javascript; charset=utf-8",
    "apply.js": "text/javascript; charset=utf-8",
    "pictures.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


@operation(router, "GET", "/console", "console", reply=None, produces=("text/html",), is_public=True, tag="console")
async def page() -> Response:
    """The console's page. It signs in with a key, which stays in the browser's tab."""
    return _file("index.html")


@operation(
    router,
    "GET",
    "/console/{name}",
    "console.file",
    reply=None,
    produces=("text/plain",),
    is_public=True,
    tag="console",
)
async def file(name: str) -> Response:
    """A file of the console's page."""
    if name not in _FILES:
        raise HttpProblem(404, "no_such_path", "Not Found")
    return _file(name)


def _file(name: str) -> Response:
    return Response(_read(name), media_type=_FILES[name], headers=_HEADERS)


@cache
def _read(name: str) -> bytes:
    return resources.files("cluster.service").joinpath(f"console/{name}").read_bytes()
