"""Writing the result of a dedup job: pairs.parquet, groups.parquet, members.parquet, and what summary.json says.

Rows come as global row numbers and leave as template ids, members of a group in the order of theirs, so that
groups.parquet is the same however the gallery is cut into shards. Pairs are written batch by batch in the order they
come in, and are never all in memory; labels of all templates that have a pair are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.dedup.borderline import Borderline
from cluster.dedup.label_disagreements import disagreements
from cluster.dedup.report import pictures_from, report_html
from cluster.dedup.result_columns import (
    DUPLICATE,
    GROUPS,
    KEEP,
    MEMBERS,
    PAIRS,
    REPORT,
    ROW_GROUP,
    SAME_PERSON,
    SAME_PHOTO,
    groups_schema,
    members_schema,
    pairs_schema,
    parquet_writer,
)
from cluster.dedup.row_labels import RowLabels
from coordinator.snapshots.places import pyarrow
from shard.errors import InvalidParameter
from shard.files import write_file
from shard.types import FloatArray, RowArray

RESULT_FORMAT = 1
SCORE_STEP = 0.01
"""Width of a bar of the histogram of scores."""
KINDS = (SAME_PERSON, SAME_PHOTO, "same_face", "two_faces")
"""Kinds of a pair by their codes, which are those of `photos.PairKind`."""

LabelReader = Callable[[RowArray], Any]
"""Gets ascending global rows; returns a pyarrow.Table of `row, input, shard, template_id, identity, metadata, lsn`."""


@dataclass(frozen=True, slots=True)
class ResultInput:
    """A snapshot that was read. sha256: of its manifest's content; store: None for the job's own."""

    gallery: str
    gallery_id: str
    snapshot_id: str
    store: str | None
    sha256: str
    templates: int
    shards: int


@dataclass(frozen=True, slots=True)
class PairChunk:
    """Some pairs by global rows: left, right int64 (n,), scores float32 (n,) cosine, kinds uint8 (n,) of KINDS."""

    left: RowArray
    right: RowArray
    scores: FloatArray
    kinds: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Members of all groups, in any order: arrays of the same length, one entry a member.

    group: int32, from 0 on; row: int64 global; is_keep, is_medoid: bool; quality: float32, NaN where it is not known;
    medoid_score: float32. reasons: group to why it needs review; those that need none are not in it.
    """

    group: npt.NDArray[np.int32]
    row: RowArray
    is_keep: npt.NDArray[np.bool_]
    is_medoid: npt.NDArray[np.bool_]
    quality: FloatArray
    medoid_score: FloatArray
    reasons: Mapping[int, str]


def write_results(
    directory: Path,
    *,
    inputs: tuple[ResultInput, ...],
    parameters: Mapping[str, Any],
    threshold: float,
    recall: Mapping[str, Any],
    rows: RowArray,
    labels: LabelReader,
    pairs: Iterable[PairChunk],
    groups: GroupRows,
) -> dict[str, Any]:
    """Write the Parquet files and the report into a directory that is there; returns what summary.json is to say.

    rows: (m,) int64 ascending, every row that is in a pair. recall: what is said of it, as it stands in the summary;
    `statement` is shown in the report.
    """
    known = RowLabels.read(rows, labels, [entry.gallery for entry in inputs], with_digests=groups.row)
    table, members, numbers, ordered = _grouped(groups, known)
    _write(directory / GROUPS, groups_schema(), table)
    _write(directory / MEMBERS, members_schema(), members)
    counted = _PairCounts(threshold)
    with parquet_writer(directory / PAIRS, pairs_schema()) as writer:
        for chunk in _even(pairs):
            batch = _pair_batch(chunk, known, numbers)
            writer.write_batch(batch, row_group_size=ROW_GROUP)
            counted.add(chunk, batch)
    summary = {
        "format": RESULT_FORMAT,
        "kind": "dedup",
        "inputs": [asdict(entry) for entry in inputs],
        "parameters": dict(parameters),
        "threshold": float(threshold),
        "recall": dict(recall),
        "counts": {
            "templates": sum(entry.templates for entry in inputs),
            "templates_in_pairs": len(rows),
            **counted.counts(),
            **_group_counts(table),
        },
        "group_sizes": _group_sizes(table),
        "scores": counted.histogram(),
        "borderline": counted.borderline.summary(),
        "disagreements": disagreements(table),
    }
    page = report_html(summary, table, ordered, counted.borderline.rows(), pictures_from(labels))
    write_file(directory / REPORT, page.encode())
    return summary


def _write(path: Path, schema: Any, table: Any) -> None:
    with parquet_writer(path, schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)


