"""Which files and URLs a job may read that was submitted over HTTP: those below the operator's roots, and no others.

A caller names what this machine then opens, with this machine's rights and from its place in the network. So there is
none by default (setting `job_sources`), and what is named has to be plainly below a root: what would have to be
understood first (dots, escapes, queries, users, links that lead out) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coordinator.tenant_types import TenantRecord
from shard.errors import InvalidParameter, PermissionDenied

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_PLAIN = re.compile(r"[^\x00-\x1f\x7f%?#\\@]+")
MAX_SOURCE = 1_024


def checked_roots(roots: Sequence[str]) -> tuple[str, ...]:
    """The setting `job_sources`; InvalidParameter for what is neither an absolute path nor a plain URL."""
    for root in roots:
        shown = root.replace("{tenant}", "t").replace("{tenant_id}", "t")
        try:
            _split(shown, "job_sources")
        except PermissionDenied as error:
            raise InvalidParameter(str(error)) from None
    return tuple(roots)


def allowed_source(source: str, roots: Sequence[str], tenant: TenantRecord | None, *, what: str) -> str:
    """The source as it came, if it is below a root; PermissionDenied otherwise, which names no root.

    roots: absolute paths and URLs; `{tenant}` and `{tenant_id}` in them stand for the tenant that the job is of, so
    that no tenant reads what is another's. what: the parameter, for messages.
    """
    scheme, parts = _split(source, what)
    for root in roots:
        if tenant is None and "{tenant" in root:
            continue
        if tenant is not None:
            root = root.replace("{tenant}", tenant.name).replace("{tenant_id}", tenant.tenant_id)
        root_scheme, root_parts = _split(root, "job_sources")
        if (scheme, parts[: len(root_parts)]) == (root_scheme, root_parts) and _stays(scheme, parts, root_parts):
            return source
    raise PermissionDenied(
        f"{what}: {source!r:.200} is not below what the operator lets jobs read over HTTP (setting job_sources)"
    )


def _split(source: str, what: str) -> tuple[str, list[str]]:
    """Scheme, empty for a path, and the parts of it; a URL's first part is its host or bucket."""
    if len(source) > MAX_SOURCE or not _PLAIN.fullmatch(source):
        raise PermissionDenied(
            f"{what}: expected a path or URL of at most {MAX_SOURCE} characters, without any of ? # % @ \\"
            f" and control characters; got {source!r:.200}"
        )
    url = _URL.fullmatch(source)
    if url is None and not source.startswith("/"):
        raise PermissionDenied(f"{what}: expected an absolute path, or scheme://place/…; got {source!r:.200}")
    scheme, place, path = ("", None, source) if url is None else (url[1], url[2], url[3] or "")
    if scheme == "file" or place == "":
        raise PermissionDenied(f"{what}: expected an absolute path, or scheme://place/…; got {source!r:.200}")
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise PermissionDenied(f"{what}: expected no '.' and '..' in it, got {source!r:.200}")
    return scheme, parts if place is None else [place, *parts]


def _stays(scheme: str, parts: Sequence[str], root: Sequence[str]) -> bool:
    """Whether a path is below its root also when links are followed; links into the root itself are the operator's."""
    if scheme:
        return True
    place = Path("/", *root).resolve()
    found = Path("/", *parts).resolve()
    return found == place or place in found.parents
