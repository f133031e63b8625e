"""The native index, its SIMD kernel, and the checksums of sealed files. The only importer of the extension."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shard import _native
from shard._native import CHECKSUM_BLOCK, CorruptBlock, Index, Projection
from shard._native import Sketch as NativeSketch
from shard._native import join_sketches as native_pairs
from shard._native import search as search_indexes
from shard.errors import CorruptData, InvalidParameter
from shard.files import on_disk

__all__ = [
    "CHECKSUM_BLOCK",
    "Index",
    "NativeSketch",
    "Projection",
    "blocks_named",
    "checksum_block",
    "crc32c_blocks",
    "kernel",
    "kernels",
    "native_pairs",
    "search_indexes",
    "use_kernel",
    "wrong_block",
]


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


def crc32c_blocks(data: npt.NDArray[np.generic], block: int = CHECKSUM_BLOCK) -> bytes:
    """CRC32C of each `block` bytes of the array, as little-endian uint32."""
    return _native.crc32c_blocks(data.reshape(-1).view(np.uint8), block)


def checksum_block(path: Path, size: int, crc: bytes) -> int:
    """Bytes covered by each stored checksum of the file `path` of `size` bytes; earlier versions sealed longer blocks.

    Raises CorruptData if they are not as many as the file can have blocks.
    """
    if len(crc) % 4 == 0:
        with contextlib.suppress(ValueError):
            return _native.checksum_block(size, len(crc) // 4)
    raise CorruptData(
        f"{path}: the manifest has {len(crc)} bytes of checksums, which are not those of {size} bytes", path=str(path)
    )


@contextlib.contextmanager
def blocks_named() -> Iterator[None]:
    """Around calls of the index that read floats: a block that is not what was sealed is CorruptData of its file."""
    try:
        yield
    except CorruptBlock as error:
        path, offset = error.args
        raise wrong_block(on_disk(path), offset) from None


def wrong_block(path: Path | str, offset: int) -> CorruptData:
    """The error of a file whose block at byte `offset` is not what was sealed."""
    return CorruptData(f"{path}: wrong CRC32C in the block at byte {offset}", path=str(path))
