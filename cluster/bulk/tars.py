"""Photos in tar archives, plain or gzipped: an index of members, and their bytes.

    person/photo.jpg          the folder names the identity, as in a folder of photos
    000123.jpg, 000123.json   WebDataset: an object of identity, template_id and metadata beside the photo,
    000123.jpg, 000123.cls    or its identity as text

A member whose name leads out of the archive, that is a link, a device, or too large, is refused and never read; so is
what follows in an archive that is damaged or grows beyond all reason when it is decompressed.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import BinaryIO, cast

from cluster.bulk.items import Item
from cluster.bulk.places import ListedFile, SourceFiles
from cluster.bulk.tar_headers import DamagedTar, Member, members
from cluster.images import source_text
from shard.errors import InvalidFile

SIDECARS = (".json", ".cls")
MAX_SIDECAR = 1 << 17
RATIO_FROM = 16 << 20
"""Bytes of an archive that are decompressed before their ratio counts."""
_CHUNK = 1 << 20
_BROKEN = (EOFError, OSError, zlib.error)


class TarStream:
    """An archive that is read forward, decompressed where it is gzipped."""

    def __init__(self, files: SourceFiles, file: ListedFile, max_ratio: float) -> None:
        """max_ratio: of decompressed to compressed bytes."""
        self._closing = ExitStack()
        self._raw: BinaryIO = self._closing.enter_context(files.open(file))
        self.is_compressed = is_gzip(file.path)
        self._data = self._raw
        if self.is_compressed:
            self._data = cast(BinaryIO, self._closing.enter_context(gzip.GzipFile(fileobj=self._raw)))
        self._max_ratio, self._size = max_ratio, file.size
        self.position = 0

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end; DamagedTar."""
        try:
            data = self._data.read(size)
        except _BROKEN as error:
            raise DamagedTar(f"cannot be read on from byte {self.position}: {error}", reason="damaged") from error
        self.position += len(data)
        if self.is_compressed and self.position > max(RATIO_FROM, self._max_ratio * self._raw.tell()):
            raise DamagedTar(
                f"became more than {self._max_ratio:g} times its size at byte {self._raw.tell()}",
                reason="decompression_bomb",
            )
        return data

    def skip_to(self, position: int) -> None:
        """Go on there; DamagedTar if that is beyond the end, or before here."""
        if position < self.position:
            raise DamagedTar(f"expected a position from {self.position} on, got {position}", reason="damaged")
        if not self.is_compressed:
            if position > self._size:
                raise DamagedTar(f"ends at byte {self._size} within a member", reason="truncated")
            if position > self.position:
                self._raw.seek(position)
                self.position = position
        while self.position < position:
            if not self.read(min(_CHUNK, position - self.position)):
                raise DamagedTar(f"ends at byte {self.position} within a member", reason="truncated")

    def close(self) -> None:
        """Close the file."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member with its name's parts put right, and the text of a sidecar."""

    name: str
    member: Member
    sidecar: bytes | None = None
    reason: str | None = None
    message: str | None = None

    @property
    def key(self) -> str:
        """What the members of one WebDataset sample share: the name up to the first dot of its last part."""
        folder, slash, name = self.name.rpartition("/")
        return folder + slash + name.split(".", 1)[0]


def is_gzip(path: str) -> bool:
    """Whether a name is that of a gzipped archive."""
    return path.endswith((".gz", ".tgz"))


def index(
    files: SourceFiles, file: ListedFile, number: int, shown: str, *, max_bytes: int, max_ratio: float
) -> Iterator[Item]:
    """The items of an archive in its order. number: of the file; shown: its name; max_bytes: of a photo.

    What keeps the archive from being read on is the last item, refused.
    """
    if file.is_link:
        yield Item(shown, number, 0, 0, reason="link", message="a symbolic link, or no regular file")
        return
    stream = TarStream(files, file, max_ratio)
    damage: list[DamagedTar] = []
    try:
        for _, group in groupby(_entries(stream, max_bytes, damage), key=lambda entry: entry.key):
            yield from _sample(list(group), number, shown)
    finally:
        stream.close()
    for fault in damage:
        yield Item(shown, number, stream.position, 0, reason=fault.reason, message=f"the rest of it is lost: {fault}")


