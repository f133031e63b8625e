"""A unit's items on their way into a gallery, as processes hand them on: labels of all, vectors of the accepted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.bulk.items import decoded, encoded
from coordinator.snapshots.places import pyarrow

_TEXTS = ("items", "template_ids", "identities", "metadata", "reasons", "messages")


@dataclass(frozen=True, slots=True)
class Batch:
    """Entry i of each field is of item i; reasons: why it is refused, or None, with a message.

    vectors: one for each item that is not refused, in their order: aligned crops (m, 112, 112, 3) uint8 before
    embedding, (m, dim) float32 after it. metadata: JSON. template_ids: None where an item is refused before it has one.
    """

    items: tuple[str, ...]
    template_ids: tuple[str | None, ...]
    identities: tuple[str | None, ...]
    metadata: tuple[str | None, ...]
    reasons: tuple[str | None, ...]
    messages: tuple[str | None, ...]
    vectors: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def accepted(self) -> list[int]:
        """The items that have a vector."""
        return [i for i, reason in enumerate(self.reasons) if reason is None]

    @property
    def has_crops(self) -> bool:
        """Whether its vectors are crops that wait for their embeddings."""
        return self.vectors.ndim == 4

    def to_bytes(self) -> bytes:
        """The same bytes for the same batch."""
        arrow = pyarrow()
        table = arrow.table({name: arrow.array(getattr(self, name), arrow.string()) for name in _TEXTS})
        about = {"dtype": self.vectors.dtype.str, "shape": list(self.vectors.shape)}
        head = encoded(table.replace_schema_metadata({"vectors": json.dumps(about)}))
        return len(head).to_bytes(8, "little") + head + np.ascontiguousarray(self.vectors).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        """The batch of `to_bytes`; its vectors are a view of the data."""
        end = 8 + int.from_bytes(data[:8], "little")
        table = decoded(data[8:end])
        about = json.loads(table.schema.metadata[b"vectors"])
        vectors = np.frombuffer(data, np.dtype(about["dtype"]), offset=end).reshape(about["shape"])
        texts: Any = {name: tuple(table.column(name).to_pylist()) for name in _TEXTS}
        return cls(**texts, vectors=vectors)


class BatchBuilder:
    """A batch that grows item by item."""

    def __init__(self, empty: npt.NDArray[Any]) -> None:
        """empty: what the vectors are if nothing is accepted, (0, …)."""
        self._rows: list[tuple[str | None, ...]] = []
        self._vectors: list[npt.NDArray[Any]] = []
        self._empty = empty

    def accept(
        self, item: str, template_id: str, identity: str | None, metadata: str | None, vector: npt.NDArray[Any]
    ) -> None:
        """Add an item with its vector."""
        self._rows.append((item, template_id, identity, metadata, None, None))
        self._vectors.append(vector)

    def refuse(
        self, item: str, reason: str, message: str, *, template_id: str | None = None, identity: str | None = None
    ) -> None:
        """Add an item that is not enrolled."""
        self._rows.append((item, template_id, identity, None, reason, message))

    def done(self) -> Batch:
        """All of them."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(_TEXTS)
        texts: Any = dict(zip(_TEXTS, columns, strict=True))
        vectors = np.stack(self._vectors) if self._vectors else self._empty
        return Batch(**texts, vectors=vectors)


def with_vectors(batch: Batch, vectors: Sequence[npt.NDArray[Any] | None], empty: npt.NDArray[Any]) -> Batch:
    """The batch with other vectors for its accepted items; those for which there is None are refused."""
    builder = BatchBuilder(empty)
    found = dict(zip(batch.accepted, vectors, strict=True))
    for i, item in enumerate(batch.items):
        vector, template_id, identity = found.get(i), batch.template_ids[i], batch.identities[i]
        if vector is not None:
            assert template_id is not None
            builder.accept(item, template_id, identity, batch.metadata[i], vector)
        else:
            reason = batch.reasons[i] or "bad_embedding"
            message = batch.messages[i] or "the network gave no embedding of this face"
            builder.refuse(item, reason, message, template_id=template_id, identity=identity)
    return builder.done()
