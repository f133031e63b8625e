"""The values that cross package boundaries: frozen, slotted, arrays and plain values only.

Everything here may travel over the data plane (`coordinator/frames.py`), so no field is a callable, a path or a dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
CodeArray = npt.NDArray[np.uint8]
RowArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

PLANE_BITS = 128
"""Bits of one code plane."""
PLANE_BYTES = PLANE_BITS // 8
MIN_DIM, MAX_DIM = 64, 2048
"""Embedding dimensions that a gallery may have."""
MAX_K = 1_000
"""The most candidates that one search may ask for."""
MAX_IDENTITIES = 10_000
"""The most identities that one search may be confined to."""
MAX_PROBES = 16_384
"""The most probes in one search call; a longer batch is the caller's to split."""
MAX_ID_BYTES = 128
"""Longest template id or identity, in UTF-8 bytes."""
MAX_METADATA_BYTES = 16_384
"""Longest metadata of one template, as JSON."""
DEFAULT_RECALL = 0.999
"""Recall@k against exhaustive search that a search aims at when none is asked for."""


@dataclass(frozen=True, slots=True)
class EnrollBatch:
    """Templates to write: row i of `embeddings` belongs to entry i of each tuple.

    embeddings: (n, dim) float32, C-contiguous, unit L2 norm. metadata: UTF-8 JSON objects, or None.
    """

    embeddings: FloatArray
    template_ids: tuple[str, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[bytes | None, ...]

    def __len__(self) -> int:
        return len(self.template_ids)

    def take(self, rows: Sequence[int] | RowArray) -> EnrollBatch:
        """A batch of these rows, in the order given."""
        picked = rows.tolist() if isinstance(rows, np.ndarray) else rows
        return EnrollBatch(
            embeddings=self.embeddings[rows],
            template_ids=tuple([self.template_ids[i] for i in picked]),
            identities=tuple([self.identities[i] for i in picked]),
            metadata=tuple([self.metadata[i] for i in picked]),
        )


@dataclass(frozen=True, slots=True)
class EnrollReceipt:
    """What is durable: `enrolled` new templates, `skipped` that were there already, last LSN of the shard."""

    enrolled: int
    skipped: int
    lsn: int


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How to search: `recall` in (0, 1) says how far each stage looks; `exact` scans every float instead.

    threshold: cosine from -1 to 1; what is below is left out and not looked for, so a large k and a threshold are a
    range search. identities: search among the templates of these only; of all where there are none. where: among those
    whose metadata meets this filter, in the canonical form of `shard.where`; b"" for all.
    """

    k: int
    recall: float = DEFAULT_RECALL
    exact: bool = False
    threshold: float | None = None
    identities: tuple[str, ...] = ()
    where: bytes = b""


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """Candidate lists, best first: by score descending, then by template key (`shard.keys`) ascending.

    scores: (n, k) float32 cosine, NaN where there are fewer than k candidates; keys: (n, k) uint64, 0 there. Rounding
    may carry a score a little past 1: cut to 1 before lists are merged, it would tie with others and change its place.
    template_ids and identities: n tuples, each as long as that probe's list.
    """

    scores: FloatArray
    keys: KeyArray
    template_ids: tuple[tuple[str, ...], ...]
    identities: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True, slots=True)
class TemplateRecord:
    """One stored template: its labels, its metadata as UTF-8 JSON (None when it has none) and its LSN."""

    template_id: str
    identity: str | None
    metadata: bytes | None
    lsn: int


@dataclass(frozen=True, slots=True)
class IdentityCount:
    """An identity and how many live templates it has."""

    identity: str
    templates: int


@dataclass(frozen=True, slots=True)
class IdentityDraw:
    """Identities drawn of all (`lone`, whatever they have) and of those with two templates or more (`paired`).

    identities, templates: how many identities there are, and how many templates bear one.
    """

    lone: tuple[IdentityCount, ...]
    paired: tuple[IdentityCount, ...]
    identities: int
    templates: int


@dataclass(frozen=True, slots=True)
class ErasureState:
    """What a shard's files still hold of deleted templates.

    dead_rows: rows whose floats are there. oldest: unix seconds of the oldest deletion whose bytes may be there, None
    if there is none. needs_scrub: labels may be in the database's free pages or its log.
    """

    dead_rows: int
    oldest: int | None
    needs_scrub: bool


@dataclass(frozen=True, slots=True)
class ShardStats:
    """A shard's size: live templates, deleted rows not yet compacted, bytes in memory and on disk, active model id."""

    templates: int
    deleted: int
    segments: int
    code_bytes: int
    disk_bytes: int
    lsn: int
    model_id: str | None
