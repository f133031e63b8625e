"""Exporting a gallery: the state read, the file written, and the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cluster.exports.consistent import consistent_batches
from cluster.exports.npy import write_npy
from cluster.exports.parquet import write_parquet
from cluster.progress import Tell, show_progress
from coordinator.snapshots.manifest import Manifest
from shard.errors import AlreadyExists, InvalidParameter
from shard.files import blocks_bytes
from shard.types import EnrollBatch

if TYPE_CHECKING:
    from cluster.api import Cluster

ExportFormat = Literal["parquet", "npy"]
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)
_Write = Callable[[Path, Manifest, Iterator[EnrollBatch]], None]
_WRITERS: dict[str, _Write] = {"parquet": write_parquet, "npy": write_npy}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, where, and of what moment (UTC). size: bytes on disk."""

    format: str
    path: Path
    gallery: str
    templates: int
    dim: int
    exported_at: str
    size: int


def export_gallery(
    cluster: Cluster,
    gallery: str,
    path: str | Path,
    *,
    format: ExportFormat = "parquet",  # noqa: A002 the word of the command line
    progress: Tell | bool = True,
) -> ExportReport:
    """Write a gallery to a file that is not there yet: of one moment of each shard, complete when this returns.

    format: "parquet", one file, or "npy", a directory. Nothing is at `path` until all of it is durable. progress: bars
    on a terminal (True), nothing (False), or a callable that gets templates written and in all.
    Raises UnknownGallery, AlreadyExists if something is at `path`, MissingExtra without pyarrow, WriteFailed.
    """
    if format not in EXPORT_FORMATS:
        raise InvalidParameter(f"format: expected one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    target = Path(path).absolute()
    if target.exists():
        raise AlreadyExists(f"{target} is there already; an export does not replace anything")
    if not target.parent.is_dir():
        raise InvalidParameter(f"export: there is no directory {target.parent}")
    reading = progress if isinstance(progress, bool) else False
    with (
        consistent_batches(cluster, gallery, target, progress=reading) as (manifest, batches),
        show_progress(progress, "writing templates") as tell,
    ):
        _WRITERS[format](target, manifest, _told(batches, manifest.templates, tell))
    size = blocks_bytes(target) if target.is_dir() else target.stat().st_size
    return ExportReport(format, target, manifest.gallery, manifest.templates, manifest.dim, manifest.created_at, size)


def _told(batches: Iterator[EnrollBatch], total: int, tell: Tell | None) -> Iterator[EnrollBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        if tell is not None:
            tell(done, total)
