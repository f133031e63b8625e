"""The SearchModel: embeddings to binary codes in planes, and how far a row's code may be for a promised recall.

Owns the trained values, encoding, their content hash and their bytes. It must not know how they were trained
(`shard.training`), where they are stored, or any gallery: one model serves every shard of a rollout. On the data path
it stands before the native index: templates come in and codes go out, probes come in and a query goes out.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shard.calibration import Calibration, Lines
from shard.errors import CorruptData, FormatTooNew, InvalidEmbedding, InvalidParameter
from shard.index import Projection
from shard.lists import nearest_list
from shard.types import MAX_DIM, MIN_DIM, PLANE_BITS, CodeArray, FloatArray

CODE_BITS = (128, 256, 512, 1024)
"""Code lengths a model may have."""
FORMAT_VERSION = 2
MAX_LISTS = 1 << 16
"""The number of a list is a uint16."""
_MAGIC = b"FGMODEL\n"
_PREAMBLE = struct.Struct("<8sHHI")  # magic, format version, reserved (0), header bytes
_CRC = struct.Struct("<I")
_DIGEST_BYTES = 16
_ALIGNMENT = 64  # of the first array, so that a mapped file serves as it is
_MAX_HEADER = 1 << 16
_ENCODE_ROWS = 8_192  # rows encoded at a time: bounds the float intermediate to 32 MB at 1024 bits

_Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Probes as the native search takes them.

    values: (n, code_bits) float32, projections minus thresholds. lists: (n, lists) float32, agreement with each list's
    centroid. bounds: (n, 6) float32, `Calibration.lines` times the norms of each probe's values: offset and slope of
    the least agreement of a row by its cosine, for its list, its first plane and all planes. The weights behind them
    are rounded to bfloat16.
    knee: cosine above which the bounds were not measured.
    """

    values: FloatArray
    lists: FloatArray
    bounds: FloatArray
    knee: float


