"""The compiled extension (crate `native/`). Only `shard/index.py` imports it.

Every array is checked for dtype, shape and C order before use; a wrong one is a ValueError that says which.
Results do not depend on the number of threads or on the kernel. The GIL is released around all work.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def kernels() -> list[str]:
    """Names of the Hamming kernels that this processor can run, fastest first; "scalar" is always among them."""

def kernel() -> str:
    """Name of the kernel in use: the one named by `use_kernel`, else the fastest. Chosen once per process."""

def use_kernel(name: str) -> None:
    """Choose the kernel by name. ValueError if the name is unknown, this processor lacks it, or another is in use."""

def hamming(
    probes: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint8], kernel: str | None = None
) -> npt.NDArray[np.uint16]:
    """Distances, (n, m) uint16, of probes (n, b) to codes (m, b); b a multiple of 16. All cores."""

class CorruptBlock(Exception):
    """A block of a sealed file is not what was sealed. args: path of the file (str), byte offset of the block (int)."""

CHECKSUM_BLOCK: int
"""Bytes covered by one checksum of a file that is sealed today."""

def crc32c(data: bytes | memoryview | npt.NDArray[np.uint8], value: int = 0) -> int:
    """CRC32C (Castagnoli) of contiguous bytes, continuing from `value`."""

def crc32c_blocks(data: bytes | memoryview | npt.NDArray[np.uint8], block: int) -> bytes:
    """CRC32C of each `block` bytes of contiguous bytes, the last may be shorter, as little-endian uint32."""

def checksum_block(size: int, count: int) -> int:
    """Bytes covered by each of the `count` checksums of a file of `size` bytes, sealed today or by an earlier version.

    ValueError if it cannot have so many.
    """

class Index:
    """The rows of one shard: mapped floats, tie keys, a deleted bitmap and, with a model, code planes in memory.

    Rows are numbered from 0 over all segments in the order added. Safe to search while another thread appends.
    A segment that is sealed with checksums has each block of floats compared with its own the first time that a search,
    join or gather reads a row of it; a wrong one fails the call with CorruptBlock, and nothing is remembered of it.
    """

    def __init__(self, dim: int) -> None: ...
    @property
    def dim(self) -> int: ...
    @property
    def rows(self) -> int:
        """Rows ever added, deleted ones and those of dropped segments included."""
    @property
    def live_rows(self) -> int: ...
    @property
    def planes(self) -> int:
        """Code planes of 128 bits each; 0 while there is no model."""
    @property
    def lists(self) -> int:
        """Inverted lists of the codes; 0 if there are none."""
    @property
    def code_bytes(self) -> int:
        """Bytes of memory held by codes, bitmap, checksums and unmapped keys (capacity, not length)."""

    def open_segment(self, floats_path: str, capacity: int) -> int:
        """Map a new last segment, to which `append` adds; returns its number.

        The file holds `capacity` rows of dim little-endian float32 (it may be sparse); rows become readable by append.
        OSError if it is shorter than that or cannot be mapped.
        """

    def append(self, keys: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint8] | None) -> int:
        """Make the next len(keys) rows of the last segment searchable; they are in its file already. Returns first row.

        keys (n,) uint64. codes (n, bytes of a code) uint8: needed when planes > 0, None when it is 0.
        """

    def keys(self, segment: int) -> npt.NDArray[np.uint64]:
        """Keys of the segment's rows as they were appended, (rows,) uint64; (0,) of a dropped one.

        ValueError if there is no such segment.
        """

    def seal(self, segment: int, keys_path: str, floats_crc: bytes) -> None:
        """No row will be added to a segment: put its codes in order of their lists, and map its keys from a file.

        The file holds its rows' little-endian uint64. floats_crc: what `crc32c_blocks` gave for its rows' floats, with
        which they are compared from now on; b"" compares nothing. ValueError if the keys are not those that were
        appended, or if there cannot be so many checksums; nothing is changed then.
        """

    def drop(self, segment: int) -> None:
        """Let go of a segment's files, codes and bitmap; its rows keep their numbers and stay deleted for ever.

        Its files may be removed from then on. ValueError unless every row of it is deleted. Dropping it again does
        nothing.
        """

    def skip(self, rows: int) -> int:
        """Add a segment of so many rows as one that was dropped, of no files; returns its number.

        `append` needs a new one after it. ValueError if there cannot be so many rows.
        """

    def set_codes(self, planes: int, lists: int, codes: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Replace all codes: one (rows of segment, bytes of a code) uint8 array per segment; 0, 0 and [] drop them.

        A dropped segment takes (0, bytes of a code).

        A code is planes * 16 bytes and, if lists > 0, the number of the row's list as a little-endian uint16.
        """

    def delete(self, rows: npt.NDArray[np.int64]) -> int:
        """Hide rows from every search; returns how many were live, which rows of dropped segments are not.

        IndexError if one is out of range.
        """

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Float rows (n, dim), deleted ones too.

        IndexError if one is out of range or its segment was dropped, CorruptBlock if one is not what was sealed.
        """

class Projection:
    """What a search model makes of probes; holds its weights in bfloat16."""

    def __init__(
        self,
        projection: npt.NDArray[np.float32],
        thresholds: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32],
        centroids: npt.NDArray[np.float32],
    ) -> None:
        """projection (dim, bits), bits a multiple of 128; thresholds (bits,); mean (dim,); centroids (lists, 128)."""

    def project(
        self, probes: npt.NDArray[np.float32], lines: Sequence[tuple[float, float]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(values, lists, bounds) of probes (n, dim) float32, as a cascade of `search` takes them.

        lines: three of (offset, slope), for lists, first plane and all planes; agreement over norm is at least
        offset + slope * (cosine - probe @ mean). The same bits on every kernel and for every batch.
        """

