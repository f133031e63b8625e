"""Which sources a job may read that was asked for with an API key: a tenant must not name any file of the server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from cluster.bulk.parameters import Source, Work
from shard.errors import PermissionDenied

TENANT = "{tenant}"


def check_allowed(work: Work, tenant: str, roots: Sequence[str]) -> None:
    """PermissionDenied if a source is below none of the roots: directories, or URLs, with {tenant} for its name.

    A URL's query, which says by which server it is reached, must be that of its root.
    """
    places = [root.replace(TENANT, tenant) for root in roots]
    for source in work.sources:
        for url in _urls(source):
            if not any(_is_below(url, root) for root in places):
                raise PermissionDenied(
                    f"source {url!r}: jobs of API keys may read what the setting bulk_sources names, which has no such"
                    " place"
                )


def _urls(source: Source) -> Iterator[str]:
    for url in (source.url, source.manifest, source.labels, source.identities, source.template_ids):
        if url is not None:
            yield url


def _is_below(url: str, root: str) -> bool:
    if ("://" in url) != ("://" in root):
        return False
    if "://" not in url:
        real = os.path.realpath(root)
        return os.path.commonpath([os.path.realpath(url), real]) == real
    at, place = urlsplit(url), urlsplit(root)
    same_server = (at.scheme, at.netloc, at.query) == (place.scheme, place.netloc, place.query)
    below = place.path.rstrip("/") + "/"
    return same_server and ".." not in at.path.split("/") and (at.path.rstrip("/") + "/").startswith(below)
