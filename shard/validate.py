"""What a caller's values must be, checked before anything is touched; each failure is a named error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shard.errors import DuplicateTemplate, InvalidEmbedding, InvalidParameter
from shard.types import (
    MAX_DIM,
    MAX_ID_BYTES,
    MAX_K,
    MAX_METADATA_BYTES,
    MAX_PROBES,
    MIN_DIM,
    EnrollBatch,
    FloatArray,
    SearchParams,
)

_UNIT_TOLERANCE = 1e-3


def check_dim(dim: int) -> int:
    """The dimension, if a gallery may have it; InvalidParameter otherwise."""
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not MIN_DIM <= dim <= MAX_DIM:
        raise InvalidParameter(f"dim: expected an integer from {MIN_DIM} to {MAX_DIM}, got {dim!r}")
    return int(dim)


def check_embeddings(values: Any, dim: int, *, what: str = "embeddings") -> FloatArray:
    """The batch as (n, dim) float32, C-contiguous, with finite, non-zero rows; InvalidEmbedding if it is not."""
    if not isinstance(values, np.ndarray):
        raise InvalidEmbedding(f"{what}: expected a numpy array (n, {dim}) float32, got {type(values).__name__}")
    if values.dtype != np.float32:
        raise InvalidEmbedding(f"{what}: expected dtype float32, got {values.dtype}; convert with .astype(np.float32)")
    if values.ndim != 2 or values.shape[1] != dim:
        raise InvalidEmbedding(f"{what}: expected shape (n, {dim}), got {values.shape}")
    if len(values) == 0:
        raise InvalidEmbedding(f"{what}: expected at least one row, got an empty batch")
    squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(squares) | (squares == 0.0))
    if len(bad):
        row = int(bad[0])
        fault = "is all zeros" if squares[row] == 0.0 else "has NaN, Inf or values too large"
        raise InvalidEmbedding(f"{what}: row {row} {fault} ({len(bad)} bad of {len(values)} rows)")
    return np.ascontiguousarray(values)


def normalised(values: FloatArray) -> FloatArray:
    """Rows scaled to unit L2 norm, (n, dim) float32; rows must be finite and non-zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    scaled: FloatArray = (values / norms[:, None]).astype(np.float32)
    return scaled


def check_unit_rows(values: FloatArray, *, what: str) -> None:
    """InvalidEmbedding if a row's norm is not 1."""
    norms = np.einsum("ij,ij->i", values, values)
    bad = np.flatnonzero(np.abs(norms - 1.0) > _UNIT_TOLERANCE)
    if len(bad):
        raise InvalidEmbedding(f"{what}: row {bad[0]} has squared norm {norms[bad[0]]:.4f}, expected unit rows")


def check_params(params: SearchParams) -> None:
    """InvalidParameter if k or recall is out of range."""
    if isinstance(params.k, bool) or not isinstance(params.k, (int, np.integer)) or not 1 <= params.k <= MAX_K:
        raise InvalidParameter(f"k: expected an integer from 1 to {MAX_K}, got {params.k!r}")
    if not isinstance(params.recall, (int, float, np.floating)) or not 0.0 < params.recall < 1.0:
        raise InvalidParameter(f"recall: expected a number in (0, 1), got {params.recall!r}; use exact=True for 1")


def check_probes(values: Any, dim: int) -> FloatArray:
    """`check_embeddings` and the limit on probes in one call."""
    probes = check_embeddings(values, dim, what="probes")
    if len(probes) > MAX_PROBES:
        raise InvalidParameter(f"probes: expected at most {MAX_PROBES} in one call, got {len(probes)}; split the batch")
    return probes


def check_label(value: Any, *, what: str) -> str:
    """A template id or identity: non-empty text without control characters, at most MAX_ID_BYTES of UTF-8."""
    if not isinstance(value, str):
        raise InvalidParameter(f"{what}: expected text, got {type(value).__name__} {value!r:.80}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidParameter(f"{what}: {value!r:.80} is not valid Unicode") from None
    if not 0 < size <= MAX_ID_BYTES:
        raise InvalidParameter(f"{what}: expected 1 to {MAX_ID_BYTES} bytes of UTF-8, got {size}: {value!r:.80}")
    if not value.isprintable():
        raise InvalidParameter(f"{what}: {value!r:.80} has control or unprintable characters")
    return value


def check_unique(template_ids: Sequence[str]) -> None:
    """DuplicateTemplate if an id comes twice."""
    if len(set(template_ids)) == len(template_ids):
        return
    seen: set[str] = set()
    for position, template_id in enumerate(template_ids):
        if template_id in seen:
            raise DuplicateTemplate(f"template id {template_id!r} comes twice in one batch (again at row {position})")
        seen.add(template_id)


def check_batch(batch: EnrollBatch, dim: int) -> None:
    """Every rule on a batch of templates; nothing is written before it passes."""
    check_unit_rows(check_embeddings(batch.embeddings, dim), what="embeddings")
    rows = len(batch.embeddings)
    for name in ("template_ids", "identities", "metadata"):
        if len(getattr(batch, name)) != rows:
            raise InvalidParameter(f"{name}: expected {rows} entries, one a row, got {len(getattr(batch, name))}")
    for row, template_id in enumerate(batch.template_ids):
        check_label(template_id, what=f"template_ids[{row}]")
    for row, identity in enumerate(batch.identities):
        if identity is not None:
            check_label(identity, what=f"identities[{row}]")
    for row, metadata in enumerate(batch.metadata):
        if metadata is not None and len(metadata) > MAX_METADATA_BYTES:
            raise InvalidParameter(f"metadata[{row}]: at most {MAX_METADATA_BYTES} bytes of JSON, got {len(metadata)}")
    check_unique(batch.template_ids)
