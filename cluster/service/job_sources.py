"""Which files and URLs a job may read that was submitted over HTTP: those below the operator's roots, and no others.

A caller names what this machine then opens, with this machine's rights and from its place in the network. So there is
none by default (setting `bulk_sources`), and what is named has to be plainly below a root: what would have to be
understood first (dots, escapes, user names, links that lead out) is refused. The job looks again when it begins
(`cluster.bulk.allowed`); here a caller is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coordinator.tenant_types import TenantRecord
from shard.errors import PermissionDenied

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_PLAIN = re.compile(r"[^\x00-\x1f\x7f%?#\\@]+")
_QUERY = re.compile(r"[^\x00-\x20\x7f#\\]*")
MAX_SOURCE = 4_096


def allowed_source(source: str, roots: Sequence[str], tenant: TenantRecord, *, what: str) -> str:
    """The source as it came, if it is below a root; PermissionDenied otherwise, which names no root.

    roots: absolute paths and URLs; `{tenant}` in them stands for the tenant that the job is of, so that no tenant reads
    what is another's. A URL's query, which may say by which server it is reached, has to be its root's to the letter.
    what: the parameter, for messages.
    """
    scheme, parts, query = _split(source, what)
    for root in roots:
        root_scheme, root_parts, root_query = _split(root.replace("{tenant}", tenant.name), "bulk_sources")
        is_same = (scheme, query, parts[: len(root_parts)]) == (root_scheme, root_query, root_parts)
        if is_same and (scheme or _stays(parts, root_parts)):
            return source
    raise PermissionDenied(
        f"{what}: {source!r:.200} is not below what the operator lets jobs read over HTTP (setting bulk_sources)"
    )


def _split(source: str, what: str) -> tuple[str, list[str], str]:
    """Scheme, empty for a path; its parts, of which a URL's first is its host or bucket; its query."""
    at, _, query = source.partition("?") if "://" in source else (source, "", "")
    if len(source) > MAX_SOURCE or not _PLAIN.fullmatch(at) or not _QUERY.fullmatch(query):
        raise PermissionDenied(
            f"{what}: expected a path or URL of at most {MAX_SOURCE} characters, without any of # % @ \\"
            f" and control characters; got {source!r:.200}"
        )
    url = _URL.fullmatch(at)
    if url is None and not at.startswith("/"):
        raise PermissionDenied(f"{what}: expected an absolute path, or scheme://place/…; got {source!r:.200}")
    scheme, place, path = ("", None, at) if url is None else (url[1], url[2], url[3] or "")
    if scheme == "file" or place == "":
        raise PermissionDenied(f"{what}: expected an absolute path, or scheme://place/…; got {source!r:.200}")
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise PermissionDenied(f"{what}: expected no '.' and '..' in it, got {source!r:.200}")
    return scheme, parts if place is None else [place, *parts], query


def _stays(parts: Sequence[str], root: Sequence[str]) -> bool:
    """Whether a path is below its root also when links are followed; links into the root itself are the operator's."""
    place = Path("/", *root).resolve()
    found = Path("/", *parts).resolve()
    return found == place or place in found.parents
