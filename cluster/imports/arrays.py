"""Arrays of embeddings in .npy files, mapped and never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shard.errors import InvalidEmbedding
from shard.types import FloatArray


def read_embeddings(path: Path, *, may_be_empty: bool = False) -> npt.NDArray[Any]:
    """A .npy file, mapped: (n, dim) float32 or float16; one row (dim,) becomes (1, dim).

    float16 is what large sets are stored in; it widens to float32 without loss. may_be_empty: n may be 0.
    Raises InvalidEmbedding.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever Python's tokenizer and parser do
        raise InvalidEmbedding(f"{path}: expected a .npy file of embeddings: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InvalidEmbedding(f"{path}: expected a .npy file of one array, got an archive")
    if array.dtype not in (np.float32, np.float16):
        raise InvalidEmbedding(f"{path}: expected dtype float32 or float16, got {array.dtype}")
    if array.ndim not in (1, 2) or (array.size == 0 and not (may_be_empty and array.ndim == 2)):
        raise InvalidEmbedding(f"{path}: expected shape (n, dim), n >= 1, or (dim,), got {array.shape}")
    return array[None, :] if array.ndim == 1 else array


def check_array_dim(path: Path, array: npt.NDArray[Any], dim: int) -> None:
    """InvalidEmbedding unless the array's rows have the gallery's dimension."""
    if array.shape[1] != dim:
        raise InvalidEmbedding(
            f"{path}: expected embeddings of {dim} dimensions as the gallery's, got {array.shape[1]}"
        )


def widened(rows: npt.NDArray[Any]) -> FloatArray:
    """Mapped rows as (n, dim) float32 in memory."""
    return np.ascontiguousarray(rows, dtype=np.float32)
