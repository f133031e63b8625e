"""Sketches: a few hundred bytes of each row from which the native join tells what pairs cannot reach a threshold.

Owns the basis that sketches are made with (`Basis`), how it is chosen for a threshold, and the rows of one (`Sketch`).
A basis decides how much work a join is, never which pairs it finds: bounds hold for every row, whatever it was made of.
Source of the bound: the inequality of Cauchy and Schwarz for what coordinates leave out (native/src/sketch.rs).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from shard.errors import CorruptData, InvalidParameter
from shard.index import NativeSketch
from shard.lists import fit_lists
from shard.types import FloatArray

PlaceArray = npt.NDArray[np.uint32]
BoundArray = npt.NDArray[np.int64]

WIDTHS = ((64, 64), (128, 64), (128, 128), (192, 0), (192, 64), (256, 0), (256, 128), (384, 0), (512, 0))
"""Bytes of heads and tails to choose from. All heads of two parts are multiplied, tails where heads leave it open."""
HEAD_NS, HIT_NS, FLOAT_NS = 0.18, 25.0, 150.0
"""Costs of a pair on one core with AVX-512: 64 bytes of its heads, looking at its tails, multiplying its floats. Only
their ratio counts, and only for the speed."""
TRIAL_ROWS, TRIAL_LISTS = 2_048, 8
"""Rows of the sample, or of each of so many lists, whose pairs say what widths cost."""
LIST_COORDINATES = 124
"""Coordinates by which rows are put into lists."""
SCALE_QUANTILE = 0.999
"""The share of the sample's rows whose largest coordinate has to fit into a byte. Larger ones are cut, which makes the
bounds of their rows as much wider."""
_BLOCK = 8_192
_MAGIC = b"FGBASIS1"
_HEADER = struct.Struct("<8sI")


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """directions: (dim, c) float32, orthonormal, most important first. scale: units to one. head, tail: bytes a row.

    centroids: (lists, c) float32, unit norm, by which rows are put into lists; none for joins of all with all.
    margin: a row visits the lists that agree with it at most so much less than its own.
    """

    directions: FloatArray
    scale: float
    head: int
    tail: int
    centroids: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    margin: float = 0.0

    @property
    def dim(self) -> int:
        """Of the rows."""
        return len(self.directions)

    def to_bytes(self) -> bytes:
        """The basis as bytes; the same for the same basis."""
        header = json.dumps(
            {
                "dim": self.dim,
                "coordinates": self.directions.shape[1],
                "lists": len(self.centroids),
                "scale": self.scale,
                "head": self.head,
                "tail": self.tail,
                "margin": self.margin,
            },
            sort_keys=True,
        ).encode()
        arrays = self.directions.astype("<f4").tobytes() + self.centroids.astype("<f4").tobytes()
        return _HEADER.pack(_MAGIC, len(header)) + header + arrays

    @classmethod
    def from_bytes(cls, data: bytes) -> Basis:
        """What `to_bytes` gave; CorruptData for anything else."""
        try:
            magic, size = _HEADER.unpack_from(data)
            header = json.loads(data[_HEADER.size : _HEADER.size + size])
            if magic != _MAGIC:
                raise ValueError(f"magic {magic!r}")
            dim, width, lists = (int(header[name]) for name in ("dim", "coordinates", "lists"))
            values = np.frombuffer(data, "<f4", offset=_HEADER.size + size).astype(np.float32)
            directions, centroids = np.split(values, [dim * width])
            return cls(
                directions.reshape(dim, width),
                float(header["scale"]),
                int(header["head"]),
                int(header["tail"]),
                centroids.reshape(lists, width if lists else 0),
                float(header["margin"]),
            )
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"expected the bytes of a basis, got {len(data)} others: {error}") from None


class Sketch:
    """Rows as sketches, with the floats that they were made of. Read-only.

    pieces: the floats, (n, dim) each, which are kept and, where they are mapped, stay mapped. With lists, rows are in
    the order of their lists inside: `order` (rows,) uint32 says which row is at each place, `lists` (lists + 1,) int64
    where lists begin, and `visitors[visits[i]:visits[i + 1]]` (uint32) at which places the rows are that visit list i.
    """

    def __init__(self, basis: Basis, pieces: Sequence[FloatArray]) -> None:
        """Raises InvalidParameter for rows that are not of unit norm or of another dimension."""
        self.pieces = [piece for piece in pieces if len(piece)]
        for piece in self.pieces:
            if piece.ndim != 2 or piece.shape[1] != basis.dim or piece.dtype != np.float32:
                raise InvalidParameter(f"rows: expected (n, {basis.dim}) float32, got {piece.shape} {piece.dtype}")
        self.native = NativeSketch(basis.scale, basis.head, basis.tail)
        self.order: PlaceArray | None = None
        self.lists: BoundArray | None = None
        self.visits: BoundArray | None = None
        self.visitors: PlaceArray | None = None
        if len(basis.centroids):
            self._fill_by_lists(basis)
        else:
            for piece in self.pieces:
                for start in range(0, len(piece), _BLOCK):
                    rows = piece[start : start + _BLOCK]
                    self._append(rows @ basis.directions, _squares(rows))

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.native.rows

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the floats."""
        arrays = (self.order, self.lists, self.visits, self.visitors)
        return self.native.nbytes + sum(array.nbytes for array in arrays if array is not None)

    def _append(self, coordinates: FloatArray, squares: FloatArray) -> None:
        try:
            self.native.append(np.ascontiguousarray(coordinates), squares)
        except ValueError as error:
            raise InvalidParameter(f"rows to sketch: {error}") from None

    def _fill_by_lists(self, basis: Basis) -> None:
        count, rows = len(basis.centroids), sum(len(piece) for piece in self.pieces)
        coordinates = np.empty((rows, basis.directions.shape[1]), np.float32)
        squares, own = np.empty(rows, np.float32), np.empty(rows, np.int64)
        lists: list[npt.NDArray[np.int64]] = []
        visitors: list[npt.NDArray[np.int64]] = []
        done = 0
        for piece in self.pieces:
            for start in range(0, len(piece), _BLOCK):
                block = piece[start : start + _BLOCK]
                end = done + len(block)
                np.matmul(block, basis.directions, out=coordinates[done:end])
                squares[done:end] = _squares(block)
                own[done:end], rows_at, lists_at = _visits(coordinates[done:end], basis)
                visitors.append(rows_at + done)
                lists.append(lists_at)
                done = end
        order = np.argsort(own, kind="stable")
        place = np.empty(rows, np.uint32)
        place[order] = np.arange(rows, dtype=np.uint32)
        self.order = order.astype(np.uint32)
        self.lists = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=count))]).astype(np.int64)
        visited = np.concatenate([*lists, np.empty(0, np.int64)])
        visiting = place[np.concatenate([*visitors, np.empty(0, np.int64)])]
        by_list = np.lexsort((visiting, visited))
        self.visitors = visiting[by_list]
        self.visits = np.concatenate([[0], np.cumsum(np.bincount(visited, minlength=count))]).astype(np.int64)
        for start in range(0, rows, _BLOCK):
            at = order[start : start + _BLOCK]
            self._append(coordinates[at], squares[at])


