"""Where a shard host keeps the shards of a gallery: the one place that turns a gallery's id into a path and back.

    <host>/tenants/<tenant id>/<16 hex>/shard-0000/     of the gallery <tenant id>-<16 hex>
    <host>/galleries/<16 hex>/shard-0000/               of a gallery that was made before tenants had directories

A tenant id is 8 hex digits and never given again, so that a tenant that is dropped and created again under its name has
other directories.
"""

from __future__ import annotations

import re
from pathlib import Path

from shard.errors import InvalidParameter

_GALLERY_ID = re.compile(r"(?:([0-9a-f]{8})-)?([0-9a-f]{16})")


def tenant_of(gallery_id: str) -> str | None:
    """The tenant id within a gallery's id; None for one of the old form.

    Raises InvalidParameter for anything else: it becomes a path, and one that is removed on demand.
    """
    return _parts(gallery_id)[0]


def gallery_directory(host: Path, gallery_id: str) -> Path:
    """Where the host whose directory is `host` keeps a gallery; InvalidParameter for what is no gallery id."""
    tenant_id, own = _parts(gallery_id)
    return host / "galleries" / own if tenant_id is None else host / "tenants" / tenant_id / own


def shard_directory(host: Path, gallery_id: str, number: int) -> Path:
    """Where a host keeps one shard; InvalidParameter for what is no gallery id."""
    return gallery_directory(host, gallery_id) / f"shard-{number:04d}"


def gallery_directories(host: Path) -> dict[str, Path]:
    """Gallery id to its directory, of every gallery that has one on the host, by id."""
    paths = [*(host / "galleries").glob("*"), *(host / "tenants").glob("*/*")]
    named = {
        path.name if path.parent == host / "galleries" else f"{path.parent.name}-{path.name}": path for path in paths
    }
    return {gallery_id: named[gallery_id] for gallery_id in sorted(named) if _GALLERY_ID.fullmatch(gallery_id)}


def shards_on(host: Path) -> list[tuple[str, int]]:
    """(gallery id, number) of every shard that has a directory on the host, in order."""
    return [
        (gallery_id, int(path.name.removeprefix("shard-")))
        for gallery_id, directory in gallery_directories(host).items()
        for path in sorted(directory.glob("shard-*"))
    ]


def _parts(gallery_id: str) -> tuple[str | None, str]:
    found = _GALLERY_ID.fullmatch(gallery_id)
    if found is None:
        raise InvalidParameter(
            f"gallery id: expected 16 hexadecimal digits, after 8 of its tenant's and '-', got {gallery_id!r:.80}"
        )
    return found.group(1), found.group(2)
