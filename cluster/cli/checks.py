"""What `facegrid doctor` looks at: each check is a function that yields findings and changes nothing.

Damage is found shard by shard, so a home that does not open as a whole is described as far as it can be read. The
layout of a home is that of `coordinator.home` and `coordinator.host`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coordinator.directories import shard_directory, tenant_of
from shard.errors import (
    CorruptData,
    FacegridError,
    HomeLocked,
    InvalidParameter,
    KeyUnavailable,
    MissingExtra,
    ModelFileCorrupt,
    ModelFileMissing,
    StorageError,
)

if TYPE_CHECKING:
    from cluster.config import Settings
    from cluster.faces import ModelSpec
    from coordinator.home import Home
    from coordinator.types import GalleryRoute
    from shard.model import SearchModel

Status = Literal["ok", "warn", "fail"]
OLDEST_PYTHON = (3, 10)
LOW_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. remedy: what to do, where something is wrong."""

    check: str
    status: Status
    detail: str
    remedy: str | None = None


def check_python() -> Iterator[Finding]:
    """The interpreter is one that Facegrid supports."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        yield Finding("python", "ok", found)
    else:
        yield Finding("python", "fail", found, f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")


def check_native(kernel: str | None) -> Iterator[Finding]:
    """The compiled extension loads, and the configured kernel runs here."""
    try:
        from shard import index
    except ImportError as error:
        yield Finding("native extension", "fail", str(error), "install facegrid again, for this Python and processor")
        return
    try:
        if kernel is not None:
            index.use_kernel(kernel)
    except FacegridError as error:
        yield Finding("native extension", "fail", str(error), f"set kernel to one of {', '.join(index.kernels())}")
        return
    yield Finding(
        "native extension", "ok", f"kernel {index.kernel()}; this processor runs {', '.join(index.kernels())}"
    )


def check_extras(runtime: str) -> Iterator[Finding]:
    """The optional dependencies: those of photos by importing them, the others by looking for them."""
    from cluster.faces import extras

    remedy = "pip install 'facegrid[faces]' to enroll and search photos; embeddings work without"
    try:
        cv2, onnxruntime = extras.require_cv2(), extras.require_onnxruntime()
        yield Finding("extra faces", "ok", f"OpenCV {cv2.__version__}, onnxruntime {onnxruntime.__version__}")
    except MissingExtra as error:
        yield Finding("extra faces", "warn", str(error), remedy)
    missing = [name for name in ("ray", "pyarrow", "uvloop") if importlib.util.find_spec(name) is None]
    if missing:
        status: Status = "fail" if runtime == "ray" else "warn"
        remedy = "pip install 'facegrid[cluster]' to run on Ray; one machine works without"
        yield Finding("extra cluster", status, f"not installed: {', '.join(missing)}", remedy)
    else:
        yield Finding("extra cluster", "ok", "ray, pyarrow and uvloop are installed")
    if importlib.util.find_spec("pyarrow") is None:
        remedy = "pip install 'facegrid[snapshots]' to make and restore snapshots"
        yield Finding("extra snapshots", "warn", "not installed: pyarrow", remedy)
    else:
        yield Finding("extra snapshots", "ok", "pyarrow is installed")


def check_models(settings: Settings, embedders: set[str]) -> Iterator[Finding]:
    """The files of the configured networks, and of those that galleries were made with, by their SHA-256."""
    from cluster.faces import ModelPlaces, locate, model_spec

    places = ModelPlaces(settings.models, settings.cache)
    for name in dict.fromkeys((settings.detector, settings.embedder, *sorted(embedders))):
        check = f"network {name}"
        notes: list[str] = []
        try:
            path = locate(model_spec(name), places, announce=notes.append)
        except ModelFileMissing:
            yield _missing_model(check, model_spec(name), settings)
        except ModelFileCorrupt as error:
            yield Finding(check, "fail", str(error), "remove that file and fetch the network again")
        except FacegridError as error:
            yield Finding(check, "fail", str(error), "choose a network of `facegrid models list`")
        else:
            unchecked = Finding(check, "warn", notes[0], "compare the file with its publisher's") if notes else None
            yield unchecked or Finding(check, "ok", f"{path}, SHA-256 as stated")


def _missing_model(check: str, spec: ModelSpec, settings: Settings) -> Finding:
    places = ", ".join(map(str, (*settings.models, settings.cache)))
    provide = f"put {spec.file.name} in a directory of FACEGRID_MODELS"
    remedy = provide if spec.url is None else f"facegrid models pull {spec.name}, or {provide}"
    return Finding(check, "warn", f"its file is in none of {places}", f"{remedy} (licence: {spec.licence})")


def check_home(settings: Settings, *, is_deep: bool) -> Iterator[Finding | GalleryRoute]:
    """The home's manifest, lock and catalog, then every shard that lies in it; yields the galleries' routes too.

    is_deep: read everything of every shard and compare it with its checksums.
    """
    from coordinator.home import Home, checked_directory

    try:
        directory = checked_directory(settings.home)
    except InvalidParameter as error:
        yield Finding("home", "fail", str(error), "name another with --home or FACEGRID_HOME")
        return
    if not (directory / "facegrid.json").exists():
        remedy = "facegrid gallery create makes one; name another with --home or FACEGRID_HOME"
        yield Finding("home", "warn", f"no Facegrid home at {directory}", remedy)
        return
    try:
        home = Home(directory)
    except HomeLocked as error:
        yield Finding("home", "warn", str(error), "its shards were not checked; stop that process and check again")
        return
    except FacegridError as error:
        yield Finding("home", "fail", str(error), "use a Facegrid that reads this format, or restore the home")
        return
    except OSError as error:
        yield Finding("home", "fail", str(error), "run as the user who owns the home")
        return
    try:
        yield Finding("home", "ok", f"{home.directory}, id {home.home_id}")
        yield _disk(home.directory)
        yield from _check_catalog(home, settings, is_deep)
    finally:
        home.close()


def _disk(directory: Path) -> Finding:
    from cluster.cli.output import size_text

    free = shutil.disk_usage(directory).free
    if free >= LOW_DISK_BYTES:
        return Finding("disk", "ok", f"{size_text(free)} free")
    return Finding("disk", "warn", f"{size_text(free)} free", "make room before enrolling")


def _check_catalog(home: Home, settings: Settings, is_deep: bool) -> Iterator[Finding | GalleryRoute]:
    from cluster.config import key_source
    from coordinator.catalog import open_catalog

    url = settings.catalog
    try:
        with contextlib.closing(open_catalog(home, url, key_source(settings).service())) as catalog:
            routes = catalog.galleries()
            keys, _ = catalog.keys.all()
            encrypted = {route.gallery_id for route in routes if catalog.keys.is_encrypted(route.gallery_id)}
    except KeyUnavailable as error:
        yield Finding("encryption", "fail", str(error), "correct the settings of encryption")
        return
    except StorageError as error:
        remedy = (
            "restore catalog.db from a backup" if url is None else "start the database, or restore it from a backup"
        )
        yield Finding("catalog", "fail", str(error), remedy)
        return
    except (InvalidParameter, MissingExtra) as error:
        yield Finding("catalog", "fail", str(error), "correct FACEGRID_CATALOG")
        return
    yield Finding("catalog", "ok", f"{len(routes)} galleries, {sum(route.shards for route in routes)} shards")
    for route in routes:
        yield route
        key = keys.get(tenant_of(route.gallery_id) or "") if route.gallery_id in encrypted else None
        yield _check_gallery(route, home.hosts_directory, is_deep, key)


def _check_gallery(route: GalleryRoute, hosts: Path, is_deep: bool, key: bytes | None) -> Finding:
    """The shards of one gallery that lie on this machine."""
    check = f"gallery {route.name}"
    faults: list[str] = []
    templates = elsewhere = 0
    for number, host in enumerate(route.hosts):
        if not (hosts / host).is_dir():
            elsewhere += 1
            continue
        try:
            templates += _open_shard(hosts / host, route.gallery_id, number, is_deep, key)
        except FacegridError as error:
            faults.append(f"shard {number}: {error}")
        except OSError as error:
            faults.append(f"shard {number}: {error}")
    if faults:
        return Finding(check, "fail", "\n".join(faults), "restore these shards from a backup")
    depth = "checksums right" if is_deep else "opened; --deep compares checksums"
    detail = f"{templates:,} templates in {route.shards - elsewhere} shards, {depth}"
    if elsewhere:
        return Finding(check, "warn", f"{detail}; {elsewhere} on other machines", "run doctor there too")
    return Finding(check, "ok", detail)


def _open_shard(host: Path, gallery_id: str, number: int, is_deep: bool, key: bytes | None) -> int:
    """Templates of a shard, opened and, if deep, compared with its checksums."""
    from shard.check import check_shard
    from shard.shard import Shard

    with Shard(shard_directory(host, gallery_id, number), model_loader(host, key), key=key) as shard:
        if is_deep and (damages := check_shard(shard)):
            more = f"; {len(damages) - 1} more, see facegrid fsck" if len(damages) > 1 else ""
            raise CorruptData(f"{damages[0]}{more}", path=str(damages[0].path))
        return len(shard)


def model_loader(host: Path, key: bytes | None = None) -> Callable[[str], SearchModel]:
    """How a host's shards load their search models: OSError or a FacegridError for one that they cannot.

    key: of the shards, None for those in the clear.
    """
    from coordinator.host_models import HostModels
    from shard.model import SearchModel

    if key is not None:
        return partial(HostModels(host / "models", host.name).load, key=key)
    return lambda model_id: SearchModel.from_bytes((host / "models" / f"{model_id}.model").read_bytes())