def _grouped(groups: GroupRows, known: RowLabels) -> tuple[Any, Any, npt.NDArray[np.int32], RowArray]:
    """groups.parquet and members.parquet as tables, for each row of `known` its group's number, -1 for none, and the
    global row of each row of the tables.
    """
    arrow = pyarrow()
    at = known.positions(groups.row)
    order = known.order_of(at, groups.group)
    at, number = at[order], groups.group[order]
    if len(number) and not np.array_equal(np.unique(number), np.arange(number[-1] + 1)):
        raise InvalidParameter("groups: expected numbers from 0 on, each of at least one member")
    reasons = [groups.reasons.get(group) for group in number.tolist()]
    quality = groups.quality[order]
    taken = known.table.take(arrow.array(at))
    columns = {
        "group": number,
        "gallery": taken.column("gallery"),
        "template_id": taken.column("template_id"),
        "identity": taken.column("identity"),
        "role": arrow.array(np.where(groups.is_keep[order], KEEP, DUPLICATE)),
        "quality": arrow.array(quality, mask=np.isnan(quality)),
        "medoid_score": groups.medoid_score[order],
        "is_medoid": groups.is_medoid[order],
        "needs_review": [reason is not None for reason in reasons],
        "reason": reasons,
    }
    table = arrow.table(columns, schema=groups_schema())
    shared = {name: table.column(name) for name in ("group", "gallery", "template_id")}
    own = {name: taken.column(name) for name in ("shard", "lsn", "metadata_digest")}
    members = arrow.table({**shared, **own}, schema=members_schema())
    numbers = np.full(len(known), -1, np.int32)
    numbers[at] = number
    return table, members, numbers, groups.row[order]


def _even(pairs: Iterable[PairChunk]) -> Iterator[PairChunk]:
    """The same pairs in chunks of ROW_GROUP, so that how they came in batches is not to be seen in the file."""
    waiting: list[PairChunk] = []
    size = 0
    for chunk in pairs:
        waiting.append(chunk)
        size += len(chunk.left)
        while size >= ROW_GROUP:
            whole = _joined(waiting)
            yield _cut(whole, 0, ROW_GROUP)
            waiting = [_cut(whole, ROW_GROUP, size)]
            size -= ROW_GROUP
    if size:
        yield _joined(waiting)


def _joined(chunks: list[PairChunk]) -> PairChunk:
    return PairChunk(
        np.concatenate([c.left for c in chunks]),
        np.concatenate([c.right for c in chunks]),
        np.concatenate([c.scores for c in chunks]),
        np.concatenate([c.kinds for c in chunks]),
    )


def _cut(chunk: PairChunk, begin: int, end: int) -> PairChunk:
    return PairChunk(chunk.left[begin:end], chunk.right[begin:end], chunk.scores[begin:end], chunk.kinds[begin:end])


def _pair_batch(chunk: PairChunk, known: RowLabels, numbers: npt.NDArray[np.int32]) -> Any:
    arrow = pyarrow()
    left, right = known.positions(chunk.left), known.positions(chunk.right)
    lefts, rights = (known.table.take(arrow.array(at)) for at in (left, right))
    is_within = (numbers[left] == numbers[right]) & (numbers[left] >= 0)
    columns = {
        "left_id": lefts.column("template_id"),
        "right_id": rights.column("template_id"),
        "score": chunk.scores,
        "left_shard": lefts.column("shard"),
        "right_shard": rights.column("shard"),
        "left_gallery": lefts.column("gallery"),
        "right_gallery": rights.column("gallery"),
        "kind": arrow.array(np.array(KINDS)[chunk.kinds]),
        "group": arrow.array(numbers[left], mask=~is_within),
    }
    (batch,) = arrow.table(columns, schema=pairs_schema()).combine_chunks().to_batches()
    return batch


class _PairCounts:
    """What is counted while pairs go by."""

    def __init__(self, threshold: float) -> None:
        self.borderline = Borderline(threshold)
        self._begin = float(np.floor(threshold / SCORE_STEP + 1e-6))
        bars = max(1, int(np.ceil(1.0 / SCORE_STEP)) - int(self._begin))
        self._bars = np.zeros((len(KINDS), bars), np.int64)
        self._across = 0

    def add(self, chunk: PairChunk, batch: Any) -> None:
        bars = self._bars.shape[1]
        at = np.floor(chunk.scores.astype(np.float64) / SCORE_STEP + 1e-6) - self._begin
        at = np.clip(at, 0, bars - 1).astype(np.int64)
        for kind in range(len(KINDS)):
            self._bars[kind] += np.bincount(at[chunk.kinds == kind], minlength=bars)
        self._across += batch.column("group").null_count
        self.borderline.add(batch, chunk.left, chunk.right, chunk.scores)

    def counts(self) -> dict[str, int]:
        by_kind = self._bars.sum(axis=1).tolist()
        return {
            "pairs": sum(by_kind),
            **{f"{kind}_pairs": count for kind, count in zip(KINDS, by_kind, strict=True)},
            "pairs_outside_groups": self._across,
        }

    def histogram(self) -> dict[str, Any]:
        """Bars from the threshold's up: `begin` is the lower edge of the first one."""
        return {
            "begin": round(self._begin * SCORE_STEP, 6),
            "step": SCORE_STEP,
            **{kind: self._bars[code].tolist() for code, kind in enumerate(KINDS)},
        }


def _group_counts(table: Any) -> dict[str, int]:
    compute = pyarrow().compute
    numbers = table.column("group")
    review = table.filter(table.column("needs_review")).column("group")
    keeps = compute.sum(compute.equal(table.column("role"), KEEP)).as_py() or 0
    return {
        "groups": compute.count_distinct(numbers).as_py(),
        "templates_in_groups": len(table),
        "keep": keeps,
        "duplicate": len(table) - keeps,
        "groups_to_review": compute.count_distinct(review).as_py(),
    }


def _group_sizes(table: Any) -> dict[str, int]:
    """Number of groups by their size, sizes as texts in ascending order."""
    sizes = np.bincount(np.bincount(table.column("group").to_numpy())) if len(table) else np.zeros(0, np.int64)
    return {str(size): int(sizes[size]) for size in range(1, len(sizes)) if sizes[size]}
