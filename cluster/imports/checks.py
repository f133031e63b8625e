"""Which records of a batch can become templates: floats, labels, metadata and ids looked at one by one.

What `Gallery.enroll` would refuse the whole batch for is found here for each record, so that the others go in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.imports.records import RawBatch, RefusedRecord, made_id
from shard.errors import InvalidParameter
from shard.types import MAX_METADATA_BYTES, FloatArray
from shard.validate import check_label

MAX_METADATA_DEPTH = 64


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """Records that can be enrolled: entry i of each field belongs to row i. given: whether the id is the file's own."""

    embeddings: FloatArray
    template_ids: tuple[str, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[Mapping[str, Any] | None, ...]
    given: tuple[bool, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.template_ids)

    def take(self, rows: list[int]) -> CheckedBatch:
        """These rows, in this order."""
        if len(rows) == len(self):
            return self
        return CheckedBatch(
            embeddings=self.embeddings[rows],
            template_ids=tuple([self.template_ids[i] for i in rows]),
            identities=tuple([self.identities[i] for i in rows]),
            metadata=tuple([self.metadata[i] for i in rows]),
            given=tuple([self.given[i] for i in rows]),
            places=tuple([self.places[i] for i in rows]),
        )


def checked(raw: RawBatch) -> tuple[CheckedBatch, list[RefusedRecord]]:
    """The records that may be enrolled, and why each of the others may not."""
    refused = list(raw.refused)
    faults = dict(_float_faults(raw.embeddings))
    rows: list[int] = []
    ids: list[str] = []
    for row in range(len(raw)):
        fault = faults.get(row) or label_fault(raw.template_ids[row], raw.identities[row], raw.metadata[row])
        if fault is not None:
            refused.append(RefusedRecord(raw.places[row], *fault))
            continue
        given, identity = raw.template_ids[row], raw.identities[row]
        rows.append(row)
        ids.append(given if isinstance(given, str) else made_id(identity, raw.sources[row], raw.embeddings[row]))
    identities, metadata = [raw.identities[i] for i in rows], [raw.metadata[i] for i in rows]
    batch = CheckedBatch(
        embeddings=raw.embeddings if len(rows) == len(raw) else raw.embeddings[rows],
        template_ids=tuple(ids),
        identities=tuple([None if i is None else str(i) for i in identities]),
        metadata=tuple([m if isinstance(m, Mapping) else None for m in metadata]),
        given=tuple([raw.template_ids[i] is not None for i in rows]),
        places=tuple([raw.places[i] for i in rows]),
    )
    return batch, refused


def _float_faults(rows: FloatArray) -> Iterator[tuple[int, tuple[str, str]]]:
    if not len(rows):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    for row in np.flatnonzero(~np.isfinite(squares)).tolist():
        yield row, ("not_finite", "the embedding has NaN, Inf or values too large")
    for row in np.flatnonzero(squares == 0.0).tolist():
        yield row, ("zero_vector", "the embedding is all zeros")


def label_fault(template_id: object, identity: object, metadata: object) -> tuple[str, str] | None:
    """Reason and message if id, identity or metadata of a record, each of which may be None, cannot be stored."""
    named = (("bad_id", "template_id", template_id), ("bad_identity", "identity", identity))
    for code, what, value in named:
        if value is None:
            continue
        try:
            check_label(value, what=what)
        except InvalidParameter as error:
            return code, str(error)
    if metadata is None:
        return None
    return _metadata_fault(metadata)


def _metadata_fault(metadata: object) -> tuple[str, str] | None:
    if not isinstance(metadata, Mapping):
        return "bad_metadata", f"expected a JSON object, got {type(metadata).__name__}"
    level: list[object] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        if not all(isinstance(key, str) for value in level if isinstance(value, Mapping) for key in value):
            return "bad_metadata", "expected texts as keys of an object"
        level = [inner for value in level for inner in _inside(value)]
    if level:
        return "bad_metadata", f"expected at most {MAX_METADATA_DEPTH} objects and lists in each other"
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except (TypeError, ValueError, RecursionError) as error:
        return "bad_metadata", f"not representable as JSON: {error}"
    if size > MAX_METADATA_BYTES:
        return "bad_metadata", f"at most {MAX_METADATA_BYTES} bytes of JSON, got {size}"
    return None


def _inside(value: object) -> Sequence[object]:
    if isinstance(value, Mapping):
        return [*value.values()]
    return value if isinstance(value, (list, tuple)) else ()
