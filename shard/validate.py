"""What a caller's values must be, checked before anything is touched; each failure is a named error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard.errors import DuplicateTemplate, InvalidEmbedding, InvalidParameter
from shard.types import (
    MAX_DIM,
    MAX_ID_BYTES,
    MAX_IDENTITIES,
    MAX_K,
    MAX_METADATA_BYTES,
    MAX_PROBES,
    MIN_DIM,
    EnrollBatch,
    FloatArray,
    SearchParams,
)
from shard.where import predicate

_UNIT_TOLERANCE = 1e-3
_SAFE_SQUARES = (1e-20, 1e30)
_SAFE_NORMS = (1e-10, 1e15)
"""Between these a float32 sum of squares, or a norm, is as good as it gets: no overflow, no denormal addends."""
_ROUNDING = 2e-6
"""A squared norm of a scaled row is this near to 1, summed in float32 over MAX_DIM values."""
_BLOCK_ROWS = 512
_WIDEST = {True: 1, False: 4}
"""Most UTF-8 bytes of a character, by whether the text is ASCII."""


def check_dim(dim: int) -> int:
    """The dimension, if a gallery may have it; InvalidParameter otherwise."""
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not MIN_DIM <= dim <= MAX_DIM:
        raise InvalidParameter(f"dim: expected an integer from {MIN_DIM} to {MAX_DIM}, got {dim!r}")
    return int(dim)


def check_embeddings(values: Any, dim: int, *, what: str = "embeddings") -> FloatArray:
    """The batch as (n, dim) float32, C-contiguous, with finite, non-zero rows; InvalidEmbedding if it is not."""
    check_shape(values, dim, what=what)
    # One probe at a time is the usual search, and several passes over one row are mostly NumPy's calls.
    if len(values) > 1 or not _SAFE_SQUARES[0] < float(np.vdot(values, values)) < _SAFE_SQUARES[1]:
        _check_finite(_squares(values), what)
    return np.ascontiguousarray(values)


def check_shape(values: Any, dim: int, *, what: str) -> None:
    """InvalidEmbedding unless `values` is an array (n, dim) float32 with at least one row."""
    if not isinstance(values, np.ndarray):
        raise InvalidEmbedding(f"{what}: expected a numpy array (n, {dim}) float32, got {type(values).__name__}")
    if values.dtype != np.float32:
        raise InvalidEmbedding(f"{what}: expected dtype float32, got {values.dtype}; convert with .astype(np.float32)")
    if values.ndim != 2 or values.shape[1] != dim:
        raise InvalidEmbedding(f"{what}: expected shape (n, {dim}), got {values.shape}")
    if len(values) == 0:
        raise InvalidEmbedding(f"{what}: expected at least one row, got an empty batch")


def _check_finite(squares: npt.NDArray[np.float64], what: str) -> None:
    if _is_safe(squares):
        return
    bad = np.flatnonzero(~np.isfinite(squares) | (squares == 0.0))
    if len(bad):
        row = int(bad[0])
        fault = "is all zeros" if squares[row] == 0.0 else "has NaN, Inf or values too large"
        raise InvalidEmbedding(f"{what}: row {row} {fault} ({len(bad)} bad of {len(squares)} rows)")


def _is_safe(squares: npt.NDArray[np.float64]) -> bool:
    """True if all squared norms are where float32 is as good as it gets; so they are finite and not 0 either."""
    return bool(((squares > _SAFE_SQUARES[0]) & (squares < _SAFE_SQUARES[1])).all())


def _squares(values: FloatArray) -> npt.NDArray[np.float64]:
    """Squared norms (n,): of each row alone, so that they do not depend on the batch it comes in.

    Summed in float32, four times as fast, and again in float64 where float32 may have left its range.
    """
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", values, values).astype(np.float64)
    if not _is_safe(squares):
        odd = np.flatnonzero(~((squares > _SAFE_SQUARES[0]) & (squares < _SAFE_SQUARES[1])))
        rows = values[odd]
        squares[odd] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares


def normalised(values: FloatArray) -> FloatArray:
    """Rows scaled to unit L2 norm, (n, dim) float32; rows must be finite and non-zero.

    A row that is of unit norm within rounding stays bit for bit as it is, so scaling twice is scaling once.
    """
    scaled: FloatArray = np.empty(values.shape, np.float32)
    for begin in range(0, len(values), _BLOCK_ROWS):  # a block stays in the cache between the two passes over it
        rows = values[begin : begin + _BLOCK_ROWS]
        squares = _squares(rows)
        norms = np.where(np.abs(squares - 1.0) < _ROUNDING, 1.0, np.sqrt(squares))
        # A norm that float32 cannot hold is rare; its row is divided again, in float64.
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            np.divide(rows, norms.astype(np.float32)[:, None], out=scaled[begin : begin + len(rows)])
        for row in np.flatnonzero(~((norms > _SAFE_NORMS[0]) & (norms < _SAFE_NORMS[1]))):
            scaled[begin + row] = rows[row] / norms[row]
    return scaled


def check_unit_rows(values: FloatArray, *, what: str) -> None:
    """InvalidEmbedding if a row's norm is not 1."""
    _check_unit(_squares(values), what)


