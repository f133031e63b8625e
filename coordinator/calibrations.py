"""`Calibrations`: the coordinator's part in calibrating galleries: drawing labelled templates, keeping the result.

Measuring is the caller's: it searches, and searches do not go through the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import sqlalchemy as sa

from coordinator.catalog import Catalog
from coordinator.catalog_tables import CALIBRATIONS, GALLERIES
from coordinator.gallery_calibration import Calibration
from coordinator.messages import DrawIdentities, DrawnReply, DrawTemplates
from coordinator.runtime import Runtime
from coordinator.types import GalleryRoute
from shard.errors import UnknownGallery
from shard.labelled import first_drawn
from shard.types import FloatArray, IdentityCount, IdentityDraw

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSample:
    """Templates of a gallery drawn by identity.

    probes: (p, dim) float32, one template of each of p identities; own: for each how many templates its identity has;
    names: the identities. pairs: (g, 2, dim) float32, two templates of each of g identities. identities, templates: how
    many identities the gallery has, and templates that bear one.
    """

    probes: FloatArray
    own: tuple[int, ...]
    names: tuple[str, ...]
    pairs: FloatArray
    identities: int
    templates: int


class OfPrimaries(Protocol):
    """`Coordinator.of_primaries`."""

    def __call__(self, route: GalleryRoute, ask: Callable[[GalleryRoute], T]) -> T:
        """What primaries say."""


class Calibrations:
    """Labelled samples and stored calibrations of a home's galleries. Thread-safe."""

    def __init__(self, catalog: Catalog, runtime: Runtime, of_primaries: OfPrimaries) -> None:
        self._catalog, self._runtime, self._of_primaries = catalog, runtime, of_primaries

    def draw(self, gallery: str, count: int, seed: int) -> LabelledSample:
        """One template of each of up to `count` identities, and pairs of up to as many that have two or more.

        Every identity is as likely, and the sample is the same however the gallery is sharded. UnknownGallery.
        """
        route = self._catalog.gallery(gallery)
        return self._of_primaries(route, lambda now: _draw(self._runtime, now, count, seed))

    def put(self, gallery_id: str, calibration: Calibration) -> None:
        """Keep a calibration with its gallery, instead of the one before. UnknownGallery if it was dropped."""
        text = calibration.to_json()
        with self._catalog.writing() as db:
            locked = sa.select(GALLERIES.c.gallery_id).where(GALLERIES.c.gallery_id == gallery_id).with_for_update()
            if db.execute(locked).first() is None:
                raise UnknownGallery(f"gallery {gallery_id} was dropped; its calibration is not kept")
            db.execute(CALIBRATIONS.delete().where(CALIBRATIONS.c.gallery_id == gallery_id))
            row = {"gallery_id": gallery_id, "created_at": calibration.created_at, "calibration": text}
            db.execute(CALIBRATIONS.insert(), row)

    def of(self, gallery_id: str) -> Calibration | None:
        """The gallery's calibration, None if it has none. CorruptData for one that cannot be read."""
        query = sa.select(CALIBRATIONS.c.calibration).where(CALIBRATIONS.c.gallery_id == gallery_id)
        with self._catalog.reading() as db:
            text = db.execute(query).scalar_one_or_none()
        return None if text is None else Calibration.from_json(text, where=f"{self._catalog.shown}: {gallery_id}")


def _draw(runtime: Runtime, route: GalleryRoute, count: int, seed: int) -> LabelledSample:
    by_host = route.shards_by_host()
    replies = runtime.control(
        [(host, DrawIdentities(route.gallery_id, shards, count, seed)) for host, shards in by_host.items()]
    )
    draws = [reply for reply in replies if isinstance(reply, IdentityDraw)]
    lone = first_drawn([entry for draw in draws for entry in draw.lone], count, seed)
    paired = first_drawn([entry for draw in draws for entry in draw.paired], count, seed)
    two = _templates(runtime, route, paired, 2, seed)
    one = {name: rows[0] for name, rows in two.items() if rows}
    others = [entry for entry in lone if entry.identity not in one]
    one.update((name, rows[0]) for name, rows in _templates(runtime, route, others, 1, seed).items())
    # What was deleted since the names were read is not there.
    found = [entry for entry in lone if entry.identity in one]
    pairs = [rows for name in (entry.identity for entry in paired) if len(rows := two.get(name, [])) == 2]
    return LabelledSample(
        probes=_stacked([one[entry.identity] for entry in found], (0, route.dim)),
        own=tuple(entry.templates for entry in found),
        names=tuple(entry.identity for entry in found),
        pairs=_stacked([np.stack(rows) for rows in pairs], (0, 2, route.dim)),
        identities=sum(draw.identities for draw in draws),
        templates=sum(draw.templates for draw in draws),
    )


def _templates(
    runtime: Runtime, route: GalleryRoute, wanted: list[IdentityCount] | tuple[IdentityCount, ...], each: int, seed: int
) -> dict[str, list[FloatArray]]:
    """Identity to up to `each` of its templates (dim,)."""
    if not wanted:
        return {}
    names = tuple(entry.identity for entry in wanted)
    replies = runtime.control(
        [
            (host, DrawTemplates(route.gallery_id, shards, names, each, seed))
            for host, shards in route.shards_by_host().items()
        ]
    )
    found: dict[str, list[FloatArray]] = {}
    for reply in replies:
        assert isinstance(reply, DrawnReply)
        for name, row in zip(reply.identities, reply.embeddings, strict=True):
            found.setdefault(name, []).append(row)
    return found


def _stacked(rows: list[FloatArray], empty: tuple[int, ...]) -> FloatArray:
    return np.stack(rows) if rows else np.zeros(empty, np.float32)
