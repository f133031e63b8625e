"""`ApplyJournal`: what an apply is going to do, written before any of it is done, and how far it is.

    <job>/apply/000001/about.json        what was asked for, by whom and when; counts
    <job>/apply/000001/rows.arrow        each template as it was: labels and, where it will be deleted, its floats
    <job>/apply/000001/state.json        applying, applied, undoing, undone or expired
    <job>/apply/000001/do/00000.begun    this batch of rows may have been changed
    <job>/apply/000001/do/00000.json     it was: what became of each row, and its LSN since
    <job>/apply/000001/undo/…            the same, of taking it back

rows.arrow holds what a deletion promised to remove, so it is removed by the deadline of erasure (`expire`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.dedup.apply_plan import BATCH, ApplyAction, ApplyOptions, Change, TemplateKey
from coordinator.snapshots.places import pyarrow
from shard.errors import CorruptData, FormatTooNew
from shard.files import make_directory, new_directory, new_file, remove_file, sync_directory, write_file
from shard.types import FloatArray

JOURNAL_FORMAT = 1
Phase = Literal["do", "undo"]
State = Literal["applying", "applied", "undoing", "undone", "expired"]


@dataclass(frozen=True, slots=True)
class ApplyRecord:
    """An apply. by, at: who began it, and when, in unix seconds; undo_until: when what it needs to be undone is
    removed, None for never. groups, templates: how many it set out to change, as the plan and as the journal have it;
    skipped, left_out: templates by reason.
    """

    number: int
    action: ApplyAction
    gallery: str | None
    key: str
    accept_all: bool
    by: str
    at: float
    undo_until: float | None
    review_version: int
    groups: int
    templates: int
    skipped: dict[str, int]
    left_out: dict[str, int]

    @property
    def options(self) -> ApplyOptions:
        """What was asked for."""
        return ApplyOptions(self.action, self.gallery, self.key, self.accept_all)


@dataclass(frozen=True, slots=True)
class Row:
    """A change as it is in the journal. floats: (dim,) float32; None for a tag."""

    change: Change
    floats: FloatArray | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: "" if it was changed, or why not (`Skip`); its LSN then, -1 where it has none."""

    skip: str
    lsn: int