def sketch(basis: Basis, pieces: Sequence[FloatArray]) -> Sketch:
    """Rows (n, dim) float32 of unit norm, in one piece or several, as a sketch. InvalidParameter for others."""
    return Sketch(basis, pieces)


def make_basis(sample: FloatArray, threshold: float) -> Basis:
    """The basis for joins at a threshold of rows like those of a sample (n, dim) float32, n >= 1, of unit norm.

    Its directions are the principal ones of the sample, and its widths those that cost least by the sample's pairs.
    """
    if sample.ndim != 2 or not len(sample):
        raise InvalidParameter(f"sample: expected (n, dim) with n >= 1, got {sample.shape}")
    rows = sample.astype(np.float64)
    directions = np.ascontiguousarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1], dtype=np.float32)
    largest = np.abs(sample @ directions).max(axis=1)
    scale = float(np.clip(127 / max(float(np.quantile(largest, SCALE_QUANTILE)), 1e-3), 1, 4_000))
    trial = sample[np.linspace(0, len(sample) - 1, min(len(sample), TRIAL_ROWS)).astype(np.intp)]
    return _cheapest(directions, scale, [trial], threshold)


def with_lists(basis: Basis, sample: FloatArray, count: int, threshold: float, rng: np.random.Generator) -> Basis:
    """The basis with `count` lists fitted to a sample (n, dim), n >= count, and a margin of 0.

    Its widths are those that cost least by pairs of one list: they are more alike than others, so that it takes more
    bytes to tell them apart.
    """
    coordinates = np.ascontiguousarray((sample @ basis.directions)[:, :LIST_COORDINATES])
    centroids = fit_lists(coordinates, count, rng)
    own = (coordinates @ centroids.T).argmax(axis=1)
    largest = np.argsort(-np.bincount(own, minlength=count), kind="stable")[:TRIAL_LISTS]
    trials = [sample[own == number][:TRIAL_ROWS] for number in largest]
    chosen = _cheapest(basis.directions, basis.scale, trials, threshold)
    padded = np.zeros((count, chosen.directions.shape[1]), np.float32)
    width = min(padded.shape[1], centroids.shape[1])
    padded[:, :width] = centroids[:, :width]
    return replace(chosen, centroids=padded)


def _cheapest(directions: FloatArray, scale: float, trials: Sequence[FloatArray], threshold: float) -> Basis:
    """The basis whose widths cost least for the pairs within each of the trials."""
    width = directions.shape[1]
    # A head that has room for all coordinates has no use for a tail, nor for more room.
    fitting = [widths for i, widths in enumerate(WIDTHS) if i == 0 or min(sum(w) for w in WIDTHS[:i]) < width]
    candidates = [Basis(_cut(directions, head, tail), scale, head, tail) for head, tail in fitting]
    return min(candidates, key=lambda basis: sum(_cost(basis, rows, threshold) for rows in trials))


def _cut(directions: FloatArray, head: int, tail: int) -> FloatArray:
    return np.ascontiguousarray(directions[:, : NativeSketch(1.0, head, tail).coordinates])


def _cost(basis: Basis, rows: FloatArray, threshold: float) -> float:
    """Nanoseconds a pair."""
    heads, wholes = Sketch(basis, [np.ascontiguousarray(rows)]).native.possible(threshold)
    pairs = max(len(rows) * (len(rows) - 1) / 2, 1)
    return basis.head / 64 * HEAD_NS + (heads * HIT_NS * (basis.tail > 0) + wholes * FLOAT_NS) / pairs


def _squares(rows: FloatArray) -> FloatArray:
    squares: FloatArray = np.einsum("ij,ij->i", rows, rows)
    return squares


def _visits(
    coordinates: FloatArray, basis: Basis
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The own list of each row; and pairs of a row and a list that it visits, its own included, as two arrays."""
    agreement = coordinates @ basis.centroids.T
    own = agreement.argmax(axis=1)
    least = agreement[np.arange(len(own)), own] - np.float32(basis.margin)
    rows, lists = np.nonzero(agreement >= least[:, None])
    return own, rows, lists