def _check_unit(squares: npt.NDArray[np.float64], what: str) -> None:
    bad = np.flatnonzero(~(np.abs(squares - 1.0) <= _UNIT_TOLERANCE))
    if len(bad):
        raise InvalidEmbedding(f"{what}: row {bad[0]} has squared norm {squares[bad[0]]:.4f}, expected unit rows")


def check_params(params: SearchParams) -> None:
    """InvalidParameter if k, recall, threshold, identities or the filter are not what they may be."""
    if isinstance(params.k, bool) or not isinstance(params.k, (int, np.integer)) or not 1 <= params.k <= MAX_K:
        raise InvalidParameter(f"k: expected an integer from 1 to {MAX_K}, got {params.k!r}")
    if not isinstance(params.recall, (int, float, np.floating)) or not 0.0 < params.recall < 1.0:
        raise InvalidParameter(
            f"recall: expected a number in (0, 1), got {params.recall!r}; for 1 ask for an exact search"
        )
    threshold = params.threshold
    if threshold is not None and not (isinstance(threshold, (int, float, np.number)) and -1.0 <= threshold <= 1.0):
        raise InvalidParameter(f"threshold: expected a cosine from -1 to 1 or None, got {threshold!r}")
    if len(params.identities) > MAX_IDENTITIES:
        got = len(params.identities)
        raise InvalidParameter(f"identities: expected at most {MAX_IDENTITIES} to search among, got {got}")
    for identity in params.identities:
        check_label(identity, what="identities")
    if params.where:
        predicate(params.where)


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


def check_labels(values: Sequence[Any], *, what: str) -> None:
    """`check_label` for each, naming the first that fails."""
    if _are_plain(values):
        return
    for row, value in enumerate(values):
        check_label(value, what=f"{what}[{row}]")


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether all are sure to pass `check_label`, from their concatenation: a batch at the price of a few labels."""
    try:
        together = "".join(values)
    except TypeError:
        return False
    sizes = set(map(len, values))
    return (
        together.isprintable()
        and 0 not in sizes
        and max(sizes, default=0) * _WIDEST[together.isascii()] <= MAX_ID_BYTES
    )


def check_unique(template_ids: Sequence[str]) -> None:
    """DuplicateTemplate if an id comes twice."""
    if len(set(template_ids)) == len(template_ids):
        return
    seen: set[str] = set()
    for position, template_id in enumerate(template_ids):
        if template_id in seen:
            raise DuplicateTemplate(f"template id {template_id!r} comes twice in one batch (again at row {position})")
        seen.add(template_id)


def check_metadata(values: Sequence[bytes | None], rows: int) -> None:
    """InvalidParameter unless there is metadata for each row, or None, none longer than MAX_METADATA_BYTES."""
    if len(values) != rows:
        raise InvalidParameter(f"metadata: expected {rows} entries, one a row, got {len(values)}")
    for row, metadata in enumerate(values):
        if metadata is not None and len(metadata) > MAX_METADATA_BYTES:
            raise InvalidParameter(f"metadata[{row}]: at most {MAX_METADATA_BYTES} bytes of JSON, got {len(metadata)}")


def check_batch(batch: EnrollBatch, dim: int) -> None:
    """Every rule on a batch of templates; nothing is written before it passes."""
    check_shape(batch.embeddings, dim, what="embeddings")
    squares = _squares(batch.embeddings)
    _check_finite(squares, "embeddings")
    _check_unit(squares, "embeddings")
    rows = len(batch.embeddings)
    for name in ("template_ids", "identities", "metadata"):
        if len(getattr(batch, name)) != rows:
            raise InvalidParameter(f"{name}: expected {rows} entries, one a row, got {len(getattr(batch, name))}")
    check_labels(batch.template_ids, what="template_ids")
    if not _are_plain(batch.identities):
        for row, identity in enumerate(batch.identities):
            if identity is not None:
                check_label(identity, what=f"identities[{row}]")
    check_metadata(batch.metadata, rows)
    check_unique(batch.template_ids)