@dataclass(frozen=True, slots=True, eq=False)
class SearchModel:
    """PCA and ITQ folded into one projection, the mean, centroids of lists, and the recall calibration. Immutable.

    dim: of the embeddings. code_bits: 128, 256, 512 or 1024. mean: (dim,) float32. projection: (dim, code_bits)
    float32; plane p is columns [128p, 128p + 128). thresholds: (code_bits,) float32, the mean projected; a bit is 1
    where the projected embedding is above. centroids: (lists, 128) float32, compared with a row's projections minus
    thresholds on the first plane; there may be none.
    trained_on: rows of the training sample. model_id: 32 hex digits, BLAKE2b over everything above.
    Raises InvalidParameter when the values do not fit together.
    Source: ITQ, Gong & Lazebnik, CVPR 2011; planes and calibration in docs/search-model.md.
    """

    dim: int
    code_bits: int
    mean: FloatArray
    projection: FloatArray
    centroids: FloatArray
    calibration: Calibration
    trained_on: int
    thresholds: FloatArray = field(init=False)
    model_id: str = field(init=False)
    _projection: Projection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_fields(self)
        # Summed in one order, so that every machine has the same thresholds and the same codes.
        thresholds = (self.mean.astype(np.float64)[:, None] * self.projection).sum(axis=0).astype(np.float32)
        object.__setattr__(self, "thresholds", thresholds)
        for name in ("mean", "projection", "centroids", "thresholds"):
            array = np.ascontiguousarray(getattr(self, name))
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        header, arrays = _content(self)
        object.__setattr__(self, "model_id", _digest(header, arrays).hex())
        native = Projection(self.projection, self.thresholds, self.mean, self.centroids)
        object.__setattr__(self, "_projection", native)

    @property
    def planes(self) -> int:
        """Code planes of 128 bits each."""
        return self.code_bits // PLANE_BITS

    @property
    def lists(self) -> int:
        """Inverted lists; 0 if there are none."""
        return len(self.centroids)

    @property
    def code_bytes(self) -> int:
        """Bytes of a code: its planes and, if there are lists, the number of its list as a little-endian uint16."""
        return self.code_bits // 8 + (2 if self.lists else 0)

    def encode(self, embeddings: FloatArray) -> CodeArray:
        """Codes of embeddings (n, dim) float32, unit L2 norm: (n, code_bytes) uint8, C-contiguous.

        Bit j of a code is bit 7 - j % 8 of byte j // 8 (NumPy's big bit order), so plane p is bytes [16p, 16p + 16).
        What follows the planes is the list.
        The same batch gives the same codes. The same row in another batch may differ in a bit whose value lies within
        float rounding of its threshold, since BLAS picks its kernel by shape; codes only choose what is reranked on
        floats, so such a bit never changes a score. Raises InvalidEmbedding for a wrong shape or dtype.
        """
        self._check(embeddings, "embeddings")
        codes = np.empty((len(embeddings), self.code_bytes), dtype=np.uint8)
        for start in range(0, len(embeddings), _ENCODE_ROWS):
            rows = slice(start, start + _ENCODE_ROWS)
            values = embeddings[rows] @ self.projection - self.thresholds
            codes[rows, : self.code_bits // 8] = np.packbits(values > 0, axis=1)
            if self.lists:
                lists = nearest_list(values[:, :PLANE_BITS], self.centroids)
                codes[rows, self.code_bits // 8 :] = lists.astype("<u2")[:, None].view(np.uint8)
        return codes

    def query(self, probes: FloatArray, recall: float) -> Query:
        """What the native search needs for probes (n, dim) float32, unit L2 norm, to find rows with that recall@k.

        Recall is against exhaustive search, for any k and gallery size, and for probes that may be of strangers.
        Raises InvalidEmbedding for a wrong shape or dtype, InvalidParameter for a recall outside (0, 1).
        """
        self._check(probes, "probes")
        values, lists, bounds = self._projection.project(np.ascontiguousarray(probes), _lines(self.calibration, recall))
        return Query(values, lists, bounds, self.calibration.knee)

    def _check(self, rows: FloatArray, what: str) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.dim or rows.dtype != np.float32:
            raise InvalidEmbedding(f"{what}: expected (n, {self.dim}) float32, got {rows.shape} {rows.dtype}")

    def to_bytes(self) -> bytes:
        """The model as self-describing bytes: preamble and its CRC, JSON header, little-endian arrays, BLAKE2b."""
        header, arrays = _content(self)
        preamble = _PREAMBLE.pack(_MAGIC, FORMAT_VERSION, 0, len(header))
        body = [array.tobytes() for array in arrays.values()]
        return b"".join(
            [preamble, _CRC.pack(zlib.crc32(preamble)), header, *body, _digest(header, arrays)],
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> SearchModel:
        """The model that `to_bytes` wrote, checked against its hash; its arrays are views of `data`, not copies.

        Raises CorruptData where bytes are missing, added or changed, FormatTooNew for a later format version.
        """
        data = memoryview(data)
        header_start, header_bytes = _read_preamble(data)
        arrays_start = header_start + header_bytes
        content, stored = data[header_start:-_DIGEST_BYTES], bytes(data[-_DIGEST_BYTES:])
        if len(data) < arrays_start + _DIGEST_BYTES:
            raise CorruptData(
                f"search model: expected a header of {header_bytes} bytes and more, got {len(data)} in all"
            )
        computed = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        if computed != stored:
            raise CorruptData(f"search model: its hash says {stored.hex()}, its content gives {computed.hex()}")
        return _rebuild(bytes(data[header_start:arrays_start]), data[arrays_start:-_DIGEST_BYTES])


@lru_cache(maxsize=64)
def _lines(calibration: Calibration, recall: float) -> Lines:
    return calibration.lines(recall)


def _check_fields(model: SearchModel) -> None:
    if not MIN_DIM <= model.dim <= MAX_DIM:
        raise InvalidParameter(f"dim: expected {MIN_DIM} to {MAX_DIM}, got {model.dim}")
    check_code_bits(model.code_bits)
    lists = model.centroids.shape[0] if model.centroids.ndim == 2 else -1
    if not 0 <= lists <= MAX_LISTS:
        raise InvalidParameter(f"centroids: expected (lists, {PLANE_BITS}) with up to {MAX_LISTS} lists, got {lists}")
    expected = {
        "mean": (model.dim,),
        "projection": (model.dim, model.code_bits),
        "centroids": (lists, PLANE_BITS),
    }
    for name, shape in expected.items():
        array: FloatArray = getattr(model, name)
        if array.shape != shape or array.dtype != np.float32:
            raise InvalidParameter(f"{name}: expected {shape} float32, got {array.shape} {array.dtype}")
        if not np.isfinite(array).all():
            raise InvalidParameter(f"{name}: expected finite values, got NaN or Inf")


def check_code_bits(code_bits: int) -> None:
    """Raises InvalidParameter unless code_bits is one of CODE_BITS."""
    if code_bits not in CODE_BITS:
        raise InvalidParameter(f"code_bits: expected one of {CODE_BITS}, got {code_bits!r}")


def _content(model: SearchModel) -> tuple[bytes, dict[str, npt.NDArray[np.generic]]]:
    """(header, arrays): what is hashed and stored, arrays little-endian and in the header's order."""
    table = model.calibration
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "projection": model.projection.astype("<f4", copy=False),
        "mean": model.mean.astype("<f4", copy=False),
        "centroids": model.centroids.astype("<f4", copy=False),
        "slope": table.slope.astype("<f8", copy=False),
        "offset": table.offset.astype("<f8", copy=False),
        "quantiles": table.quantiles.astype("<f8", copy=False),
    }
    header = {
        "dim": model.dim,
        "code_bits": model.code_bits,
        "trained_on": model.trained_on,
        "knee": table.knee,
        "probes": table.probes,
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-(_PREAMBLE.size + _CRC.size + len(text)) % _ALIGNMENT), arrays


def _digest(header: bytes, arrays: _Arrays) -> bytes:
    digest = hashlib.blake2b(header, digest_size=_DIGEST_BYTES)
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _read_preamble(data: memoryview) -> tuple[int, int]:
    """(offset of the header, its bytes)."""
    if len(data) < _PREAMBLE.size + _CRC.size:
        raise CorruptData(f"search model: expected at least {_PREAMBLE.size + _CRC.size} bytes, got {len(data)}")
    magic, version, _, header_bytes = _PREAMBLE.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptData(f"search model: expected to begin with {_MAGIC!r}, got {magic!r}")
    (crc,) = _CRC.unpack_from(data, _PREAMBLE.size)
    if crc != zlib.crc32(data[: _PREAMBLE.size]):
        raise CorruptData("search model: the CRC of its first 16 bytes does not match")
    if version > FORMAT_VERSION:
        raise FormatTooNew(f"search model: format {version}, this Facegrid reads up to {FORMAT_VERSION}")
    if version < FORMAT_VERSION:
        raise CorruptData(f"search model: format {version} was never released, this Facegrid reads {FORMAT_VERSION}")
    if header_bytes > _MAX_HEADER:
        raise CorruptData(f"search model: header of {header_bytes} bytes, at most {_MAX_HEADER} expected")
    return _PREAMBLE.size + _CRC.size, header_bytes


def _rebuild(header: bytes, body: memoryview) -> SearchModel:
    """The model of a header and arrays whose hash was right; a writer's mistake is still a named error."""
    try:
        fields = json.loads(header)
        arrays, end = {}, 0
        for name, dtype, shape in fields["arrays"]:
            start, end = end, end + int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays[name] = np.frombuffer(body[start:end], dtype=dtype).reshape(shape).astype(dtype[1:], copy=False)
        if end != len(body):
            raise CorruptData(f"search model: its arrays take {end} bytes, {len(body)} are there")
        calibration = Calibration(
            slope=arrays["slope"],
            offset=arrays["offset"],
            quantiles=arrays["quantiles"],
            knee=fields["knee"],
            probes=fields["probes"],
        )
        return SearchModel(
            dim=fields["dim"],
            code_bits=fields["code_bits"],
            mean=arrays["mean"],
            projection=arrays["projection"],
            centroids=arrays["centroids"],
            calibration=calibration,
            trained_on=fields["trained_on"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"search model: its header does not describe its content: {error}") from error
