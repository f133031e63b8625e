"""The stages of a unit, each a function of its argument alone: read, decode, detect and align; embed.

The same functions run in threads, in processes of this machine and in actors of Ray. What they need beside their
argument, networks and open archives, is kept by the process for its next unit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cluster.bulk.arrays import read_array
from cluster.bulk.batch import Batch, BatchBuilder, with_vectors
from cluster.bulk.columns import ColumnReader, ImageRow, embeddings_of, images_of
from cluster.bulk.items import WHOLE, Item
from cluster.bulk.listing import Unit
from cluster.bulk.places import SourceFiles
from cluster.bulk.tars import TarReader, is_gzip
from cluster.faces import FacePipeline, PipelineOptions, read_image, thumbnail
from cluster.images import box_of, owner_face, template_id_of, with_facts
from cluster.imports.checks import checked, label_fault
from cluster.imports.records import RawBatch
from cluster.thumbnails import check_own, with_thumbnail
from shard.errors import InvalidEmbedding, InvalidFile, InvalidImage, InvalidParameter, StoreUnavailable

CROP = np.empty((0, 112, 112, 3), np.uint8)
REMOTE_READS = 16
"""Photos that are fetched from a bucket at once."""


@dataclass(frozen=True, slots=True)
class UnitWork:
    """A unit, and what is to be done with it. options: of the pipeline, None where the unit has no photos."""

    unit: Unit
    dim: int
    options: PipelineOptions | None
    max_ratio: float
    keep_thumbnails: bool = False


@dataclass(frozen=True, slots=True)
class _Photo:
    """A photo that was read: its bytes, or why there are none."""

    item: str
    data: bytes | None
    identity: Any = None
    template_id: Any = None
    metadata: Any = None
    reason: str = "unreadable"
    message: str = ""


def prepare(work: UnitWork) -> bytes:
    """All stages of a unit: a Batch of embeddings. InvalidFile, StoreUnavailable, and what keeps a network from it."""
    if work.options is None:
        return read_rows(work).to_bytes()
    return embedded(found(work), work.options).to_bytes()


def find_faces(work: UnitWork) -> bytes:
    """The first stage of a unit of photos: a Batch of crops."""
    return found(work).to_bytes()


def embed_faces(argument: tuple[bytes, PipelineOptions]) -> bytes:
    """The second stage: a Batch of embeddings of one of crops."""
    return embedded(Batch.from_bytes(argument[0]), argument[1]).to_bytes()


def read_rows(work: UnitWork) -> Batch:
    """The embeddings of a unit's rows, those that can be templates."""
    unit, table = work.unit, work.unit.table
    assert table is not None
    files, rows = SourceFiles(unit.url), unit.stop - unit.start
    if table.shape is not None:
        raw = read_array(files, table.file, table.shape, table.labels, unit.start, unit.stop)
    else:
        assert table.columns is not None
        batches = _columns().rows(files, table.file, table.columns, unit.group, unit.start, unit.stop, rows)
        raw = embeddings_of(next(batches), table.columns, unit.start, work.dim)
    return _of_records(raw, table.name, unit.first_row, work.dim)


def _of_records(raw: RawBatch, name: str, first_row: int, dim: int) -> Batch:
    """A batch of records that were checked, in the order of their rows."""
    good, refused = checked(raw)
    outcomes: dict[int, Any] = {int(place): i for i, place in enumerate(good.places)}
    outcomes |= {int(record.where): record for record in refused}
    builder = BatchBuilder(np.empty((0, dim), np.float32))
    for row in sorted(outcomes):
        item, outcome = f"{name} row {first_row + row}", outcomes[row]
        if isinstance(outcome, int):
            builder.accept(
                item,
                good.template_ids[outcome],
                good.identities[outcome],
                _json(good.metadata[outcome]),
                good.embeddings[outcome],
            )
        else:
            builder.refuse(item, outcome.reason, outcome.message)
    return builder.done()


def found(work: UnitWork) -> Batch:
    """The main face of each photo of a unit, as an aligned crop."""
    assert work.options is not None
    pipeline = pipeline_of(work.options)
    builder = BatchBuilder(CROP)
    for photo in _photos(work, pipeline):
        try:
            _find(photo, work, pipeline, builder)
        except InvalidImage as error:
            builder.refuse(photo.item, error.reason, str(error), identity=_text(photo.identity))
    return builder.done()


