"""`DedupResult`: the files of a finished dedup job, read back with checks.

    result = DedupResult.open(home / "jobs" / job_id)

Groups are kept in memory once they were asked for; pairs are read batch by batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.dedup.result_columns import (
    GROUPS,
    MEMBERS,
    PAIRS,
    REPORT,
    SUMMARY,
    groups_schema,
    members_schema,
    pairs_schema,
)
from cluster.dedup.results import RESULT_FORMAT
from coordinator.snapshots.places import pyarrow
from shard.errors import CorruptData, FormatTooNew, InvalidParameter, NotFound


@dataclass(frozen=True, slots=True)
class Member:
    """A template of a group. quality: None where it is not known; medoid_score: cosine with the group's medoid."""

    gallery: str
    template_id: str
    identity: str | None
    role: str
    quality: float | None
    medoid_score: float
    is_medoid: bool


class DedupResult:
    """What a dedup job found. Thread-safe: nothing changes but what is cached."""

    def __init__(self, directory: Path, summary: dict[str, Any]) -> None:
        """directory: the job's. Use `open`."""
        self.directory, self.summary = directory, summary

    @classmethod
    def open(cls, directory: Path | str) -> DedupResult:
        """The result in a job's directory, or in its `result`.

        NotFound if there is none yet, InvalidParameter if it is another job's or an analysis, which has no groups;
        FormatTooNew, CorruptData.
        """
        directory = Path(directory)
        directory = directory.parent if directory.name == "result" else directory
        path = directory / "result" / SUMMARY
        try:
            summary = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"{directory.name} has no result: expected {path}") from None
        except (ValueError, RecursionError) as error:
            raise CorruptData(f"{path} is not JSON: {error}", path=str(path)) from error
        if not isinstance(summary, dict) or summary.get("kind") != "dedup":
            raise InvalidParameter(f"{directory.name}: expected the result of a dedup job")
        version = summary.get("format")
        if type(version) is not int or version < 1:
            raise CorruptData(f"{path}: format: expected an integer of at least 1, got {version!r}", path=str(path))
        if version > RESULT_FORMAT:
            raise FormatTooNew(f"{path} has format {version}; this Facegrid reads up to {RESULT_FORMAT}")
        if not (directory / "result" / GROUPS).is_file():
            raise InvalidParameter(f"{directory.name}: an analysis has no groups; submit a job with a threshold")
        return cls(directory, summary)

    @property
    def job_id(self) -> str:
        """Of the job: the name of its directory."""
        return self.directory.name

    def path(self, name: str) -> Path:
        """Of a file of the result."""
        return self.directory / "result" / name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of groups.parquet, in hexadecimal: reviews and applies say by it what they are of."""
        return hashlib.sha256(self.path(GROUPS).read_bytes()).hexdigest()

    @cached_property
    def groups(self) -> Any:
        """groups.parquet as a pyarrow.Table, by group and within it by (gallery, template id). CorruptData."""
        table = _read(self.path(GROUPS), groups_schema())
        numbers = table.column("group").to_numpy()
        if len(numbers) and (numbers[0] != 0 or not np.isin(np.diff(numbers), (0, 1)).all()):
            raise _corrupt(self.path(GROUPS), "expected groups 0, 1, 2, … one after another")
        return table

    @cached_property
    def members(self) -> Any:
        """members.parquet as a pyarrow.Table, row by row the templates of `groups`. CorruptData."""
        table = _read(self.path(MEMBERS), members_schema())
        shared = ["group", "gallery", "template_id"]
        if not table.select(shared).equals(self.groups.select(shared)):
            raise _corrupt(self.path(MEMBERS), f"expected the templates of {GROUPS} in its order")
        return table

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(groups + 1,) int64: where each group begins in `groups`, and the end."""
        numbers = self.groups.column("group").to_numpy()
        count = int(numbers[-1]) + 1 if len(numbers) else 0
        found: npt.NDArray[np.int64] = np.searchsorted(numbers, np.arange(count + 1)).astype(np.int64)
        return found

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.starts) - 1

    def rows_of(self, group: int) -> slice:
        """Where its members are in `groups`. InvalidParameter for a number that is no group's."""
        if isinstance(group, bool) or not isinstance(group, int) or not 0 <= group < len(self):
            raise InvalidParameter(
                f"group: expected a number from 0 to {len(self) - 1} of {self.job_id}, got {group!r}"
            )
        return slice(int(self.starts[group]), int(self.starts[group + 1]))

    def members_of(self, group: int) -> tuple[Member, ...]:
        """Its templates, in the order of groups.parquet. InvalidParameter."""
        rows = self.rows_of(group)
        names = list(Member.__dataclass_fields__)
        found = self.groups.slice(rows.start, rows.stop - rows.start).select(names).to_pylist()
        return tuple(Member(**row) for row in found)

    def reason_of(self, group: int) -> str | None:
        """Why it needs review; None if it does not."""
        reason: str | None = self.groups.column("reason")[self.rows_of(group).start].as_py()
        return reason

    def to_review(self) -> npt.NDArray[np.int64]:
        """Numbers of the groups that need review, ascending."""
        column = self.groups.column("needs_review").to_numpy()
        found: npt.NDArray[np.int64] = np.flatnonzero(column[self.starts[:-1]])
        return found

    def pairs(self, batch_rows: int = 1 << 16) -> Iterator[Any]:
        """pairs.parquet, as pyarrow.RecordBatches of up to `batch_rows` rows. CorruptData."""
        path = self.path(PAIRS)
        with _reading(path) as file:
            _check_schema(path, file.schema_arrow, pairs_schema())
            yield from _checked(path, file.iter_batches(batch_size=batch_rows))

    def report(self) -> str:
        """report.html. CorruptData if it is missing."""
        try:
            return self.path(REPORT).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise _corrupt(self.path(REPORT), f"expected a page of HTML: {error}") from error


def _read(path: Path, schema: Any) -> Any:
    with _reading(path) as file:
        _check_schema(path, file.schema_arrow, schema)
        (table,) = _checked(path, iter([file]), lambda opened: opened.read())
    return table.cast(schema).combine_chunks()


def _reading(path: Path) -> Any:
    arrow = pyarrow()
    try:
        return arrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise _corrupt(path, "the file is missing") from None
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these
        raise _corrupt(path, str(error)) from error


def _checked(path: Path, values: Iterator[Any], then: Any = lambda value: value) -> Iterator[Any]:
    """The values, with pyarrow's errors as CorruptData."""
    while True:
        try:
            value = then(next(values))
        except StopIteration:
            return
        except (ValueError, OSError) as error:
            raise _corrupt(path, str(error)) from error
        yield value


def _check_schema(path: Path, found: Any, expected: Any) -> None:
    if found.names != expected.names:
        raise _corrupt(path, f"expected the columns {', '.join(expected.names)}, found {', '.join(found.names)}")


def _corrupt(path: Path, what: str) -> CorruptData:
    return CorruptData(f"{path}: {what}", path=str(path))
