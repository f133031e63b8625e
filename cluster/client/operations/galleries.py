"""Galleries as wholes: found, made, dropped, described, trained, cleaned."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from cluster.client.call import Operation
from cluster.client.operations.requests import SLOW_S, gallery_path, get, remove, write
from cluster.client.wire import entry, record, records
from cluster.results import GalleryStats
from coordinator.types import ReplicaErasure, TrainReport
from shard.drift import Drift
from shard.errors import AlreadyExists, UnknownGallery


@dataclass(frozen=True, slots=True)
class Facts:
    """What a gallery was created with, and the model that it is searched by."""

    name: str
    dim: int
    shards: int
    code_bits: int
    embedder: str | None
    replicas: int
    min_in_sync: int
    model_id: str | None


def gallery(name: str, wanted: dict[str, Any], *, create: bool) -> Operation[Facts]:
    """A gallery as it is, made if that is asked for; see `Cluster.gallery`. wanted: None where anything will do."""
    try:
        found = yield from stats(name)
    except UnknownGallery:
        if not create:
            raise
        try:
            return record(Facts, (yield from write("/v1/galleries", {"name": name, **wanted}, is_idempotent=True)))
        except AlreadyExists:
            found = yield from stats(name)  # somebody else was first
    for field, value in wanted.items():
        if value is not None and value != getattr(found, field):
            raise AlreadyExists(f"gallery {name!r} exists with {field}={getattr(found, field)!r}, not {value!r}")
    return facts_of(found)


def facts_of(found: GalleryStats) -> Facts:
    """The facts among the figures."""
    return Facts(**{field.name: getattr(found, field.name) for field in fields(Facts)})


def stats(name: str) -> Operation[GalleryStats]:
    """Size and settings of a gallery. Which hosts hold it is not told here; `hosts` is empty."""
    return record(GalleryStats, (yield from get(gallery_path(name))), hosts=())


def galleries(tenant: str | None) -> Operation[list[Facts]]:
    """Every gallery that the key may see, by name."""
    document = yield from get("/v1/galleries", {"tenant": tenant})
    return records(Facts, entry(document, "galleries", list), "galleries")


def drop(name: str) -> Operation[None]:
    """Remove a gallery."""
    yield from remove(gallery_path(name))


def train(name: str) -> Operation[TrainReport]:
    """Train a gallery's search model, and wait until it is in use."""
    document = yield from write(gallery_path(name, "train"), is_idempotent=False, patience_s=SLOW_S)
    drift = document.get("drift")
    return record(TrainReport, document, drift=None if drift is None else record(Drift, drift))


def flush(name: str) -> Operation[None]:
    """Seal the open segments."""
    yield from write(gallery_path(name, "flush"), is_idempotent=True, patience_s=SLOW_S)


def erase(name: str) -> Operation[None]:
    """Remove the bytes of what was deleted, now."""
    yield from write(gallery_path(name, "erase"), is_idempotent=True, patience_s=SLOW_S)


def erasure_report(name: str) -> Operation[list[ReplicaErasure]]:
    """What files hold still of what was deleted. `host` is empty: it is the operator's to know."""
    document = yield from get(gallery_path(name, "erasure"))
    return [record(ReplicaErasure, one, host="") for one in entry(document, "replicas", list)]
