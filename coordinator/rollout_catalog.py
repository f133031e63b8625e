"""What the catalog says of rollouts: of each gallery the last one, how far it is, and how models looked at training.

Owns the statements on two tables of `coordinator.catalog_tables` and the steps between a rollout's states, each one
transaction; `coordinator.rollout` takes them before it asks anything of a host. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.catalog import Catalog
from coordinator.catalog_rows import remove_unused_models
from coordinator.catalog_tables import BASELINES, GALLERIES, ROLLOUTS
from coordinator.encryption import put_model
from coordinator.types import RolloutStatus
from shard.drift import CodeStatistics
from shard.errors import UnknownGallery


class RolloutState(str, Enum):
    """Where a rollout is. preparing, activating and rolling_back have something left to do."""

    PREPARING = "preparing"
    ACTIVATING = "activating"
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


UNFINISHED = (RolloutState.PREPARING, RolloutState.ACTIVATING, RolloutState.ROLLING_BACK)


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """How a gallery looked when its model was trained: code statistics of the sample, and the LSN of each shard."""

    statistics: CodeStatistics
    lsns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One gallery's last rollout, to `model_id` from `previous_model_id`; None stands for exact search.

    was_activating: a host may search with `model_id`, or have done so, so that the way back has to reach all of them.
    """

    gallery_id: str
    model_id: str | None
    previous_model_id: str | None
    state: RolloutState
    was_activating: bool
    error: str | None

    @property
    def target(self) -> str | None:
        """The model that every shard is to be searched by in the end, as the catalog has decided so far."""
        is_forward = self.state in (RolloutState.ACTIVATING, RolloutState.DONE)
        return self.model_id if is_forward else self.previous_model_id


class RolloutCatalog:
    """Rollouts in a home's catalog. Every method is one transaction; `now` is in seconds since 1970."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def begin(
        self, gallery_id: str, model_id: str, data: bytes, templates: int, baseline: Baseline, replicas: int, now: float
    ) -> None:
        """Enter a rollout that prepares a model, and the model with it, instead of the gallery's last one.

        replicas: copies of shards that take part. UnknownGallery if the gallery was dropped.
        """
        sealed = self._catalog.keys.sealed_model(gallery_id, model_id, data)
        with self._catalog.writing() as db:
            found = _locked_gallery(db, gallery_id)
            if found is None:
                raise UnknownGallery(f"gallery {gallery_id} was dropped; its rollout cannot begin")
            put_model(db, gallery_id, model_id, templates, data, sealed)
            db.execute(BASELINES.delete().where(BASELINES.c.model_id == model_id))
            db.execute(BASELINES.insert(), _baseline_row(model_id, baseline))
            db.execute(ROLLOUTS.delete().where(ROLLOUTS.c.gallery_id == gallery_id))
            row = {
                "gallery_id": gallery_id, "model_id": model_id, "previous_model_id": found.model_id,
                "state": RolloutState.PREPARING.value, "was_activating": False, "replicas": replicas, "prepared": 0,
                "activated": 0, "error": None, "started_at": now, "updated_at": now,
            }  # fmt: skip
            db.execute(ROLLOUTS.insert(), row)
            remove_unused_models(db)  # the one before the previous

    def progress(self, gallery_id: str, now: float, **counts: int) -> None:
        """Note how many replicas are `prepared` or `activated`, of how many `replicas`."""
        with self._catalog.writing() as db:
            db.execute(_of(gallery_id).values(**counts, updated_at=now))

    def note_error(self, gallery_id: str, error: str, now: float) -> None:
        """Note why a rollout does not go on."""
        with self._catalog.writing() as db:
            db.execute(_of(gallery_id).values(error=error, updated_at=now))

    def decide(self, gallery_id: str, now: float) -> None:
        """preparing -> activating: from now on the prepared model is the gallery's."""
        with self._catalog.writing() as db:
            row = _move(db, gallery_id, (RolloutState.PREPARING,), RolloutState.ACTIVATING, now, was_activating=True)
            _set_model(db, gallery_id, row.model_id)

    def turn_back(self, gallery_id: str, error: str | None, now: float) -> None:
        """preparing, activating or done -> rolling_back: from now on the previous model is the gallery's again."""
        forward = (RolloutState.PREPARING, RolloutState.ACTIVATING, RolloutState.DONE)
        with self._catalog.writing() as db:
            row = _move(db, gallery_id, forward, RolloutState.ROLLING_BACK, now, error=error)
            if row.was_activating:
                _set_model(db, gallery_id, row.previous_model_id)

    def finish(self, gallery_id: str, now: float) -> None:
        """activating -> done, with no error; rolling_back -> rolled_back, whose error stays: it says why."""
        with self._catalog.writing() as db:
            state = db.execute(sa.select(ROLLOUTS.c.state).where(ROLLOUTS.c.gallery_id == gallery_id)).scalar()
            if state == RolloutState.ACTIVATING:
                _move(db, gallery_id, (RolloutState.ACTIVATING,), RolloutState.DONE, now, error=None)
            else:
                _move(db, gallery_id, (RolloutState.ROLLING_BACK,), RolloutState.ROLLED_BACK, now)

    def rollout(self, gallery_id: str) -> Rollout | None:
        """The gallery's last rollout, finished or not; None if it had none."""
        with self._catalog.reading() as db:
            row = db.execute(ROLLOUTS.select().where(ROLLOUTS.c.gallery_id == gallery_id)).first()
        if row is None:
            return None
        return Rollout(
            gallery_id, row.model_id, row.previous_model_id, RolloutState(row.state), row.was_activating, row.error
        )

    def statuses(self) -> list[RolloutStatus]:
        """The last rollout of every gallery that had one, by gallery name."""
        columns = [ROLLOUTS.c[name] for name in _STATUS_COLUMNS]
        query = sa.select(GALLERIES.c.name.label("gallery"), *columns).select_from(ROLLOUTS.join(GALLERIES))
        with self._catalog.reading() as db:
            return [RolloutStatus(**row._mapping) for row in db.execute(query.order_by(GALLERIES.c.name)).all()]

    def baseline(self, model_id: str) -> Baseline | None:
        """How the gallery looked when the model was trained; None for a model from before that was noted."""
        with self._catalog.reading() as db:
            row = db.execute(BASELINES.select().where(BASELINES.c.model_id == model_id)).first()
        if row is None:
            return None
        statistics = CodeStatistics(row.rows, np.frombuffer(row.balance, "<f4"), row.captured)
        return Baseline(statistics, tuple(np.frombuffer(row.lsns, "<i8").tolist()))


