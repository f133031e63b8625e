"""Bringing a file's records into a gallery: batch by batch, each durable before the next is read.

A repeated import adds nothing: a record's id is its own, or made of what the record says. A record whose id another
record or a template of another identity has is refused, never put in its place.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.imports.checks import CheckedBatch, checked
from cluster.imports.formats import FORMATS, Format, format_of, open_records
from cluster.imports.records import Records, RefusedRecord
from cluster.progress import Tell, show_progress
from shard.errors import InvalidParameter, ModelMismatch

if TYPE_CHECKING:
    from cluster.client import RemoteGallery
    from cluster.gallery import Gallery

MAX_LISTED = 100_000
"""Refused records that a report lists; those after them are counted by reason only."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a file: records read, templates enrolled now, skipped because they are there already, refused.

    refused: why, of the first MAX_LISTED. reasons: how many of each reason, of all.
    """

    format: str
    records: int
    enrolled: int
    skipped: int
    refused: tuple[RefusedRecord, ...]
    reasons: dict[str, int]


def import_into(
    gallery: Gallery | RemoteGallery,
    path: str | Path,
    *,
    format: Format = "auto",  # noqa: A002 the word of the command line
    labels: str | Path | None = None,
    progress: Tell | bool = True,
) -> ImportReport:
    """Import embeddings, or photos, into a gallery of their dimension; durable batch by batch, so it may be repeated.

    format: "auto" tells it from names of files. labels: a file of them for a .npy array, where it is not beside it.
    progress: a bar on a terminal (True), nothing (False), or a callable that gets records done and in all, 0 where
    that is not known. Scores between embeddings of different networks are noise: a file that names another one than the
    gallery's is ModelMismatch, and one that names none is imported with a warning if the gallery has one.
    Raises InvalidParameter, InvalidFile, UnsafeFile, InvalidEmbedding, MissingExtra; what was read before stays.
    """
    if format not in FORMATS:
        raise InvalidParameter(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    source = Path(path)
    kind = format_of(source) if format == "auto" else format
    if kind == "folder":
        return _import_folder(gallery, source, progress)
    records = open_records(source, kind, gallery.dim, None if labels is None else Path(labels))
    _check_embedder(gallery, source, records)
    run = _Import(gallery)
    with show_progress(progress, "importing") as tell:
        for raw in records.batches():
            run.add(*checked(raw))
            if tell is not None:
                tell(run.records, records.total)
    return run.report(kind)


def _check_embedder(gallery: Gallery | RemoteGallery, path: Path, records: Records) -> None:
    if gallery.embedder is None:
        return
    if records.embedder is None:
        _LOG.warning("%s does not say which network made it; %s holds %s's", path, gallery.name, gallery.embedder)
    elif records.embedder != gallery.embedder:
        raise ModelMismatch(f"{path} holds embeddings of {records.embedder}, {gallery.name} of {gallery.embedder}")


def _import_folder(gallery: Gallery | RemoteGallery, folder: Path, progress: Tell | bool) -> ImportReport:
    report = gallery.enroll_folder(folder, progress=progress)
    refused = tuple(RefusedRecord(str(r.path), r.reason, r.message) for r in report.refused)
    reasons = dict(Counter(r.reason for r in refused))
    return ImportReport("folder", report.photos, report.enrolled, report.skipped, refused, reasons)


@dataclass(slots=True)
class _Import:
    """One import under way."""

    gallery: Gallery | RemoteGallery
    records: int = 0
    enrolled: int = 0
    skipped: int = 0
    refused: list[RefusedRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, batch: CheckedBatch, refused: list[RefusedRecord]) -> None:
        """Enroll what is new of a batch."""
        self.records += len(batch) + len(refused)
        for record in refused:
            self._refuse(record)
        fresh = batch.take([*self._new_rows(batch)])
        if not len(fresh):
            return
        result = self.gallery.enroll(
            fresh.embeddings,
            identities=fresh.identities,
            template_ids=fresh.template_ids,
            metadata=fresh.metadata,
            if_exists="skip",
        )
        self.enrolled += result.enrolled
        self.skipped += result.skipped

    def _new_rows(self, batch: CheckedBatch) -> list[int]:
        """Rows whose id is not of an earlier row, nor in the gallery with another identity."""
        asked = [t for t, is_given in zip(batch.template_ids, batch.given, strict=True) if is_given]
        there = {t.template_id: t.identity for t in self.gallery.templates(asked)} if asked else {}
        first: dict[str, int] = {}
        rows: list[int] = []
        for row, template_id in enumerate(batch.template_ids):
            if template_id in there:
                self._known(batch, row, is_same=there[template_id] == batch.identities[row])
            elif template_id in first:
                self._known(batch, row, is_same=_is_same(batch, row, first[template_id]))
            else:
                first[template_id] = row
                rows.append(row)
        return rows

    def _known(self, batch: CheckedBatch, row: int, *, is_same: bool) -> None:
        if is_same:
            self.skipped += 1
            return
        message = f"template id {batch.template_ids[row]!r} is another record's"
        self._refuse(RefusedRecord(batch.places[row], "duplicate_id", message))

    def _refuse(self, record: RefusedRecord) -> None:
        self.reasons[record.reason] += 1
        if len(self.refused) < MAX_LISTED:
            self.refused.append(record)

    def report(self, kind: str) -> ImportReport:
        """What became of it."""
        reasons = dict(self.reasons.most_common())
        return ImportReport(kind, self.records, self.enrolled, self.skipped, tuple(self.refused), reasons)


def _is_same(batch: CheckedBatch, row: int, other: int) -> bool:
    same_floats = batch.embeddings[row].tobytes() == batch.embeddings[other].tobytes()
    return same_floats and batch.identities[row] == batch.identities[other]
