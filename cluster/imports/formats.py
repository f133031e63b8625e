"""Which format a path is of, and its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from cluster.imports.deepface import DeepfaceStore
from cluster.imports.faceflash import FLOATS, METADATA, FaceFlashIndex
from cluster.imports.npy import ARRAY, NpyRecords
from cluster.imports.parquet import ParquetRecords
from cluster.imports.records import Records
from shard.errors import InvalidParameter

Format = Literal["auto", "faceflash", "deepface", "npy", "parquet", "folder"]
FORMATS: tuple[str, ...] = get_args(Format)
_PICKLES = (".pkl", ".pickle")


def format_of(path: Path) -> Format:
    """The format by the names of files: of the path, or of what is in the directory. InvalidParameter if none fits.

    A directory is a folder of photos where it is nothing else; one that has a pickle of deepface among its photos could
    be either, and has to be named.
    """
    if path.is_dir():
        return _format_of_directory(path)
    if not path.exists():
        raise InvalidParameter(f"import: nothing is at {path}")
    if path.suffix == ".npy":
        return "npy"
    if path.suffix == ".parquet":
        return "parquet"
    if path.suffix in _PICKLES:
        return "deepface"
    raise InvalidParameter(f"import: {path} has none of the endings .npy, .parquet and .pkl; name its format")


def _format_of_directory(path: Path) -> Format:
    if (path / FLOATS).exists() and (path / METADATA).exists():
        return "faceflash"
    if (path / ARRAY).exists():
        return "npy"
    if any(path.glob("*.parquet")):
        return "parquet"
    pickles = sorted(p for p in path.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise InvalidParameter(
            f"import: {path} has photos and {pickles[0].name}; import that file, or name the format folder"
        )
    return "folder"


def open_records(path: Path, kind: Format, dim: int, labels: Path | None) -> Records:
    """The reader of a format other than folder. dim: of the gallery; labels: a file of them, for npy.

    InvalidParameter, InvalidFile, InvalidEmbedding, MissingExtra.
    """
    if labels is not None and kind != "npy":
        raise InvalidParameter(f"labels go with the format npy, this is {kind}")
    if not path.exists():
        raise InvalidParameter(f"import: nothing is at {path}")
    if kind == "faceflash":
        return FaceFlashIndex(path, dim)
    if kind == "deepface":
        return DeepfaceStore(path, dim)
    if kind == "npy":
        return NpyRecords(path, dim, labels)
    if kind == "parquet":
        return ParquetRecords(path, dim)
    raise InvalidParameter(f"format: expected one of {', '.join(FORMATS)}, got {kind!r}")
