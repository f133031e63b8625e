"""Where a network's file lies: looked for, downloaded, checked against its SHA-256.

Order: an explicit path, the model directories of the configuration, the cache, then (where the caller lets it) a
download from the published address into the cache. Owns that search and the check; must not know what is in the file
or read the environment. A file without a stated hash is taken only from where the user put it, and that is said.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.faces.registry import ModelFile, ModelSpec
from shard.errors import ModelFileCorrupt, ModelFileMissing

Announce = Callable[[str], None]
"""Gets one line to show to the user: a licence, a download, a file whose hash nobody states."""
Progress = Callable[[int, int | None], None]
"""Gets the bytes fetched and the bytes in all (None where unknown)."""

_CHUNK_BYTES = 1 << 20
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where to look. model_dirs: searched in order; cache_dir: where downloads go (None: nowhere)."""

    model_dirs: tuple[Path, ...] = ()
    cache_dir: Path | None = None


def locate(
    spec: ModelSpec,
    places: ModelPlaces,
    *,
    path: str | os.PathLike[str] | None = None,
    allow_download: bool = False,
    announce: Announce | None = None,
) -> Path:
    """The checked file of a network.

    path: this file and no other. Raises ModelFileMissing (with every place looked at and what to do) and
    ModelFileCorrupt (another SHA-256 than the registry states; a wrong file is refused, never skipped).
    """
    if path is not None:
        return _explicit(spec, Path(path), announce)
    looked: list[Path] = []
    for candidate, file in _candidates(spec, places):
        looked.append(candidate)
        if candidate.is_file():
            _check(spec, candidate, (file,), announce)
            return candidate
    if allow_download and spec.url is not None and places.cache_dir is not None:
        return pull(spec, places.cache_dir, announce=announce)
    raise ModelFileMissing(_missing_message(spec, looked))


def pull(
    spec: ModelSpec,
    cache_dir: str | os.PathLike[str],
    *,
    announce: Announce | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a network's file from its published address into `cache_dir`, unless the right one is there already.

    The licence goes to `announce` first. The file gets its name only after its SHA-256 is found right
    (and a file that a crash left torn is found wrong, and fetched anew here).
    Raises ModelFileMissing where no address is known or it does not answer, ModelFileCorrupt on another hash.
    """
    target = Path(cache_dir) / spec.file.name
    if spec.url is None or spec.file.sha256 is None:
        raise ModelFileMissing(_missing_message(spec, [target]))
    if target.is_file() and file_sha256(target) == spec.file.sha256:
        return target
    if announce is not None:
        announce(f"{spec.name}: licence {spec.licence}{_use(spec)}; fetching {spec.url}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{spec.file.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            _fetch(spec, out.write, progress)
        _check(spec, Path(temporary), (spec.file,), announce, source=spec.url)
        # One step, so that no reader ever meets half a file. Not `shard.files`: a cache that is lost is fetched again.
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _explicit(spec: ModelSpec, path: Path, announce: Announce | None) -> Path:
    if not path.is_file():
        raise ModelFileMissing(f"model {spec.name!r}: no file at {path}")
    _check(spec, path, spec.files, announce)
    return path


def _candidates(spec: ModelSpec, places: ModelPlaces) -> Iterator[tuple[Path, ModelFile]]:
    for directory in places.model_dirs:
        for file in spec.files:
            yield directory / file.name, file
    if places.cache_dir is not None:
        for file in spec.files:
            # Nobody chose what lies in a cache, so a file that no hash vouches for is not taken from there.
            if file.sha256 is not None:
                yield places.cache_dir / file.name, file


def _check(
    spec: ModelSpec, path: Path, allowed: Sequence[ModelFile], announce: Announce | None, *, source: str | None = None
) -> None:
    expected = [file.sha256 for file in allowed if file.sha256 is not None]
    if not expected:
        if announce is not None:
            announce(f"{spec.name}: the registry states no SHA-256; {path} is used as it is (licence: {spec.licence})")
        return
    got = file_sha256(path)
    if got not in expected:
        where = f"what {source} served" if source else str(path)
        size = path.stat().st_size
        raise ModelFileCorrupt(
            f"model {spec.name!r}: expected SHA-256 {' or '.join(expected)} ({allowed[0].bytes} bytes), "
            f"got {got} ({size} bytes) from {where}; it was not loaded"
        )


def _fetch(spec: ModelSpec, write: Callable[[bytes], int], progress: Progress | None) -> None:
    assert spec.url is not None
    fetched, limit = 0, spec.file.bytes
    try:
        with httpx.stream("GET", spec.url, follow_redirects=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                write(chunk)
                fetched += len(chunk)
                if progress is not None:
                    progress(fetched, limit)
                # A stranger's server must not fill the disk; the hash check refuses what came.
                if limit is not None and fetched > limit:
                    return
    except httpx.HTTPError as error:
        raise ModelFileMissing(
            f"model {spec.name!r}: fetching {spec.url} failed after {fetched} bytes: {error!r}; fetch it by other "
            f"means, name it {spec.file.name} and put it in a directory of FACEGRID_MODELS"
        ) from error


def _missing_message(spec: ModelSpec, looked: Sequence[Path]) -> str:
    places = ", ".join(str(path) for path in looked) or "nowhere (no model directory and no cache is configured)"
    if spec.url is not None:
        remedy = f"run `facegrid models pull {spec.name}` (licence: {spec.licence}{_use(spec)})"
    else:
        remedy = (
            f"no download address is known for it (licence: {spec.licence}): put the file in a directory of "
            "FACEGRID_MODELS or give its path"
        )
    return f"model {spec.name!r}: looked for {places}; {remedy}"


def _use(spec: ModelSpec) -> str:
    return "" if spec.is_commercial_use_allowed else ", no commercial use"