_STATUS_COLUMNS = (
    "model_id", "previous_model_id", "state", "replicas", "prepared", "activated", "error", "started_at", "updated_at",
)  # fmt: skip


def _of(gallery_id: str) -> sa.Update:
    return ROLLOUTS.update().where(ROLLOUTS.c.gallery_id == gallery_id)


def _locked_gallery(db: Connection, gallery_id: str) -> sa.Row[Any] | None:
    """The gallery's row, ours until the end of the transaction: whoever changes a gallery takes it first."""
    query = sa.select(GALLERIES.c.model_id).where(GALLERIES.c.gallery_id == gallery_id)
    return db.execute(query.with_for_update()).first()


def _move(
    db: Connection, gallery_id: str, expected: Sequence[RolloutState], state: RolloutState, now: float, **values: Any
) -> sa.Row[Any]:
    """Change the state if it is one of those expected; UnknownGallery if the rollout is gone or elsewhere."""
    _locked_gallery(db, gallery_id)
    change = _of(gallery_id).where(ROLLOUTS.c.state.in_([e.value for e in expected]))
    changed = db.execute(change.values(state=state.value, updated_at=now, **values)).rowcount
    row = db.execute(ROLLOUTS.select().where(ROLLOUTS.c.gallery_id == gallery_id)).first()
    if row is None or changed != 1:
        raise UnknownGallery(
            f"no rollout of gallery {gallery_id} that is {' or '.join(expected)}:"
            f" {'it was dropped' if row is None else f'it is {row.state}'}"
        )
    return row


def _set_model(db: Connection, gallery_id: str, model_id: str | None) -> None:
    changed = GALLERIES.update().where(GALLERIES.c.gallery_id == gallery_id)
    db.execute(changed.values(model_id=model_id, version=GALLERIES.c.version + 1))


def _baseline_row(model_id: str, baseline: Baseline) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "rows": baseline.statistics.rows,
        "balance": baseline.statistics.balance.astype("<f4").tobytes(),
        "captured": baseline.statistics.captured,
        "lsns": np.array(baseline.lsns, "<i8").tobytes(),
    }
