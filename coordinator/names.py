"""Names that users give: of galleries and of tenants."""

from __future__ import annotations

import re

from shard.errors import InvalidParameter

_PART = r"[a-z0-9][a-z0-9._-]{0,62}"
_TENANT = re.compile(_PART)
_GALLERY = re.compile(f"{_PART}/{_PART}")


def check_gallery_name(name: str) -> str:
    """`tenant/gallery`, each of lower-case letters, digits, '.', '_', '-'; InvalidParameter otherwise."""
    if not isinstance(name, str) or not _GALLERY.fullmatch(name):
        raise InvalidParameter(
            f"gallery name: expected 'tenant/gallery' of lower-case letters, digits, '.', '_' and '-', each part at"
            f" most 63 long and starting with a letter or digit; got {name!r:.160}"
        )
    return name


def check_tenant_name(name: str) -> str:
    """One part of a gallery's name; InvalidParameter otherwise."""
    return _check_part(name, "tenant name")


def check_name_in_tenant(name: str) -> str:
    """A gallery's name without its tenant; InvalidParameter otherwise."""
    return _check_part(name, "gallery name within the tenant")


def tenant_name(gallery: str) -> str:
    """The tenant's part of a gallery's name."""
    return gallery.partition("/")[0]


def _check_part(name: str, what: str) -> str:
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise InvalidParameter(
            f"{what}: expected lower-case letters, digits, '.', '_' and '-', at most 63 of them, the first a letter or"
            f" digit; got {name!r:.80}"
        )
    return name
