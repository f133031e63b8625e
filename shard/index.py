"""The native index, and the choice of its SIMD kernel. The only importer of the extension."""

from __future__ import annotations

from shard import _native
from shard._native import Index, Projection
from shard._native import join as join_indexes
from shard._native import search as search_indexes
from shard.errors import InvalidParameter

__all__ = ["Index", "Projection", "crc32c_blocks", "join_indexes", "kernel", "kernels", "search_indexes", "use_kernel"]

import numpy as np
import numpy.typing as npt

CHECKSUM_BLOCK = 1 << 20
"""Bytes covered by one CRC32C of a sealed file."""


def kernels() -> list[str]:
    """Names of the kernels that this processor can run, fastest first."""
    return _native.kernels()


def kernel() -> str:
    """Name of the kernel in use."""
    return _native.kernel()


def use_kernel(name: str) -> None:
    """Choose the kernel for this process; InvalidParameter if it is unknown, not runnable here, or too late."""
    try:
        _native.use_kernel(name)
    except ValueError as error:
        raise InvalidParameter(f"kernel: {error}") from None


def crc32c_blocks(data: npt.NDArray[np.generic]) -> bytes:
    """CRC32C of each CHECKSUM_BLOCK bytes of the array, as little-endian uint32."""
    flat = data.reshape(-1).view(np.uint8)
    sums = [_native.crc32c(flat[i : i + CHECKSUM_BLOCK]) for i in range(0, len(flat), CHECKSUM_BLOCK)]
    return np.array(sums, dtype="<u4").tobytes()