class ApplyJournal:
    """One apply's journal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def all(cls, job_directory: Path) -> list[ApplyJournal]:
        """Those of a job, oldest first."""
        return [cls(path) for path in sorted((job_directory / "apply").glob("[0-9]*")) if path.name.isdigit()]

    @classmethod
    def create(cls, job_directory: Path, record: ApplyRecord, rows: Iterable[Row], dim: int | None) -> ApplyJournal:
        """Write what is going to be done; durable when it returns. dim: of the rows' floats, None if they have none."""
        path = job_directory / "apply" / f"{record.number:06d}"
        make_directory(path.parent)
        with new_directory(path) as filled:
            record = replace(record, templates=_write_rows(filled / "rows.arrow", rows, dim))
            write_file(filled / "about.json", _json({"format": JOURNAL_FORMAT, **asdict(record)}))
            for phase in ("do", "undo"):
                make_directory(filled / phase)
        return cls(path)

    @cached_property
    def record(self) -> ApplyRecord:
        """What was asked for. CorruptData, FormatTooNew."""
        content = self._read("about.json")
        version = content.pop("format", 0)
        if version > JOURNAL_FORMAT:
            raise FormatTooNew(f"{self.directory} has format {version}; this Facegrid reads up to {JOURNAL_FORMAT}")
        try:
            return ApplyRecord(**{**content, "action": ApplyAction(content["action"])})
        except (KeyError, TypeError, ValueError) as error:
            raise self._corrupt("about.json", repr(error)) from error

    # Rows

    @property
    def has_rows(self) -> bool:
        """Whether rows.arrow is there still."""
        return (self.directory / "rows.arrow").exists()

    def batches(self) -> int:
        """Number of batches of rows."""
        return -(-self.record.templates // BATCH)

    def rows(self, batch: int) -> list[Row]:
        """The rows of one batch. CorruptData."""
        path = self.directory / "rows.arrow"
        try:
            with pyarrow().memory_map(str(path)) as source:
                found = _open_rows(source).get_batch(batch)
                rows: list[dict[str, Any]] = found.drop_columns(["floats"]).to_pylist()
                flat = found.column("floats")
                floats = None if flat.null_count == len(flat) else np.array(flat.flatten()).reshape(len(rows), -1)
        except (ValueError, OSError) as error:  # pyarrow's own errors are of these
            raise self._corrupt("rows.arrow", str(error)) from error
        return [Row(_change(row), None if floats is None else floats[i]) for i, row in enumerate(rows)]

    def expire(self) -> None:
        """Remove the rows, with which it can no longer be undone."""
        remove_file(self.directory / "rows.arrow")
        sync_directory(self.directory)

    # Progress

    @property
    def state(self) -> State:
        """How far it is."""
        path = self.directory / "state.json"
        found: State = self._read("state.json")["state"] if path.exists() else "applying"
        return "expired" if not self.has_rows and found != "undone" and self.record.undo_until is not None else found

    def enter(self, state: State) -> None:
        """Write down that it is so far."""
        write_file(self.directory / "state.json", _json({"state": state}))

    def begin(self, phase: Phase, batch: int) -> bool:
        """Write down that rows of a batch are going to be changed; whether that was written before."""
        path = self.directory / phase / f"{batch:05d}.begun"
        if path.exists():
            return True
        write_file(path, b"")
        return False

    def end(self, phase: Phase, batch: int, outcomes: Sequence[Outcome]) -> None:
        """Write down what became of the rows of a batch."""
        content = {"skip": [o.skip for o in outcomes], "lsn": [o.lsn for o in outcomes]}
        write_file(self.directory / phase / f"{batch:05d}.json", json.dumps(content).encode())

    def outcomes(self, phase: Phase, batch: int) -> list[Outcome] | None:
        """What became of the rows of a batch; None if that is not known. CorruptData."""
        name = f"{phase}/{batch:05d}.json"
        if not (self.directory / name).exists():
            return None
        content = self._read(name)
        return [Outcome(skip, lsn) for skip, lsn in zip(content["skip"], content["lsn"], strict=True)]

    def has_begun(self, phase: Phase, batch: int) -> bool:
        """Whether rows of a batch may have been changed."""
        return (self.directory / phase / f"{batch:05d}.begun").exists()

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.directory / name).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._corrupt(name, str(error)) from error
        return content

    def _corrupt(self, name: str, what: str) -> CorruptData:
        path = self.directory / name
        return CorruptData(f"{path}: {what}", path=str(path))


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _open_rows(source: Any) -> Any:
    from pyarrow import ipc

    return ipc.open_file(source)


def _schema(dim: int | None) -> Any:
    arrow = pyarrow()
    texts = ("gallery", "template_id", "group", "identity", "identity_after", "keep_gallery", "keep_id")
    return arrow.schema(
        [
            *((name, arrow.string()) for name in texts),
            *((name, arrow.int64()) for name in ("lsn", "source_lsn", "keep_lsn")),
            *((name, arrow.binary()) for name in ("metadata", "metadata_after")),
            ("floats", arrow.list_(arrow.float32(), dim or 1)),
        ]
    )


def _write_rows(path: Path, rows: Iterable[Row], dim: int | None) -> int:
    """How many there were."""
    from pyarrow import ipc

    arrow, schema, written = pyarrow(), _schema(dim), 0
    with new_file(path) as file, ipc.new_file(file, schema) as writer:
        for batch in _batched(rows):
            values = [_fields(row.change) for row in batch]
            columns = [arrow.array([v[name] for v in values], schema.field(name).type) for name in schema.names[:-1]]
            if dim is None:
                floats = arrow.nulls(len(batch), schema.field("floats").type)
            else:
                flat = np.concatenate([row.floats for row in batch if row.floats is not None]).astype("<f4")
                floats = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), dim)
            writer.write_batch(arrow.record_batch([*columns, floats], schema=schema))
            written += len(batch)
    return written


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        yield batch


def _fields(change: Change) -> dict[str, Any]:
    keep = (None, None) if change.keep is None else change.keep
    return {
        "gallery": change.key.gallery,
        "template_id": change.key.template_id,
        "keep_gallery": keep[0],
        "keep_id": keep[1],
        **{name: getattr(change, name) for name in _PLAIN},
    }


_PLAIN = ("group", "lsn", "source_lsn", "identity", "metadata", "identity_after", "metadata_after", "keep_lsn")


def _change(row: dict[str, Any]) -> Change:
    keep = None if row["keep_id"] is None else TemplateKey(row["keep_gallery"], row["keep_id"])
    return Change(
        key=TemplateKey(row["gallery"], row["template_id"]), keep=keep, **{name: row[name] for name in _PLAIN}
    )
