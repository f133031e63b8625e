"""A gallery with duplicates that are known, and the result of a dedup job on it, made by brute force."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import Cluster
from cluster.dedup.result_columns import SUMMARY
from cluster.dedup.result_files import DedupResult
from cluster.dedup.results import GroupRows, PairChunk, ResultInput, write_results
from cluster.gallery import Gallery
from coordinator.catalog_tables import JOBS
from coordinator.coordinator import Coordinator
from coordinator.job_types import JobState
from coordinator.snapshots.manifest import Manifest
from coordinator.snapshots.store import SnapshotStore
from shard.errors import UnknownJob
from shard.files import write_file
from shard.types import FloatArray, RowArray
from tests.faces_like import unit_rows

DIM, THRESHOLD = 64, 0.8
NAME = "acme/staff"


@dataclass(frozen=True)
class Face:
    """A template of person number `person`."""

    template_id: str
    person: int
    identity: str | None = None
    metadata: dict[str, Any] | None = None
    floats: FloatArray = field(default_factory=lambda: np.empty(0, np.float32))


def faces_of(people: Sequence[Sequence[str]], *, seed: int = 0) -> list[Face]:
    """Faces by person, `id` or `id:identity`, those of a person alike; every second has metadata."""
    centres = unit_rows(max(len(people), 2), DIM, seed, rank=DIM)
    rng = np.random.default_rng(seed + 1)
    faces: list[Face] = []
    for person, names in enumerate(people):
        for name in names:
            template_id, _, identity = name.partition(":")
            rows = centres[person] + rng.normal(scale=0.02, size=DIM).astype(np.float32)
            floats = (rows / np.linalg.norm(rows)).astype(np.float32)
            metadata = {"n": len(faces)} if len(faces) % 2 else None
            faces.append(Face(template_id, person, identity or None, metadata, floats))
    return faces


def enroll(gallery: Gallery, faces: Sequence[Face]) -> None:
    gallery.enroll(
        np.stack([face.floats for face in faces]),
        template_ids=[face.template_id for face in faces],
        identities=[face.identity for face in faces],
        metadata=[face.metadata for face in faces],
    )


def contents(grid: Cluster, name: str, scratch: Path) -> dict[str, tuple[str | None, bytes | None, bytes]]:
    """Template id to (identity, metadata, floats), all of them to the byte, as a snapshot has them."""
    store = grid.snapshots(scratch)
    manifest = store.create(name, progress=False).manifest
    found = {}
    for labels, floats in _blocks(store.store, manifest):
        columns = (labels.column(column).to_pylist() for column in ("template_id", "identity", "metadata"))
        for template_id, identity, metadata, row in zip(*columns, floats, strict=True):
            assert template_id not in found
            found[template_id] = (identity, metadata, row.tobytes())
    return found


def _blocks(store: SnapshotStore, manifest: Manifest) -> Iterator[tuple[Any, FloatArray]]:
    for block in manifest.blocks():
        floats: FloatArray = np.frombuffer(store.get(block.floats), "<f4").reshape(block.rows, manifest.dim)
        yield pq.read_table(io.BytesIO(store.get(block.labels))), floats


@dataclass(frozen=True)
class Read:
    """The rows of snapshots one after another."""

    labels: Any
    floats: FloatArray
    inputs: tuple[ResultInput, ...]

    def labels_of(self, rows: RowArray) -> Any:
        return self.labels.take(pa.array(rows))


def read_inputs(grid: Cluster, names: Sequence[str], place: Path) -> Read:
    tables, floats, inputs, start = [], [], [], 0
    for number, name in enumerate(names):
        store = grid.snapshots(place)
        manifest = store.create(name, progress=False).manifest
        for shard in manifest.shards:
            for block in shard.blocks:
                labels = pq.read_table(io.BytesIO(store.store.get(block.labels)))
                rows = np.arange(start, start + block.rows)
                head = {
                    "row": rows,
                    "input": pa.array([number] * block.rows, pa.int8()),
                    "shard": pa.array([shard.shard] * block.rows, pa.int32()),
                }
                rest = {c: labels.column(c) for c in ("template_id", "identity", "metadata", "lsn")}
                tables.append(pa.table({**head, **rest}))
                floats.append(np.frombuffer(store.store.get(block.floats), "<f4").reshape(block.rows, manifest.dim))
                start += block.rows
        inputs.append(
            ResultInput(
                name,
                manifest.gallery_id,
                manifest.snapshot_id,
                None,
                "0" * 64,
                manifest.templates,
                len(manifest.shards),
            )
        )
    return Read(pa.concat_tables(tables).combine_chunks(), np.concatenate(floats), tuple(inputs))


def group_rows(read: Read, groups: Sequence[Sequence[str]], reasons: dict[int, str]) -> GroupRows:
    """Groups of template ids; the first of each is kept and is the medoid."""
    rows = {template_id: row for row, template_id in enumerate(read.labels.column("template_id").to_pylist())}
    members = [(number, rows[name], i == 0) for number, names in enumerate(groups) for i, name in enumerate(names)]
    row = np.array([m[1] for m in members], np.int64)
    first = np.array([rows[groups[m[0]][0]] for m in members], np.int64)
    is_keep = np.array([m[2] for m in members], np.bool_)
    return GroupRows(
        group=np.array([m[0] for m in members], np.int32),
        row=row,
        is_keep=is_keep,
        is_medoid=is_keep,
        quality=np.where(is_keep, np.float32(0.9), np.float32(np.nan)),
        medoid_score=np.einsum("ij,ij->i", read.floats[row], read.floats[first]).astype(np.float32),
        reasons=reasons,
    )


def pairs_of(read: Read, *, chunk: int = 1_000) -> list[PairChunk]:
    """Every pair above the threshold, by brute force, in pieces; pairs of equal floats are of one photo."""
    scores = np.triu(read.floats @ read.floats.T, 1)
    left, right = np.nonzero(scores >= THRESHOLD)
    found = scores[left, right].astype(np.float32)
    kinds = (read.floats[left] == read.floats[right]).all(axis=1).astype(np.uint8)
    cuts = range(0, len(left), chunk)
    return [
        PairChunk(left[c : c + chunk], right[c : c + chunk], found[c : c + chunk], kinds[c : c + chunk]) for c in cuts
    ]


def write_job(
    directory: Path,
    read: Read,
    groups: Sequence[Sequence[str]],
    reasons: dict[int, str] | None = None,
    *,
    chunk: int = 1_000,
) -> DedupResult:
    """The files of a job whose snapshots were read from `directory/input`."""
    result = directory / "result"
    result.mkdir(parents=True)
    pairs = pairs_of(read, chunk=chunk)
    rows = np.unique(np.concatenate([a for p in pairs for a in (p.left, p.right)] or [np.empty(0, np.int64)]))
    known = group_rows(read, groups, reasons or {})
    summary = write_results(
        result,
        inputs=read.inputs,
        parameters={"threshold": THRESHOLD, "mode": "exact"},
        threshold=THRESHOLD,
        recall={"target": 0.999, "statement": "brute force"},
        rows=np.union1d(rows, known.row).astype(np.int64),
        labels=read.labels_of,
        pairs=pairs,
        groups=known,
    )
    write_file(result / SUMMARY, json.dumps(summary).encode())
    return DedupResult.open(directory)


def make_job(
    grid: Cluster,
    groups: Sequence[Sequence[str]],
    reasons: dict[int, str] | None = None,
    *,
    job_id: str = "20261122T031500Z-0a1b2c3d",
    names: Sequence[str] = (NAME,),
) -> DedupResult:
    """A result of galleries as they are now, with these groups of template ids; of a job that the catalog has."""
    _record(grid, job_id, names)
    directory = grid.settings.home / "jobs" / job_id
    return write_job(directory, read_inputs(grid, names, directory / "input"), groups, reasons)


def _record(grid: Cluster, job_id: str, names: Sequence[str]) -> None:
    """Enter a job that has succeeded under this id, unless it is there."""
    assert isinstance(grid.coordinator, Coordinator)
    jobs = grid.coordinator.jobs
    try:
        jobs.get(job_id)
    except UnknownJob:
        other = names[1] if len(names) > 1 else None
        made = jobs.submit("dedup", names[0], {"threshold": THRESHOLD, "other": other}, owner="a test")
        jobs.finish(made.job_id, "a test", JobState.SUCCEEDED)
        with grid.coordinator._catalog.writing() as db:
            db.execute(JOBS.update().where(JOBS.c.job_id == made.job_id).values(job_id=job_id))