def _find(photo: _Photo, work: UnitWork, pipeline: FacePipeline, builder: BatchBuilder) -> None:
    if photo.data is None:
        raise InvalidImage(photo.message, reason=photo.reason)
    fault = label_fault(photo.template_id, photo.identity, photo.metadata)
    if fault is not None:
        raise InvalidImage(fault[1], reason=fault[0])
    try:
        check_own(photo.metadata)
    except InvalidParameter as error:
        raise InvalidImage(str(error), reason="bad_metadata") from error
    data = read_image(photo.data, limits=pipeline.options.limits)
    faces = pipeline.find(data)
    face = owner_face(faces.faces)
    crop = next(crop for one, crop in zip(faces.faces, faces.crops, strict=True) if one is face)
    box = box_of(face)
    about = {"source": photo.item, "box": [box.x, box.y, box.width, box.height], **(photo.metadata or {})}
    about = with_facts(about, data, face, limits=pipeline.options.limits)
    jpeg = thumbnail(data, face.box, limits=pipeline.options.limits) if work.keep_thumbnails else None
    about = with_thumbnail(about, jpeg) or {}
    fault = label_fault(None, None, about)
    if fault is not None:
        raise InvalidImage(fault[1], reason=fault[0])
    builder.accept(photo.item, photo.template_id or template_id_of(data), photo.identity, _json(about), crop)


def embedded(batch: Batch, options: PipelineOptions) -> Batch:
    """A batch of crops with embeddings in their place. A face that the network fails on is refused alone."""
    pipeline = pipeline_of(options)
    empty = np.empty((0, pipeline.dim), np.float32)
    try:
        vectors: list[Any] = list(pipeline.embed_crops(batch.vectors))
    except InvalidEmbedding:
        vectors = [_embedded_alone(pipeline, crop) for crop in batch.vectors]
    return with_vectors(batch, vectors, empty)


def _embedded_alone(pipeline: FacePipeline, crop: Any) -> Any:
    try:
        return pipeline.embed_crops(crop[None])[0]
    except InvalidEmbedding:
        return None


@lru_cache(maxsize=4)
def pipeline_of(options: PipelineOptions) -> FacePipeline:
    """This process's pipeline of these options."""
    return FacePipeline(options)


@lru_cache(maxsize=1)
def _columns() -> ColumnReader:
    return ColumnReader()


@lru_cache(maxsize=1)
def _archive() -> TarReader:
    return TarReader()


def _photos(work: UnitWork, pipeline: FacePipeline) -> Iterator[_Photo]:
    unit = work.unit
    if unit.table is None:
        yield from _of_items(work, pipeline.options.limits.max_bytes)
        return
    assert unit.table.columns is not None
    files, columns = SourceFiles(unit.url), unit.table.columns
    at = unit.start
    for batch in _columns().rows(files, unit.table.file, columns, unit.group, unit.start, unit.stop, 32):
        for row in images_of(batch, columns, at):
            yield _of_row(row, f"{unit.table.name} row {unit.first_row + row.row}")
        at += len(batch)


def _of_row(row: ImageRow, item: str) -> _Photo:
    if row.data is None:
        return _Photo(item, None, row.identity, reason="empty", message="the image is null")
    return _Photo(item, row.data, row.identity, row.template_id, row.metadata)


def _of_items(work: UnitWork, max_bytes: int) -> Iterator[_Photo]:
    """Photos of a unit's items; those of a bucket are fetched several at once, ahead of who takes them."""
    unit = work.unit
    files, known = SourceFiles(unit.url), dict(unit.files)
    is_stream = any(is_gzip(file.path) for file in known.values())

    def read(item: Item) -> _Photo:
        if item.reason is not None:
            return _Photo(item.name, None, item.identity, reason=item.reason, message=item.message or "")
        try:
            data = _read(files, item, known[item.file], work.max_ratio)
        except InvalidFile as error:
            if item.offset != WHOLE:
                raise
            return _Photo(item.name, None, item.identity, reason="unreadable", message=str(error))
        return _Photo(item.name, data, item.identity, item.template_id, item.metadata_object())

    if files.is_local or is_stream:
        yield from map(read, unit.items)
        return
    with ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="facegrid-fetch") as pool:
        step = REMOTE_READS * 2
        for start in range(0, len(unit.items), step):
            yield from pool.map(read, unit.items[start : start + step])


def _read(files: SourceFiles, item: Item, file: Any, max_ratio: float) -> bytes:
    if item.offset != WHOLE and is_gzip(file.path):
        return _archive().read(files, file, item, max_ratio)
    try:
        with files.open(file) as opened:
            if item.offset != WHOLE:
                opened.seek(item.offset)
            data = opened.read(item.size)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidFile):
            raise
        raise StoreUnavailable(f"{file.path}: cannot be read: {error}") from error
    if len(data) != item.size:
        raise InvalidFile(f"{file.path}: has changed since the job listed it")
    return data


def _json(metadata: Mapping[str, Any] | None) -> str | None:
    return None if metadata is None else json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
