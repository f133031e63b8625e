"""Carrying out one batch of an apply, or taking it back, so that it may be repeated after a kill at any point.

A template is looked at before it is changed: what is not as it was planned is left as it is. In a batch that was begun
before (`is_retry`) a template that is gone, or is as it is to be, was changed by us then. An identity decides the shard
of a template, so changing it is a deletion and an enrollment; the journal has the floats meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.dedup.apply_journal import Outcome, Row
from cluster.dedup.apply_plan import ApplyAction, Known, Skip, TemplateKey, records_of
from cluster.dedup.row_labels import metadata_digest
from cluster.metadata import metadata_json
from coordinator.types import GalleryRoute
from shard.types import EnrollBatch, TemplateRecord

if TYPE_CHECKING:
    from cluster.api import Cluster

_NO_TAGS: frozenset[str] = frozenset()
_DONE = ""


@dataclass(frozen=True, slots=True)
class _Back:
    """A template to enroll: as it was, or with another identity."""

    row: Row
    identity: str | None
    metadata: bytes | None


class ApplySteps:
    """Changes templates of the galleries of one result."""

    def __init__(self, cluster: Cluster, routes: Mapping[str, GalleryRoute], action: ApplyAction, key: str) -> None:
        """key: of the metadata that is set, for a tag."""
        self._cluster, self._routes, self._action, self._key = cluster, routes, action, key

    def do(self, rows: Sequence[Row], is_retry: bool) -> list[Outcome]:
        """Change these templates; what became of each."""
        records = self._records(rows)
        skips = [self._skip(row, records, is_retry) for row in rows]
        if self._action is ApplyAction.DELETE:
            return self._delete(rows, skips, records)
        if self._action is ApplyAction.TAG:
            self._set_tags(rows, skips, records, lambda row: row.change.metadata_after)
        else:
            self._enroll_again(rows, skips, records, lambda row: row.change.identity_after)
        return self._outcomes(rows, skips)

    def undo(self, rows: Sequence[Row], done: Sequence[Outcome], is_retry: bool) -> list[Outcome]:
        """Take back what `do` did to these templates, of which `done` is what became."""
        records = self._records(rows)
        if self._action is ApplyAction.DELETE:
            skips = [self._skip_return(row, was, records, is_retry) for row, was in zip(rows, done, strict=True)]
            self._enroll([_as_it_was(row) for row, skip in zip(rows, skips, strict=True) if not skip])
        elif self._action is ApplyAction.TAG:
            skips = [self._skip_untag(row, was, records) for row, was in zip(rows, done, strict=True)]
            self._set_tags(rows, skips, records, lambda row: row.change.metadata)
        else:
            skips = [self._skip_unmerge(row, was, records, is_retry) for row, was in zip(rows, done, strict=True)]
            self._enroll_again(rows, skips, records, lambda row: row.change.identity)
        return self._outcomes(rows, skips)

    # Whether a template is still what it has to be

    def _skip(self, row: Row, records: Mapping[TemplateKey, TemplateRecord], is_retry: bool) -> str:
        change = row.change
        record = records.get(change.key)
        if is_retry and self._is_done(row, record):
            return _DONE
        skip = Known(change.lsn, change.identity, metadata_digest(change.metadata)).skip_of(record, _NO_TAGS)
        if skip is Skip.METADATA and self._action is not ApplyAction.DELETE:
            skip = None
        if skip is None and change.keep is not None:
            kept = records.get(change.keep)
            skip = Skip.KEEP if kept is None or kept.lsn != change.keep_lsn else None
        return _DONE if skip is None else skip.value

    def _is_done(self, row: Row, record: TemplateRecord | None) -> bool:
        if self._action is ApplyAction.DELETE:
            return record is None
        if self._action is ApplyAction.TAG:
            return record is not None and self._tag_of(record.metadata) == self._tag_of(row.change.metadata_after)
        return record is None or record.identity == row.change.identity_after

    def _skip_return(
        self, row: Row, was: Outcome, records: Mapping[TemplateKey, TemplateRecord], is_retry: bool
    ) -> str:
        """Of a template that was deleted."""
        record = records.get(row.change.key)
        if was.skip or record is None:
            return was.skip
        is_ours = is_retry and (record.identity, record.metadata) == (row.change.identity, row.change.metadata)
        return _DONE if is_ours else Skip.THERE.value

    def _skip_untag(self, row: Row, was: Outcome, records: Mapping[TemplateKey, TemplateRecord]) -> str:
        record = records.get(row.change.key)
        if was.skip:
            return was.skip
        if record is None:
            return Skip.DELETED.value
        if record.lsn != was.lsn:
            return Skip.ENROLLED_AGAIN.value
        ours = {json.dumps(self._tag_of(value)) for value in (row.change.metadata, row.change.metadata_after)}
        return _DONE if json.dumps(self._tag_of(record.metadata)) in ours else Skip.METADATA.value

    def _skip_unmerge(
        self, row: Row, was: Outcome, records: Mapping[TemplateKey, TemplateRecord], is_retry: bool
    ) -> str:
        record = records.get(row.change.key)
        if was.skip or (is_retry and (record is None or record.identity == row.change.identity)):
            return was.skip
        bare = None if record is None else replace(record, metadata=None)
        found = Known(was.lsn, row.change.identity_after, None).skip_of(bare, _NO_TAGS)
        return _DONE if found is None else found.value

    # Changing

    def _delete(
        self, rows: Sequence[Row], skips: Sequence[str], records: Mapping[TemplateKey, TemplateRecord]
    ) -> list[Outcome]:
        keys = [row.change.key for row, skip in zip(rows, skips, strict=True) if not skip]
        self._remove([key for key in keys if key in records])
        return [Outcome(skip, -1) for skip in skips]

    def _remove(self, keys: Sequence[TemplateKey]) -> None:
        for gallery, ids in _by_gallery(keys).items():
            self._cluster.router.delete(self._routes[gallery], template_ids=tuple(ids), identities=())

    def _amend(self, metadata: Mapping[TemplateKey, bytes | None]) -> None:
        for gallery, ids in _by_gallery(list(metadata)).items():
            values = tuple(metadata[TemplateKey(gallery, template_id)] for template_id in ids)
            self._cluster.router.amend_many(self._routes[gallery], tuple(ids), values)

    def _enroll_again(
        self,
        rows: Sequence[Row],
        skips: Sequence[str],
        records: Mapping[TemplateKey, TemplateRecord],
        identity_of: Callable[[Row], str | None],
    ) -> None:
        """Give templates another identity, and leave those that have it."""
        back = []
        for row, skip in zip(rows, skips, strict=True):
            record = records.get(row.change.key)
            if skip or (record is not None and record.identity == identity_of(row)):
                continue
            metadata = row.change.metadata if record is None else record.metadata
            back.append(_Back(row, identity_of(row), metadata))
        self._remove([entry.row.change.key for entry in back if entry.row.change.key in records])
        self._enroll(back)

    def _enroll(self, back: Sequence[_Back]) -> None:
        by_key = {entry.row.change.key: entry for entry in back}
        for gallery, ids in _by_gallery(list(by_key)).items():
            entries = [by_key[TemplateKey(gallery, template_id)] for template_id in ids]
            batch = EnrollBatch(
                np.stack([entry.row.floats for entry in entries if entry.row.floats is not None]),
                tuple(ids),
                tuple(entry.identity for entry in entries),
                tuple(entry.metadata for entry in entries),
            )
            self._cluster.router.enroll(self._routes[gallery], batch, skip_existing=True, new_ids=False)

    def _set_tags(
        self,
        rows: Sequence[Row],
        skips: Sequence[str],
        records: Mapping[TemplateKey, TemplateRecord],
        tag_of: Callable[[Row], bytes | None],
    ) -> None:
        """Give the key the value that `tag_of` has it with, or take it away where that has none; the rest stays."""
        metadata = {}
        for row, skip in zip(rows, skips, strict=True):
            if not skip:
                found = _parsed(records[row.change.key].metadata)
                rest = {name: value for name, value in found.items() if name != self._key}
                metadata[row.change.key] = metadata_json({**rest, **_parsed(tag_of(row))} or None)
        self._amend(metadata)

    def _tag_of(self, metadata: bytes | None) -> Any:
        return _parsed(metadata).get(self._key)

    def _records(self, rows: Sequence[Row]) -> dict[TemplateKey, TemplateRecord]:
        keeps = [row.change.keep for row in rows if row.change.keep is not None]
        return records_of(self._cluster, self._routes, [*(row.change.key for row in rows), *keeps])

    def _outcomes(self, rows: Sequence[Row], skips: Sequence[str]) -> list[Outcome]:
        """With the LSN of each template now."""
        records = records_of(self._cluster, self._routes, [row.change.key for row in rows])
        found = [records.get(row.change.key) for row in rows]
        return [Outcome(skip, -1 if record is None else record.lsn) for skip, record in zip(skips, found, strict=True)]


def _as_it_was(row: Row) -> _Back:
    return _Back(row, row.change.identity, row.change.metadata)


def _by_gallery(keys: Sequence[TemplateKey]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(key.gallery, []).append(key.template_id)
    return found


def _parsed(metadata: bytes | None) -> dict[str, Any]:
    return {} if metadata is None else dict(json.loads(metadata))
