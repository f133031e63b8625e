"""Walks folders of photos: `folder/<identity>/<photo>` or flat.

Owns which files are worth trying and whose they are; must not open them: content decides what is an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shard.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Photo:
    """A file that may be a photo, and the identity that its folder names (None in a flat folder)."""

    path: Path
    identity: str | None


def walk_photos(folder: str | os.PathLike[str]) -> Iterator[Photo]:
    """Every file below `folder`, sorted by path; those of a subfolder belong to the identity that its name states.

    Deeper folders belong to the identity at the top. Hidden files and folders (a leading dot) are passed over, links to
    folders are not followed. Every other file is given, whatever its suffix. Raises InvalidParameter where `folder`
    is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InvalidParameter(f"expected a folder of photos, got {root}")
    return _walk(root)


def _walk(root: Path) -> Iterator[Photo]:
    for path in _files(root):
        inside = path.relative_to(root).parts
        yield Photo(path, inside[0] if len(inside) > 1 else None)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _files(path)
        elif path.is_file():
            yield path
