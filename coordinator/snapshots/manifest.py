"""The manifest of a snapshot: what it is of, and the objects that hold it. Pure: bytes in, values out.

A manifest is JSON with the SHA-256 of its own content, so that a changed digit in it is found like one in an object.
docs/snapshots.md has the fields as tables.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from coordinator.names import check_gallery_name
from shard.errors import CorruptData, FormatTooNew, InvalidParameter

SNAPSHOT_FORMAT = 1
_SNAPSHOT_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object of the store by the SHA-256 of its bytes, in hexadecimal, and their number."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """Some of a segment's rows: `rows` live ones of begin <= row < end, their floats and labels.

    fingerprint: by which the shard tells that the block has not changed, in hexadecimal; empty if it has to be read.
    """

    segment: int
    begin: int
    end: int
    rows: int
    fingerprint: str
    floats: ObjectRef
    labels: ObjectRef


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard at its moment, `lsn`: every template written up to it and not deleted, block by block."""

    shard: int
    lsn: int
    blocks: tuple[BlockEntry, ...]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """The SearchModel that the gallery searched with, and how many templates there were at its training."""

    model_id: str
    templates: int
    data: ObjectRef


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete snapshot. Times are UTC, `2026-01-31T12:00:00Z`; expires_at None: kept until it is deleted."""

    snapshot_id: str
    gallery: str
    gallery_id: str
    created_at: str
    expires_at: str | None
    facegrid_version: str
    dim: int
    code_bits: int
    embedder: str | None
    replicas: int
    min_in_sync: int
    templates: int
    model: ModelEntry | None
    shards: tuple[ShardEntry, ...]

    def blocks(self) -> Iterator[BlockEntry]:
        """Every block, shard by shard."""
        for shard in self.shards:
            yield from shard.blocks

    def objects(self) -> set[ObjectRef]:
        """Every object that the snapshot needs."""
        found = {ref for block in self.blocks() for ref in (block.floats, block.labels)}
        return found | ({self.model.data} if self.model else set())

    @property
    def size(self) -> int:
        """Bytes of its objects, those that it shares with other snapshots included."""
        return sum(ref.size for ref in self.objects())


def manifest_digest(manifest: Manifest) -> str:
    """The SHA-256 that the manifest's file states: of what it is of and of every object's."""
    return _digest_of(dataclasses.asdict(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored."""
    content = dataclasses.asdict(manifest)
    document = {"format": SNAPSHOT_FORMAT, "sha256": _digest_of(content), "snapshot": content}
    return json.dumps(document, ensure_ascii=True, indent=1).encode()


def decode_manifest(data: bytes, where: str) -> Manifest:
    """The manifest of `encode_manifest`. CorruptData, naming `where`, for anything else; FormatTooNew."""
    try:
        document = json.loads(data)
        version, digest, content = document["format"], document["sha256"], document["snapshot"]
        if type(version) is not int or version < 1:
            raise CorruptData(f"{where}: format: expected an integer of at least 1, got {version!r}")
        if version > SNAPSHOT_FORMAT:
            raise FormatTooNew(f"{where} has format {version}; this Facegrid reads up to {SNAPSHOT_FORMAT}")
        if digest != _digest_of(content):
            raise CorruptData(f"{where}: the content does not have the SHA-256 that the file states")
        manifest: Manifest = _parsed(Manifest, content, "snapshot")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"{where} is not a snapshot's manifest: {error}") from error
    _check(manifest, where)
    return manifest


def _check(manifest: Manifest, where: str) -> None:
    """What types do not say. Digests and names become paths."""
    if not _SNAPSHOT_ID.fullmatch(manifest.snapshot_id):
        raise CorruptData(f"{where}: {manifest.snapshot_id!r:.80} is no id of a snapshot")
    try:
        check_gallery_name(manifest.gallery)
    except InvalidParameter as error:
        raise CorruptData(f"{where}: {error}") from error
    for ref in manifest.objects():
        if not _DIGEST.fullmatch(ref.sha256) or ref.size < 0:
            raise CorruptData(f"{where}: {ref.sha256!r:.80} of {ref.size} bytes is no object")
    for block in manifest.blocks():
        if block.rows < 1 or block.floats.size != block.rows * manifest.dim * 4:
            raise CorruptData(f"{where}: a block of {block.rows} rows has {block.floats.size} bytes of floats")
    rows = sum(block.rows for block in manifest.blocks())
    if rows != manifest.templates:
        raise CorruptData(f"{where}: it states {manifest.templates} templates, its blocks have {rows}")
    try:
        parse_time(manifest.created_at)
        if manifest.expires_at is not None:
            parse_time(manifest.expires_at)
    except CorruptData as error:
        raise CorruptData(f"{where}: {error}") from error


def _digest_of(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(hint: Any, value: Any, where: str) -> Any:
    """The value as the type that a field has; TypeError if it is of another."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        if type(value) is not dict or set(value) != set(hints):
            raise TypeError(f"{where}: expected the fields {', '.join(hints)}")
        return hint(**{name: _parsed(kind, value[name], f"{where}.{name}") for name, kind in hints.items()})
    if origin in (typing.Union, types.UnionType):
        (kind,) = (arg for arg in args if arg is not type(None))
        return None if value is None else _parsed(kind, value, where)
    if origin is tuple:
        if type(value) is not list:
            raise TypeError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(_parsed(args[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if type(value) is not hint:
        raise TypeError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value


def check_snapshot_id(value: str) -> str:
    """The id, if it has the form of one; InvalidParameter otherwise."""
    if not isinstance(value, str) or not _SNAPSHOT_ID.fullmatch(value):
        raise InvalidParameter(f"snapshot id: expected something like 20260131T120000Z-0a1b2c3d, got {value!r:.80}")
    return value


def format_time(moment: datetime) -> str:
    """UTC in seconds as manifests have it. InvalidParameter for a time without a zone."""
    if moment.tzinfo is None:
        raise InvalidParameter(f"expected a time with a zone, got {moment.isoformat()}")
    return moment.astimezone(timezone.utc).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """The time that `format_time` wrote; CorruptData for anything else."""
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
    except ValueError as error:
        raise CorruptData(f"expected a time like 2026-01-31T12:00:00Z, got {text!r:.80}") from error