def search(
    indexes: Sequence[Index],
    probes: npt.NDArray[np.float32],
    cascades: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32], float] | None],
    k: int,
    least: float = ...,
    filters: Sequence[npt.NDArray[np.uint8] | None] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.uint64]]:
    """The k best rows of all indexes together for each probe, by (score descending, key ascending, index, row).

    probes (n, dim) float32. cascades[i] None scans all floats of index i. Else it is (values, lists, bounds, knee):
    values (n, planes * 128) float32, the probe's projections minus thresholds; lists (n, lists) float32, its agreement
    with each list's centroid; bounds (n, 6) float32, offset and slope of the least agreement of a row by its cosine,
    of its list, its first plane and all planes; cosines above knee count half. Rows that may be among the best by
    these bounds are scored on floats. Give indexes of one model the same arrays.
    least: rows of a lower score are left out, none by default; what it leaves out need not be looked at, so a large k
    and a least are a range search. filters[i] (bytes,) uint8 holds a bit for each row of index i, lowest first; rows
    whose bit is 0 or missing are passed over. None filters nothing.
    Returns index numbers (n, k) int32, rows (n, k) int64, both -1 padded; scores (n, k) float32, NaN padded; keys
    (n, k) uint64, 0 padded. All cores. An exact scan and a cascade give the same score bits for the same row.
    CorruptBlock if floats that were needed are not what was sealed.
    """

class Sketch:
    """A few bytes of each row, from which an upper bound of the cosine of any two follows.

    scale: units to one. head, tail: bytes of a row, multiples of 64; the tail may have none.
    """

    def __init__(self, scale: float, head: int, tail: int) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def coordinates(self) -> int:
        """Coordinates of a row that have room in it, at most."""
    @property
    def nbytes(self) -> int:
        """Bytes of memory, by capacity."""

    def append(self, coordinates: npt.NDArray[np.float32], squares: npt.NDArray[np.float32]) -> None:
        """Add rows by their coordinates (n, c) in an orthonormal basis and their squared norms (n,), which are 1.

        ValueError for others, and nothing is added.
        """

    def possible(self, least: float) -> tuple[int, int]:
        """How many pairs of its rows may have a cosine of `least`, by heads alone, and by tails too. All cores."""

_Side = tuple[Sketch, list[npt.NDArray[np.float32]], npt.NDArray[np.uint32] | None]

def join_sketches(
    left: _Side,
    right: _Side | None,
    least: float,
    visits: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint32]] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Pairs of rows whose cosine is at least `least`: (left rows, right rows, scores), (n,) each, sorted, each once.

    A side is a sketch, the floats of its rows in pieces (n, dim), and which row is at each place of it; None: in
    order. right None pairs rows of left, the lower first. visits: (lists, visits, visitors): the rows of list i on the
    right are at places lists[i]:lists[i + 1], and met by those on the left at visitors[visits[i]:visits[i + 1]] only.
    ValueError if they do not fit. All cores.
    """
