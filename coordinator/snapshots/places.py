"""Where a snapshot store is: a local directory, or any file system that pyarrow has, such as S3.

A `Place` reads, writes, lists and removes small whole files by their path below it. A file that is there is complete:
it appears under its name when all of it is durable. Knows nothing of what the files mean.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from shard.errors import InvalidParameter, MissingExtra, StoreUnavailable
from shard.files import make_directory, remove_file, sync_directory, write_file

_ATOMIC_TYPES = {"s3", "gcs", "abfs"}
"""File systems of pyarrow whose files appear when they are closed; elsewhere a file is moved to its name."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp$")
_ABANDONED_S = 24 * 3_600


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file below a place: path with `/` between its parts, size in bytes."""

    path: str
    size: int


class Place(Protocol):
    """Whole files by path. Every method raises StoreUnavailable where the place does not answer or refuses."""

    @property
    def url(self) -> str:
        """Where it is, without secrets."""

    def read(self, path: str) -> bytes | None:
        """All of a file, None if it is not there."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; durable when it returns."""

    def size(self, path: str) -> int | None:
        """Size in bytes, None if the file is not there."""

    def files(self, below: str) -> list[PlacedFile]:
        """Every file below a directory, at any depth, sorted by path; none if there is no such directory."""

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""


def open_place(url: str | Path) -> Place:
    """The place at a path or URL: `backup/`, `file:///backup`, `s3://bucket/prefix?region=…`.

    Query parameters of an S3 URL are pyarrow's (`endpoint_override`, `scheme`, `region`); credentials are found as the
    AWS SDK finds them. InvalidParameter for a URL that is none, MissingExtra without pyarrow.
    """
    text = str(url)
    if "://" not in text:
        if not text:
            raise InvalidParameter("snapshot store: expected a directory or a URL, got an empty text")
        return LocalPlace(Path(text))
    parts = urlsplit(text)
    if parts.scheme == "file":
        if parts.netloc:
            raise InvalidParameter(f"snapshot store: expected file:///path, got {text!r}")
        return LocalPlace(Path(unquote(parts.path)))
    return ArrowPlace.open(text)


def public_url(url: str) -> str:
    """The URL without what may be a secret: user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def below(url: str, folder: str) -> str:
    """The path or URL of a folder of a place; parameters of the URL stay at its end."""
    if "://" not in url:
        return f"{url.rstrip('/')}/{folder}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{folder}"))


class LocalPlace:
    """A directory of this machine, made with the first file. Files are readable by their owner alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()

    @property
    def url(self) -> str:
        """The absolute path."""
        return str(self._directory)

    def file(self, path: str) -> Path:
        """The file itself, for those who map it."""
        return self._directory / path

    def read(self, path: str) -> bytes | None:
        """See Place.read."""
        with self._reporting("read", path):
            try:
                return (self._directory / path).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """See Place.write; WriteFailed if the disk fails."""
        target = self._directory / path
        make_directory(target.parent)
        # Two processes may write the same object at once.
        write_file(target, data, suffix=f".{secrets.token_hex(8)}.tmp")

    def size(self, path: str) -> int | None:
        """See Place.size."""
        with self._reporting("look at", path):
            try:
                return (self._directory / path).stat().st_size
            except FileNotFoundError:
                return None

    def files(self, below: str) -> list[PlacedFile]:
        """See Place.files. Unfinished writes of processes that died a day ago are removed on the way."""
        found: list[PlacedFile] = []
        with self._reporting("list", below):
            for path in sorted((self._directory / below).rglob("*")):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if _TEMPORARY.search(path.name):
                        if path.stat().st_mtime < time.time() - _ABANDONED_S:
                            remove_file(path)
                    elif path.is_file():
                        found.append(PlacedFile(path.relative_to(self._directory).as_posix(), path.stat().st_size))
        return found

    def remove(self, path: str) -> None:
        """See Place.remove; durable when it returns."""
        target = self._directory / path
        remove_file(target)
        if target.parent.is_dir():
            sync_directory(target.parent)

    @contextlib.contextmanager
    def _reporting(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"could not {action} {self._directory / path}: {error.strerror or error}") from error


class ArrowPlace:
    """A directory of a pyarrow file system."""

    def __init__(self, filesystem: Any, directory: str, url: str) -> None:
        """url: without secrets. Use `open`."""
        self._fs, self._directory, self._url = filesystem, directory.rstrip("/"), url

    @classmethod
    def open(cls, url: str) -> ArrowPlace:
        """The place of a URL that pyarrow understands."""
        fs = pyarrow().fs
        try:
            filesystem, directory = fs.FileSystem.from_uri(url)
        except (ValueError, OSError) as error:
            # The message may repeat the URL with its secrets.
            reason = str(error).replace(url, public_url(url))
            raise InvalidParameter(f"snapshot store {public_url(url)!r}: {reason}") from None
        if not directory.strip("/"):
            raise InvalidParameter(f"snapshot store {public_url(url)!r}: expected a bucket, s3://bucket/prefix")
        return cls(filesystem, directory, public_url(url))

    @property
    def url(self) -> str:
        """The URL, without secrets."""
        return self._url

    def read(self, path: str) -> bytes | None:
        """See Place.read."""
        with self._reporting("read", path):
            try:
                with self._fs.open_input_file(self._at(path)) as file:
                    data: bytes = file.read()
            except FileNotFoundError:
                return None
        return data

    def write(self, path: str, data: bytes) -> None:
        """See Place.write. What a failed write may leave of a file has another size than was meant."""
        target = self._at(path)
        with self._reporting("write", path):
            if self._fs.type_name in _ATOMIC_TYPES:
                self._write(target, data)
                return
            self._fs.create_dir(target.rpartition("/")[0], recursive=True)
            temporary = f"{target}.{secrets.token_hex(8)}.tmp"
            self._write(temporary, data)
            self._fs.move(temporary, target)

    def _write(self, target: str, data: bytes) -> None:
        with self._fs.open_output_stream(target) as file:
            file.write(data)

    def size(self, path: str) -> int | None:
        """See Place.size."""
        fs = pyarrow().fs
        with self._reporting("look at", path):
            (info,) = self._fs.get_file_info([self._at(path)])
        return int(info.size) if info.type == fs.FileType.File else None

    def files(self, below: str) -> list[PlacedFile]:
        """See Place.files."""
        fs = pyarrow().fs
        selector = fs.FileSelector(self._at(below), recursive=True, allow_not_found=True)
        with self._reporting("list", below):
            found = self._fs.get_file_info(selector)
        return sorted(
            (
                PlacedFile(info.path[len(self._directory) + 1 :], int(info.size))
                for info in found
                if info.type == fs.FileType.File and not _TEMPORARY.search(info.path)
            ),
            key=lambda file: file.path,
        )

    def remove(self, path: str) -> None:
        """See Place.remove."""
        with self._reporting("remove", path), contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self._directory}/{path}"

    @contextlib.contextmanager
    def _reporting(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # pyarrow's own errors are of these
            raise StoreUnavailable(f"could not {action} {path!r} of {self._url}: {error}") from error


def pyarrow() -> ModuleType:
    """pyarrow with `fs` and `parquet`; MissingExtra where it is not installed."""
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow is not installed; pip install 'facegrid[snapshots]'") from error
    module: ModuleType = pyarrow
    return module
