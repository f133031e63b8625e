"""The SearchModel: embeddings to binary codes in planes, and how many rows a promised recall needs.

Owns the trained values, encoding, their content hash and their bytes. It must not know how they were trained
(`shard.training`), where they are stored, or any gallery: one model serves every shard of a rollout. On the data path
it stands before the native index: a batch of probes or templates comes in, codes go out.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shard._native import hamming
from shard.calibration import Calibration
from shard.errors import CorruptData, FormatTooNew, InvalidEmbedding, InvalidParameter
from shard.types import MAX_DIM, MIN_DIM, PLANE_BITS, CodeArray, FloatArray

CODE_BITS = (128, 256, 512, 1024)
"""Code lengths a model may have."""
FORMAT_VERSION = 1
_MAGIC = b"FGMODEL\n"
_PREAMBLE = struct.Struct("<8sHHI")  # magic, format version, reserved (0), header bytes
_CRC = struct.Struct("<I")
_DIGEST_BYTES = 16
_ALIGNMENT = 64  # of the first array, so that a mapped file serves as it is
_MAX_HEADER = 1 << 16
_ENCODE_ROWS = 8_192  # rows encoded at a time: bounds the float intermediate to 32 MB at 1024 bits

_Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class SearchModel:
    """PCA and ITQ folded into one projection, thresholds, and the recall calibration. Immutable.

    dim: of the embeddings. code_bits: 128, 256, 512 or 1024. projection: (dim, code_bits) float32; plane p is columns
    [128p, 128p + 128). thresholds: (code_bits,) float32; a bit is 1 where the projected embedding is above.
    trained_on: rows of the training sample. model_id: 32 hex digits, BLAKE2b over everything above.
    Raises InvalidParameter when the values do not fit together.
    Source: ITQ, Gong & Lazebnik, CVPR 2011; planes and calibration in docs/search-model.md.
    """

    dim: int
    code_bits: int
    projection: FloatArray
    thresholds: FloatArray
    calibration: Calibration
    trained_on: int
    model_id: str = field(init=False)

    def __post_init__(self) -> None:
        _check_fields(self)
        for name in ("projection", "thresholds"):
            array = np.ascontiguousarray(getattr(self, name))
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        header, arrays = _content(self)
        object.__setattr__(self, "model_id", _digest(header, arrays).hex())

    @property
    def planes(self) -> int:
        """Code planes of 128 bits each."""
        return self.code_bits // PLANE_BITS

    def encode(self, embeddings: FloatArray) -> CodeArray:
        """Codes of embeddings (n, dim) float32, unit L2 norm: (n, code_bits // 8) uint8, C-contiguous.

        Bit j of a code is bit 7 - j % 8 of byte j // 8 (NumPy's big bit order), so plane p is bytes [16p, 16p + 16).
        The same batch gives the same codes. The same row in another batch may differ in a bit whose value lies within
        float rounding of its threshold, since BLAS picks its kernel by shape; codes only choose what is reranked on
        floats, so such a bit never changes a score. Raises InvalidEmbedding for a wrong shape or dtype.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim or embeddings.dtype != np.float32:
            raise InvalidEmbedding(
                f"embeddings: expected (n, {self.dim}) float32, got {embeddings.shape} {embeddings.dtype}"
            )
        return encode_bits(embeddings, self.projection, self.thresholds)

    def survivors(self, rows: int, k: int, recall: float) -> tuple[int, int]:
        """(head, full): how many of a shard's `rows` rows to keep on plane 0 and on all planes for recall@k >= recall.

        Recall is against exhaustive search, for probes that may be of strangers. Rises with rows, k and recall; rows
        caps both. Raises InvalidParameter for k < 1, rows < 0 or a recall outside (0, 1).
        """
        head, full = self.calibration.survivors(rows, k, recall)
        # With one plane both stages see the same distances, and a second cut could only lose what the first kept.
        return (head, full) if self.planes > 1 else (head, head)

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


def encode_bits(embeddings: FloatArray, projection: FloatArray, thresholds: FloatArray) -> CodeArray:
    """Packed bits (n, bits // 8) of embeddings @ projection > thresholds; the layout of `SearchModel.encode`."""
    codes = np.empty((len(embeddings), len(thresholds) // 8), dtype=np.uint8)
    for start in range(0, len(embeddings), _ENCODE_ROWS):
        rows = slice(start, start + _ENCODE_ROWS)
        codes[rows] = np.packbits(embeddings[rows] @ projection > thresholds, axis=1)
    return codes


def hamming_distances(probes: CodeArray, codes: CodeArray) -> npt.NDArray[np.uint16]:
    """Distances (n, m) of probes (n, b) to codes (m, b), whole planes each, by the native kernel."""
    return hamming(np.ascontiguousarray(probes), np.ascontiguousarray(codes))


def _check_fields(model: SearchModel) -> None:
    if not MIN_DIM <= model.dim <= MAX_DIM:
        raise InvalidParameter(f"dim: expected {MIN_DIM} to {MAX_DIM}, got {model.dim}")
    check_code_bits(model.code_bits)
    expected = {"projection": (model.dim, model.code_bits), "thresholds": (model.code_bits,)}
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
        "thresholds": model.thresholds.astype("<f4", copy=False),
        "rows": table.rows.astype("<i8", copy=False),
        "ks": table.ks.astype("<i8", copy=False),
        "recalls": table.recalls.astype("<f8", copy=False),
        "survivors_head": table.survivors_head.astype("<f4", copy=False),
        "survivors_full": table.survivors_full.astype("<f4", copy=False),
    }
    header = {
        "dim": model.dim,
        "code_bits": model.code_bits,
        "trained_on": model.trained_on,
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
            **{name: arrays[name] for name in ("rows", "ks", "recalls", "survivors_head", "survivors_full")},
            probes=fields["probes"],
        )
        return SearchModel(
            dim=fields["dim"],
            code_bits=fields["code_bits"],
            projection=arrays["projection"],
            thresholds=arrays["thresholds"],
            calibration=calibration,
            trained_on=fields["trained_on"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"search model: its header does not describe its content: {error}") from error
