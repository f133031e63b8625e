"""`Faces`: what is known of the faces that occur in pairs, as arrays: labels, photos, quality.

Made of the labels of those rows alone, so that millions of faces that resemble nobody cost nothing here. Knows no
scores and no groups.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.photo_facts import PHASH, PHOTO, QUALITY
from coordinator.snapshots.places import pyarrow
from shard.types import FloatArray, RowArray

Codes = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_PATTERNS = {
    PHOTO: '"(?P<value>[0-9a-f]{32})"',
    PHASH: '"(?P<value>[0-9a-f]{16})"',
    QUALITY: "(?P<value>[0-9.eE+-]+)",
}
"""How our facts stand in metadata, which is JSON without spaces: shard rows keep it as cluster/metadata.py writes
it."""


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Faces by ascending global row, entry i of each field of face i.

    rows: (m,) int64. order: (m,) int64, a permutation of 0..m-1: where each stands by input and template id, which
    breaks ties, since rows depend on how a gallery is cut. input: (m,) int8. shard: (m,) int32. identity: (m,) int32
    into `identities`, -1 for none. photo: (m,) int32, equal for faces of the same file, -1 unknown. quality: (m,)
    float32, nan unknown. phash: (m,) uint64, where has_phash."""

    rows: RowArray
    order: RowArray
    input: npt.NDArray[np.int8]
    shard: Codes
    identity: Codes
    identities: tuple[str, ...]
    photo: Codes
    quality: FloatArray
    phash: Hashes
    has_phash: Flags

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def unlabelled(cls, count: int) -> Faces:
        """Faces of rows 0..count-1, of which nothing is known."""
        number, unknown = np.arange(count, dtype=np.int64), np.full(count, -1, np.int32)
        return cls(
            rows=number,
            order=number,
            input=np.zeros(count, np.int8),
            shard=np.zeros(count, np.int32),
            identity=unknown,
            identities=(),
            photo=unknown,
            quality=np.full(count, np.nan, np.float32),
            phash=np.zeros(count, np.uint64),
            has_phash=np.zeros(count, bool),
        )


def faces_of(labels: Any) -> Faces:
    """Faces of a pyarrow table of labels, in any order of rows, each row once.

    labels: columns row int64, input int8, shard int32, template_id string, identity string or null, metadata binary
    (UTF-8 JSON) or null. Raises MissingExtra without pyarrow.
    """
    arrow = pyarrow()
    import pyarrow.compute as pc

    labels = labels.combine_chunks().sort_by("row")
    by_id = pc.sort_indices(labels, [("input", "ascending"), ("template_id", "ascending")]).to_numpy()
    order = np.empty(len(by_id), np.int64)
    order[by_id] = np.arange(len(by_id))
    identity, identities = _codes(labels.column("identity"))
    facts = _facts(labels.column("metadata"))
    photo, _ = _codes(arrow.array(facts[PHOTO], arrow.string()))
    has_phash = ~np.asarray(pc.is_null(facts[PHASH]).to_numpy(zero_copy_only=False), bool)
    return Faces(
        rows=_numbers(labels, "row", np.int64),
        order=order,
        input=_numbers(labels, "input", np.int8),
        shard=_numbers(labels, "shard", np.int32),
        identity=identity,
        identities=identities,
        photo=photo,
        quality=_qualities(facts[QUALITY]),
        phash=_hashes(facts[PHASH]),
        has_phash=has_phash,
    )


def _numbers(labels: Any, name: str, dtype: Any) -> Any:
    return labels.column(name).to_numpy().astype(dtype)


def _one_array(column: Any) -> Any:
    """A column's chunks as one array."""
    chunks = getattr(column, "chunks", [column])
    return pyarrow().concat_arrays(chunks) if chunks else pyarrow().array([], column.type)


def _codes(column: Any) -> tuple[Codes, tuple[str, ...]]:
    """(m,) int32 into the values in ascending order, -1 for null, and those values."""
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(_one_array(column))
    names = encoded.dictionary.to_pylist()
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1, np.int32)
    rank[by_name] = np.arange(len(names))
    rank[-1] = -1
    indices = pc.fill_null(encoded.indices.cast("int64"), -1).to_numpy(zero_copy_only=False)
    return rank[indices], tuple(names[i] for i in by_name)


def _facts(metadata: Any) -> dict[str, Any]:
    """Our facts as pyarrow arrays of texts, null where there is none.

    Most metadata is one flat object and is searched as text; the few with objects within are read as JSON, because a
    user may have called a field of an inner one like ours.
    """
    arrow = pyarrow()
    import pyarrow.compute as pc

    text = pc.cast(_one_array(metadata), arrow.string())
    nested = pc.fill_null(pc.greater(pc.count_substring(text, "{"), 1), False).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(nested)
    inner = [json.loads(value) for value in text.take(arrow.array(at)).to_pylist()]
    facts = {}
    for name, pattern in _PATTERNS.items():
        found = pc.struct_field(pc.extract_regex(text, f'[{{,]"{name}":{pattern}[,}}]'), "value")
        if len(at):
            values = found.to_numpy(zero_copy_only=False)
            values[at] = [_as_text(value.get(name)) for value in inner]
            found = arrow.array(values, arrow.string())
        facts[name] = found
    return facts


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None if value is None else json.dumps(value)


def _qualities(texts: Any) -> FloatArray:
    import pyarrow.compute as pc

    values = pc.fill_null(pc.cast(texts, "float32"), float("nan"))
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32)


def _hashes(texts: Any) -> Hashes:
    """(m,) uint64 of 16 hexadecimal digits each; 0 for null."""
    import pyarrow.compute as pc

    joined = "".join(pc.fill_null(texts, "0" * 16).to_pylist())
    return np.frombuffer(bytes.fromhex(joined), dtype=">u8").astype(np.uint64)
