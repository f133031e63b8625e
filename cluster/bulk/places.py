"""Files of sources: of this machine, or of any file system that pyarrow has, such as S3. Read only.

Owns listing, globs and opening; knows nothing of what is in the files. What is read has to be what was listed: a link
is never followed, and a file of another size or time is said to have changed.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from coordinator.snapshots.places import public_url, pyarrow
from shard.errors import InvalidFile, InvalidParameter, StoreUnavailable

_GLOB = set("*?[")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a source as it was listed. path: as its file system names it. modified: ns since 1970, 0 if unknown.

    is_link: a symbolic link, which nobody opens.
    """

    path: str
    size: int
    modified: int
    is_link: bool = False


class SourceFiles:
    """The file system that a source's URL names."""

    def __init__(self, url: str) -> None:
        """InvalidParameter for a URL that is none or has credentials in it, MissingExtra without pyarrow."""
        self.url = url
        parts = urlsplit(url) if "://" in url else None
        self._fs: Any = None
        if parts is None:
            self.path = str(Path(url).absolute())
        elif parts.scheme == "file":
            if parts.netloc:
                raise InvalidParameter(f"source: expected file:///path, got {url!r}")
            self.path = str(Path(unquote(parts.path)))
        else:
            self._fs, self.path = _arrow_fs(url)

    @property
    def is_local(self) -> bool:
        """Whether it is this machine's."""
        return self._fs is None

    def is_directory(self) -> bool:
        """Whether the source's path is a directory, or a prefix of objects."""
        if self.is_local:
            return Path(self.path).is_dir()
        return bool(self._info([self.path])[0].type == pyarrow().fs.FileType.Directory)

    def matches(self) -> list[ListedFile]:
        """The files that the source's path or glob names, by path. InvalidParameter if there are none."""
        found = list(self._glob()) if _GLOB & set(self.path) else self._one(self.path)
        if not found:
            raise InvalidParameter(f"source {self.url!r}: nothing is there")
        return sorted(found, key=lambda file: file.path)

    def below(self) -> list[ListedFile]:
        """Every file below the source's directory, by path; those whose name, or a folder's, has a leading dot not."""
        found = self._walk_local(Path(self.path)) if self.is_local else self._walk_remote(self.path)
        root = len(self.path.rstrip("/")) + 1
        return sorted((f for f in found if not _is_hidden(f.path[root:])), key=lambda file: file.path.split("/"))

    def stat(self, path: str) -> ListedFile:
        """A file as it is now; InvalidFile if it is not there."""
        found = self._one(path)
        if not found:
            raise InvalidFile(f"{path}: is not there")
        return found[0]

    def open(self, file: ListedFile) -> BinaryIO:
        """To read and seek. InvalidFile if it is a link or not what was listed, StoreUnavailable."""
        if self.is_local:
            return _open_local(file)
        try:
            opened = self._fs.open_input_file(file.path)
            size = opened.size()
        except FileNotFoundError:
            raise InvalidFile(f"{file.path}: is not there any more") from None
        except (OSError, ValueError) as error:
            raise StoreUnavailable(f"could not read {file.path}: {error}") from error
        if size != file.size:
            opened.close()
            raise InvalidFile(f"{file.path}: has changed since the job listed it")
        return cast(BinaryIO, opened)

    def _one(self, path: str) -> list[ListedFile]:
        if not self.is_local:
            return [_listed(info) for info in self._info([path]) if info.type == pyarrow().fs.FileType.File]
        try:
            return [_listed_local(path)]
        except OSError:
            return []

    def _info(self, paths: Any) -> Any:
        try:
            return self._fs.get_file_info(paths)
        except (OSError, ValueError) as error:
            raise StoreUnavailable(f"could not list {public_url(self.url)}: {error}") from error

    def _glob(self) -> Iterator[ListedFile]:
        parts = self.path.split("/")
        first = next(i for i, part in enumerate(parts) if _GLOB & set(part))
        root = "/".join(parts[:first])
        found = self._walk_local(Path(root or "/")) if self.is_local else self._walk_remote(root)
        for file in found:
            names = file.path.split("/")
            if len(names) == len(parts) and all(map(fnmatch.fnmatchcase, names[first:], parts[first:])):
                yield file

    def _walk_local(self, folder: Path) -> Iterator[ListedFile]:
        for directory, folders, names in os.walk(folder):
            folders.sort()
            for name in names:
                yield _listed_local(os.path.join(directory, name))

    def _walk_remote(self, root: str) -> Iterator[ListedFile]:
        fs = pyarrow().fs
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        return (_listed(info) for info in self._info(selector) if info.type == fs.FileType.File)


def shown_url(url: str) -> str:
    """A source's URL as results name it: without query, which says where a server is, and without secrets."""
    return url if "://" not in url else urlunsplit(urlsplit(public_url(url))._replace(query=""))


@lru_cache(maxsize=64)
def _arrow_fs(url: str) -> tuple[Any, str]:
    shown = public_url(url)
    if urlsplit(url).netloc.count("@"):
        raise InvalidParameter(f"source {shown!r}: credentials come from the environment, not from the URL")
    try:
        # A glob's ? would begin the query, and its [ a host's address.
        filesystem, path = pyarrow().fs.FileSystem.from_uri(_without_glob(url))
    except (ValueError, OSError) as error:
        raise InvalidParameter(f"source {shown!r}: {error}") from None
    if not path.strip("/"):
        raise InvalidParameter(f"source {shown!r}: expected a bucket, s3://bucket/prefix")
    parts = urlsplit(url)
    return filesystem, f"{parts.netloc}{unquote(parts.path)}".rstrip("/") if parts.scheme == "s3" else path.rstrip("/")


def _without_glob(url: str) -> str:
    parts = urlsplit(url)
    kept = [part for part in parts.path.split("/") if not _GLOB & set(part)]
    return urlunsplit(parts._replace(path="/".join(kept)))


def _listed(info: Any) -> ListedFile:
    return ListedFile(info.path, int(info.size), int(info.mtime_ns or 0))


def _listed_local(path: str) -> ListedFile:
    found = os.lstat(path)
    return ListedFile(path, found.st_size, found.st_mtime_ns, not stat.S_ISREG(found.st_mode))


def _open_local(file: ListedFile) -> BinaryIO:
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidFile(f"{file.path}: cannot be read: {reason}") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (file.size, file.modified):
        os.close(fd)
        raise InvalidFile(f"{file.path}: has changed since the job listed it")
    return os.fdopen(fd, "rb")


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