def _entries(stream: TarStream, max_bytes: int, damage: list[DamagedTar]) -> Iterator[_Entry]:
    try:
        for member in members(stream):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if member.kind == "directory" or any(part.startswith(".") and part != ".." for part in parts):
                continue
            entry = _Entry("/".join(parts), member)
            fault = _fault(member, parts, max_bytes)
            if fault is not None:
                yield replace(entry, reason=fault[0], message=fault[1])
            elif parts[-1].endswith(SIDECARS) and member.size <= MAX_SIDECAR:
                yield replace(entry, sidecar=stream.read(member.size))
            else:
                yield entry
    except DamagedTar as error:
        damage.append(error)


def _fault(member: Member, parts: list[str], max_bytes: int) -> tuple[str, str] | None:
    if member.name.startswith("/") or ".." in parts or not parts or "\0" in member.name:
        return "unsafe_path", "the name leads out of the archive"
    if member.kind == "link":
        return "link", "expected a file, got a link"
    if member.kind != "file":
        return "not_a_file", "expected a file, got a device, a sparse file or something else"
    if member.size > max_bytes:
        return "too_many_bytes", f"expected at most {max_bytes:,} bytes, got {member.size:,}"
    return None


def _sample(entries: list[_Entry], number: int, shown: str) -> Iterator[Item]:
    """Items of the members that share a key, with what the sidecars among them say."""
    sidecars = [entry for entry in entries if entry.sidecar is not None]
    photos = [entry for entry in entries if entry.sidecar is None]
    label, fault = _label(sidecars)
    for entry in photos:
        at = entry.member
        item = Item(f"{shown}/{source_text(entry.name)}", number, at.offset, at.size)
        if entry.reason is not None:
            yield replace(item, reason=entry.reason, message=entry.message)
        elif fault is not None:
            yield replace(item, reason="bad_metadata", message=fault)
        else:
            folder, slash, _ = entry.name.partition("/")
            yield labelled(replace(item, identity=folder if slash else None), label)
    if not photos:
        for entry in sidecars:
            at = entry.member
            item = Item(f"{shown}/{source_text(entry.name)}", number, at.offset, at.size)
            yield replace(item, reason="no_photo", message="no photo of this name is beside it")


def _label(sidecars: list[_Entry]) -> tuple[dict[str, str], str | None]:
    """Fields of an Item that sidecars state, or what is wrong with one."""
    found: dict[str, str] = {}
    for entry in sidecars:
        assert entry.sidecar is not None
        try:
            text = entry.sidecar.decode()
            if entry.name.endswith(".cls"):
                found["identity"] = text.strip()
                continue
            found |= label_fields(json.loads(text))
        except (ValueError, RecursionError) as error:
            return {}, f"{source_text(entry.name)}: {error}"
    return found, None


def labelled(item: Item, label: Mapping[str, str]) -> Item:
    """The item with what `label_fields` found."""
    return replace(
        item,
        identity=label.get("identity", item.identity),
        template_id=label.get("template_id"),
        metadata=label.get("metadata"),
    )


def label_fields(value: object) -> dict[str, str]:
    """Fields of an Item that a label states: an object of identity, template_id and metadata. ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    found: dict[str, str] = {}
    for name in ("identity", "template_id"):
        if value.get(name) is not None:
            if not isinstance(value[name], (str, int)):
                raise ValueError(f"{name}: expected text, got {value[name]!r:.80}")
            found[name] = str(value[name])
    if value.get("metadata") is not None:
        found["metadata"] = json.dumps(value["metadata"], ensure_ascii=False)
    return found


class TarReader:
    """Bytes of an archive's members, asked for in their order; keeps its place in a stream for whoever asks next."""

    def __init__(self) -> None:
        self._open: tuple[tuple[str, ListedFile], TarStream] | None = None

    def read(self, files: SourceFiles, file: ListedFile, item: Item, max_ratio: float) -> bytes:
        """The bytes of a photo; InvalidFile if the archive is not what was listed."""
        key = (files.url, file)
        if self._open is None or self._open[0] != key or self._open[1].position > item.offset:
            self.close()
            self._open = (key, TarStream(files, file, max_ratio))
        stream = self._open[1]
        try:
            stream.skip_to(item.offset)
            data = stream.read(item.size)
        except DamagedTar as error:
            raise InvalidFile(f"{file.path}: has changed since the job listed it: {error}") from error
        if len(data) != item.size:
            raise InvalidFile(f"{file.path}: has changed since the job listed it: it ends early")
        return data

    def close(self) -> None:
        """Close the archive. Idempotent."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
