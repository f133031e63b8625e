"""What every format becomes on its way into a gallery: batches of records as a file has them, and those refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shard.types import FloatArray

MAX_BATCH_ROWS = 8_192
MAX_BATCH_BYTES = 16 << 20
"""Most records and most bytes of floats that are in memory at once."""


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that was not imported: where it is in the file, a stable reason, and what was found.

    reason: no_embedding, dimension, not_finite, zero_vector, bad_id, bad_identity, bad_metadata or duplicate_id; of
    photos, one of the reasons of InvalidImage.
    """

    where: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records as a file has them, only their dimension checked; entry i of each field belongs to row i.

    embeddings: (n, dim) float32. template_ids: None where the file has none: one is made of the record. identities,
    metadata: whatever the file says. sources: what tells two records of equal floats and identity apart, such as a
    path. places: where each is, for reports. refused: records that have no row, of this part of the file.
    """

    embeddings: FloatArray
    template_ids: Sequence[object]
    identities: Sequence[object]
    metadata: Sequence[object]
    sources: Sequence[str]
    places: Sequence[str]
    refused: tuple[RefusedRecord, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)


class Records(Protocol):
    """An opened file of records."""

    @property
    def total(self) -> int:
        """How many records there are, 0 if that is not known before they are read."""

    @property
    def embedder(self) -> str | None:
        """The network that made the embeddings by its name in Facegrid's registry, None where the file does not say."""

    def batches(self) -> Iterator[RawBatch]:
        """All records in the file's order; InvalidFile where it is not what its format says."""


def batch_rows(dim: int) -> int:
    """How many records of that dimension one batch holds."""
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // (4 * dim)))


def made_id(identity: object, source: str, row: FloatArray) -> str:
    """The id of a record that has none: BLAKE2b-128 of its identity, source and floats, the same at every import."""
    digest = hashlib.blake2b(digest_size=16)
    for text in ("" if identity is None else f"={identity}", source):
        data = text.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    digest.update(row.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def shown_text(text: str) -> str:
    """The text with what is not Unicode in it escaped, so that any path can be metadata."""
    return text.encode(errors="backslashreplace").decode()


def source_metadata(source: str, **more: Any) -> Mapping[str, Any] | None:
    """Metadata that says where a record comes from; None if there is nothing to say."""
    found = {key: value for key, value in more.items() if value is not None}
    return {"source": shown_text(source), **found} if source else found or None
