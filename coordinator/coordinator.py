"""`Coordinator`: the control plane of one home. Creates and drops galleries, places shards, trains models.

It is off the data path: a router keeps answering from its copy of a route while the coordinator is away. Every step
that spans hosts is written to the catalog first, so that an interrupted one is finished or undone at the next start.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from dataclasses import replace

from coordinator.catalog import CREATING, DROPPING, READY, Catalog
from coordinator.messages import CreateShard, DropGallery, OpenShards
from coordinator.placement import place_shards
from coordinator.rollout import Rollouts
from coordinator.rollout_catalog import Baseline, RolloutState
from coordinator.runtime import Runtime
from coordinator.training import (
    MIN_DRIFT_ROWS,
    GallerySizes,
    draw_recent,
    draw_sample,
    gallery_sizes,
    is_drift_due,
    is_training_due,
)
from coordinator.types import GalleryRoute, GallerySpec, RolloutStatus, TrainReport
from shard.drift import Drift, code_statistics, measure_drift
from shard.errors import (
    AlreadyExists,
    ClusterNotReady,
    FacegridError,
    InvalidParameter,
    NotEnoughData,
    ShardClosed,
    UnknownGallery,
)
from shard.model import SearchModel, check_code_bits
from shard.training import MIN_TRAIN, train
from shard.validate import check_dim

MAX_SHARDS = 1_024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}")
_STATS_TIMEOUT_S = 60.0
RETRY_GROWTH = 1.1
"""A training whose rollout failed is tried again by itself when the gallery has grown by this factor."""
_LOG = logging.getLogger(__name__)


class Coordinator:
    """Control plane over a catalog and a runtime. Thread-safe."""

    def __init__(self, catalog: Catalog, runtime: Runtime) -> None:
        """Finish or undo what an earlier process left half done, and open every shard.

        Raises ClusterNotReady if a host that holds shards is missing.
        """
        self._catalog, self._runtime = catalog, runtime
        self._lock = threading.RLock()
        self._training = threading.Lock()
        self._rollouts = Rollouts(catalog, runtime)
        self._looked_at: dict[str, GallerySizes] = {}
        self._check_hosts()
        self._remove_unfinished()
        runtime.control(
            [
                (host, OpenShards(route.gallery_id, shards))
                for route in catalog.galleries()
                for host, shards in route.shards_by_host().items()
            ]
        )
        if any(route.model_id for route in catalog.galleries()) or self._rollouts.statuses():
            # Beside the caller: encoding a large gallery takes minutes, and searches are right meanwhile.
            threading.Thread(target=self._resume_beside, name="facegrid-rollouts", daemon=True).start()

    def _check_hosts(self) -> None:
        missing = sorted(set(self._catalog.shards_per_host()) - set(self._runtime.hosts()))
        if missing:
            raise ClusterNotReady(
                f"shards of this home are on hosts {', '.join(missing)}, which are not here;"
                f" present: {', '.join(self._runtime.hosts()) or 'none'}"
            )

    def hosts(self) -> tuple[str, ...]:
        """Names of the shard hosts."""
        return self._runtime.hosts()

    def gallery(self, name: str) -> GalleryRoute:
        """A gallery's route; UnknownGallery if there is none of that name."""
        return self._catalog.gallery(name)

    def galleries(self) -> list[GalleryRoute]:
        """Every gallery, by name."""
        return self._catalog.galleries()

    def create_gallery(self, spec: GallerySpec) -> GalleryRoute:
        """Create an empty gallery; AlreadyExists, InvalidParameter."""
        spec = checked_spec(spec)
        with self._lock:
            if any(route.name == spec.name for route in self._catalog.galleries()):
                raise AlreadyExists(f"gallery {spec.name!r} exists")
            self._remove_unfinished(spec.name)
            gallery_id = secrets.token_hex(8)
            held = self._catalog.shards_per_host()
            hosts = place_shards(gallery_id, spec.shards, {host: held.get(host, 0) for host in self._runtime.hosts()})
            self._catalog.add_gallery(gallery_id, spec, hosts)
            self._runtime.control([(h, CreateShard(gallery_id, i, spec.dim)) for i, h in enumerate(hosts)])
            self._catalog.set_state(gallery_id, READY)
            return self._catalog.gallery(spec.name)

    def drop_gallery(self, name: str) -> None:
        """Remove a gallery and every file of it; UnknownGallery."""
        with self._lock:
            route = self._catalog.gallery(name)
            self._catalog.set_state(route.gallery_id, DROPPING)
            self._remove(route)

    def _remove_unfinished(self, name: str | None = None) -> None:
        """Finish or undo what failed half way, for one name or all: it must not hold a name that nobody can use."""
        for route in self._catalog.galleries(CREATING) + self._catalog.galleries(DROPPING):
            if name in (None, route.name):
                _LOG.warning("gallery %s was not completely created or dropped; removing what is left", route.name)
                self._remove(route)

    def _remove(self, route: GalleryRoute) -> None:
        self._runtime.control([(host, DropGallery(route.gallery_id)) for host in sorted(set(route.hosts))])
        self._catalog.remove_gallery(route.gallery_id)

    # Models

    def train(self, name: str, *, seed: int = 0) -> TrainReport:
        """Train a model on a sample across the gallery's shards and roll it out to all of them.

        Raises NotEnoughData below MIN_TRAIN templates, UnknownGallery, and what `Rollouts.start` does.
        """
        with self._training:
            self._rollouts.resume(name)
            route = self._catalog.gallery(name)
            return self._train(route, self._sizes(route), seed, self._drift(route))

    def _train(self, route: GalleryRoute, sizes: GallerySizes, seed: int, drift: Drift | None) -> TrainReport:
        started = time.monotonic()
        templates = sizes.templates
        if templates < MIN_TRAIN:
            raise NotEnoughData(f"{route.name} has {templates} templates; training needs at least {MIN_TRAIN}")
        sample = draw_sample(self._runtime, route, sizes.by_host, seed)
        model = train(sample, code_bits=route.code_bits, seed=seed)
        self._looked_at.pop(route.gallery_id, None)
        if model.model_id != route.model_id:
            baseline = Baseline(code_statistics(model, sample), sizes.lsns)
            self._rollouts.start(route.name, model, templates, baseline)
        seconds = time.monotonic() - started
        _LOG.info("trained %s on %d of %d templates in %.1f s", route.name, len(sample), templates, seconds)
        return TrainReport(model.model_id, templates, len(sample), seconds, drift)

    def train_if_due(self, name: str) -> TrainReport | None:
        """Train if the gallery has grown or changed enough for a first or a better model; None if it has not."""
        with self._training:
            self._rollouts.resume(name)
            route = self._catalog.gallery(name)
            sizes = self._sizes(route)
            trained_at = self._trained_at(route, sizes.templates)
            drift = self._drift_if_due(route, sizes, trained_at)
            if not is_training_due(sizes.templates, trained_at, drift):
                return None
            return self._train(route, sizes, 0, drift)

    def _trained_at(self, route: GalleryRoute, templates: int) -> int | None:
        """Templates at the last training. A model that was rolled back counts, or it would be trained right again.

        One that could not be rolled out counts until the gallery has grown a little.
        """
        last = self._rollouts.records.rollout(route.gallery_id)
        if last is not None and last.state is RolloutState.ROLLED_BACK and last.model_id is not None:
            tried_at = self._catalog.model_templates(last.model_id)
            if last.error is None or templates < RETRY_GROWTH * tried_at:
                return tried_at
        return self._catalog.model_templates(route.model_id) if route.model_id else None

    def drift(self, name: str) -> Drift | None:
        """How far the templates since the last training are from those trained on; None for too few, or no model."""
        return self._drift(self._catalog.gallery(name))

    def _drift(self, route: GalleryRoute) -> Drift | None:
        baseline = self._rollouts.records.baseline(route.model_id) if route.model_id else None
        if baseline is None or route.model_id is None:
            return None
        recent = draw_recent(self._runtime, route, baseline.lsns, seed=0)
        if len(recent) < MIN_DRIFT_ROWS:
            return None
        model = SearchModel.from_bytes(self._catalog.model_data(route.model_id))
        return measure_drift(model, baseline.statistics, recent)

    def _drift_if_due(self, route: GalleryRoute, sizes: GallerySizes, trained_at: int | None) -> Drift | None:
        baseline = self._rollouts.records.baseline(route.model_id) if route.model_id else None
        if baseline is None or trained_at is None:
            return None
        last = self._looked_at.get(route.gallery_id)
        templates, lsns = (trained_at, baseline.lsns) if last is None else (last.templates, last.lsns)
        if not is_drift_due(sizes, templates, lsns):
            return None
        self._looked_at[route.gallery_id] = sizes
        return self._drift(route)

    def rollouts(self) -> list[RolloutStatus]:
        """The last rollout of every gallery that had one, by gallery name; while one goes on, how far it is."""
        return self._rollouts.statuses()

    def roll_back(self, name: str) -> RolloutStatus:
        """Bring a gallery back to the model before its last rollout; one that is under way is waited for first.

        Raises UnknownGallery, NotFound if there is nothing to undo.
        """
        with self._training:
            self._rollouts.roll_back(name)
        return next(status for status in self.rollouts() if status.gallery == name)

    def resume_rollouts(self) -> None:
        """Finish rollouts that were interrupted, and bring replicas that missed one to their gallery's model.

        Done by itself when the coordinator opens. Raises the first failure, after every gallery had its turn.
        """
        failures: list[FacegridError] = []
        with self._training:
            for route in self._catalog.galleries():
                try:
                    self._rollouts.resume(route.name)
                    self._rollouts.reconcile([self._catalog.gallery(route.name)])
                except UnknownGallery:
                    _LOG.info("%s was dropped meanwhile", route.name)
                except FacegridError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def _resume_beside(self) -> None:
        try:
            self.resume_rollouts()
        except ShardClosed:
            pass  # whoever opens the home next goes on
        except FacegridError:
            _LOG.exception("a rollout that was interrupted could not be finished; it is tried again at the next one")

    def _sizes(self, route: GalleryRoute) -> GallerySizes:
        return gallery_sizes(self._runtime, route, time.monotonic() + _STATS_TIMEOUT_S)

    def close(self) -> None:
        """Close the catalog; the runtime is its owner's to close."""
        self._rollouts.stop()
        self._catalog.close()


def check_gallery_name(name: str) -> str:
    """`tenant/gallery`, each of lower-case letters, digits, '.', '_', '-'; InvalidParameter otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(
            f"gallery name: expected 'tenant/gallery' of lower-case letters, digits, '.', '_' and '-', each part at"
            f" most 63 long and starting with a letter or digit; got {name!r:.160}"
        )
    return name


def checked_spec(spec: GallerySpec) -> GallerySpec:
    """The spec with plain integers; InvalidParameter if a value of it is out of range."""
    check_gallery_name(spec.name)
    if isinstance(spec.shards, bool) or not isinstance(spec.shards, int) or not 1 <= spec.shards <= MAX_SHARDS:
        raise InvalidParameter(f"shards: expected an integer from 1 to {MAX_SHARDS}, got {spec.shards!r}")
    check_code_bits(spec.code_bits)
    return replace(spec, dim=check_dim(spec.dim), code_bits=int(spec.code_bits))
