"""`Coordinator`: the control plane of one home. Creates and drops galleries, places shards, trains models.

It is off the data path: a router keeps answering from its copy of a route while the coordinator is away. Every step
that spans hosts is written to the catalog first, so that an interrupted one is finished or undone at the next start.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from coordinator.calibrations import Calibrations
from coordinator.catalog import READY, Catalog
from coordinator.erasure import Erasure
from coordinator.heat import hottest
from coordinator.idempotency import Idempotency
from coordinator.identities import IdentityChanges
from coordinator.jobs import JobCatalog
from coordinator.messages import ActivateModel, CreateShard, HeatReply, HeatRequest, PrepareModel
from coordinator.names import check_gallery_name, tenant_name
from coordinator.placement import place_replicas
from coordinator.replication import Replication, ReplicationPolicy
from coordinator.rollout import Rollouts
from coordinator.rollout_catalog import Baseline, RolloutState
from coordinator.runtime import Runtime
from coordinator.snapshots.control import SnapshotControl
from coordinator.tenants import AUDIT_S, Tenants
from coordinator.training import (
    MIN_DRIFT_ROWS,
    GallerySizes,
    draw_recent,
    draw_sample,
    gallery_sizes,
    is_drift_due,
    is_training_due,
)
from coordinator.types import (
    UP,
    ErasureBacklog,
    GalleryRoute,
    GallerySpec,
    HostRecord,
    ModelData,
    ReplicaErasure,
    RolloutStatus,
    ShardConfig,
    TrainReport,
)
from shard.drift import Drift, code_statistics, measure_drift
from shard.errors import (
    AlreadyExists,
    ClusterNotReady,
    FacegridError,
    InvalidParameter,
    NotEnoughData,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.model import SearchModel, check_code_bits
from shard.training import MIN_TRAIN, train
from shard.validate import check_dim

MAX_SHARDS = 1_024
MAX_REPLICAS = 7
ERASURE_S = 24 * 3600.0
"""How long bytes of deleted templates may stay in files where nothing else is asked for."""
ERASE_EVERY_S = 60.0
"""Pause between two looks for bytes that are due."""
CHORES_S = 5.0
"""Pause between two looks for what else is due."""
RESUME_EVERY_S = 30.0
"""Pause between two looks for identity changes that were interrupted."""
COMPARE_EVERY_S = 3_600.0
"""Pause between two comparisons of the replicas with each other."""
TRIM_EVERY_S = 24 * 3_600.0
"""Pause between two looks for entries of the audit log that are too old."""
_STATS_TIMEOUT_S = 60.0
RETRY_GROWTH = 1.1
"""A training whose rollout failed is tried again by itself when the gallery has grown by this factor."""
SETTLE_S, SETTLE_PAUSE_S = 10.0, 0.1
"""How long training waits for shards whose hosts are taking up a new configuration, and how often it looks."""
TEND_AGAIN_S = 5.0
"""Pause before what hosts missed is brought to them again after that failed."""
T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Coordinator:
    """Control plane over a catalog and a runtime. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        runtime: Runtime,
        policy: ReplicationPolicy | None = None,
        *,
        erasure_s: float = ERASURE_S,
        audit_s: float = AUDIT_S,
        jobs_directory: Path | None = None,
        opens_partly: bool = False,
    ) -> None:
        """Finish or undo what an earlier process left half done, and open every shard.

        erasure_s: how long bytes of deleted templates may stay in files. audit_s: how long the audit log is kept.
        jobs_directory: where batch jobs keep their files; None if that is not on this machine. opens_partly: log what
        is raised otherwise; such a shard answers nothing until its host is here, or what is wrong with it is mended.

        Raises ClusterNotReady if a shard has no host in sync here, and what keeps its only replica from opening.
        """
        self._catalog, self._runtime = catalog, runtime
        self.erasure = Erasure(catalog, runtime, erasure_s)
        self._lock = threading.RLock()
        self._training = threading.Lock()
        self._looking = threading.Lock()
        self.snapshots = SnapshotControl(self, catalog)
        self.calibrations = Calibrations(catalog, runtime, self.of_primaries)
        self.idempotency = Idempotency(catalog)
        self.tenants = Tenants(catalog, self._finish_drops, audit_s=audit_s)
        self.jobs = JobCatalog(catalog, jobs_directory)
        self._rollouts = Rollouts(catalog, runtime)
        self.replication = Replication(catalog, runtime, self._rollouts.bring, policy)
        self._looked_at: dict[str, GallerySizes] = {}
        self._closing = threading.Event()
        self._watches: list[threading.Thread] = []
        self._done_at: dict[str, float] = {}
        self._tending: threading.Thread | None = None
        self._tend_after = 0.0
        self.identities = IdentityChanges(catalog, runtime, self.report)
        self._start(opens_partly)
        self.identities.start()
        self.tend_models()

    def _start(self, opens_partly: bool) -> None:
        for step in (self._check_hosts, self.replication.start):
            try:
                step()
            except FacegridError as error:
                # A catalog that is away is asked again right after this, and raises; rounds do what `start` does.
                if not opens_partly:
                    raise
                _LOG.error("the home is opened without some of its shards: %s", error)

    def _check_hosts(self) -> None:
        present = set(self._runtime.hosts())
        away = [config for config in self._catalog.shards() if not present & set(config.in_sync)]
        if away:
            missing = sorted({host for config in away for host in config.in_sync})
            raise ClusterNotReady(
                f"shards of this home are on hosts {', '.join(missing)}, which are not here;"
                f" present: {', '.join(self._runtime.hosts()) or 'none'}"
            )

    def watch(self, interval_s: float) -> None:
        """Look after replicas and their models in the background, a round every so many seconds, until `close`."""

        # Chores take minutes at times, which a host that dies meanwhile must not wait for.
        self._watches = [
            threading.Thread(target=self._repeat, args=(interval_s, self.look_after), name="facegrid-watch"),
            threading.Thread(
                target=self._repeat, args=(max(interval_s, CHORES_S), self._chores), name="facegrid-chores"
            ),
        ]
        for thread in self._watches:
            thread.daemon = True
            thread.start()

    def _repeat(self, interval_s: float, work: Callable[[], None]) -> None:
        while not self._closing.wait(interval_s):
            try:
                work()
            except FacegridError as error:
                # The catalog or a host is away: the next round sees.
                _LOG.warning("a round of looking after replicas failed: %s", error)
            except Exception:  # noqa: BLE001 - a bug in one round must not end the rounds that keep shards alive
                _LOG.exception("a round of looking after replicas failed unexpectedly")

    def _chores(self) -> None:
        """Whatever is due of erasing, comparing, trimming and scrubbing."""
        now = time.monotonic()
        for name, pause_s, work in (
            ("erase", ERASE_EVERY_S, self.erasure.erase_due),
            ("compare", COMPARE_EVERY_S, self.replication.compare),
            ("trim", TRIM_EVERY_S, self.tenants.trim_audit),
            ("identities", RESUME_EVERY_S, self.identities.resume),
            ("scrub", self.replication.scrub_pause_s(), self.replication.scrub_next),
        ):
            if now - self._done_at.setdefault(name, now) > pause_s:
                self._done_at[name] = now
                work()

    def look_after(self) -> None:
        """One round of looking after the replicas, for callers who wait for what such rounds bring about."""
        with self._looking:
            self.replication.tick()
        self.tend_models()

    def compare(self) -> list[str]:
        """Compare the replicas of each shard with each other now; see `Replication.compare`."""
        return self.replication.compare()

    def report(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        """A write was not confirmed; see `Replication.report`."""
        self.replication.report(gallery_id, shard, epoch, error)

    def drain(self, host: str) -> None:
        """Have a host emptied; see `Replication.drain`."""
        self.replication.drain(host)

    def undrain(self, host: str) -> None:
        """Have a host hold shards again."""
        self.replication.undrain(host)

    def erasure_report(self, name: str | None = None) -> list[ReplicaErasure]:
        """What replicas hold of deleted templates: of one gallery, or of all. UnknownGallery."""
        routes = self._catalog.galleries() if name is None else [self._catalog.gallery(name)]
        return self.erasure.report(route.gallery_id for route in routes)

    def erase(self, name: str) -> None:
        """Remove the bytes of a gallery's deleted templates from every replica now; see `Erasure.erase`."""
        self.erasure.erase(self._catalog.gallery(name).gallery_id)

    def erase_due(self, name: str | None = None) -> int:
        """Remove what is near its deadline, in one gallery or in all; how many shards were done. UnknownGallery."""
        return self.erasure.erase_due(gallery_id=None if name is None else self._catalog.gallery(name).gallery_id)

    def erasure_backlog(self) -> ErasureBacklog | None:
        """How much was to be erased when that was looked at last, which is every minute; None before. Asks nobody."""
        return self.erasure.backlog

    def host_records(self) -> list[HostRecord]:
        """Every host that was ever part of the home, with its state, by name."""
        return self.replication.hosts()

    def hand_over(self, host: str) -> int:
        """Have other replicas be the primaries of what a host leads; how many shards. See `Replication.hand_over`."""
        return self.replication.hand_over(host)

    def leave(self, host: str) -> int:
        """Go on without a host that is about to end; how many replicas are missed. See `Replication.leave`."""
        return self.replication.leave(host)

    def replicas_left(self, host: str) -> int:
        """Replicas that a host holds still."""
        return self.replication.left_on(host)

    def heat(self) -> dict[str, str]:
        """The galleries of which a shard is open somewhere, by id: `hot` or `warm`; see `coordinator.heat`.

        All others are cold. What a host that does not answer has open is not known.
        """
        states: dict[str, list[str]] = {}
        for host in self._runtime.hosts():
            try:
                (reply,) = self._runtime.control([(host, HeatRequest())])
            except FacegridError as error:
                _LOG.info("what shard host %s has open is not known: %s", host, error)
                continue
            assert isinstance(reply, HeatReply)
            for gallery_id, state in zip(reply.galleries, reply.states, strict=True):
                states.setdefault(gallery_id, []).append(state)
        return {gallery_id: hottest(found) for gallery_id, found in states.items()}

    def shard_configs(self) -> list[ShardConfig]:
        """Who holds each shard of every gallery."""
        return self._catalog.shards()

    def hosts(self) -> tuple[str, ...]:
        """Names of the shard hosts."""
        return self._runtime.hosts()

    def gallery(self, name: str) -> GalleryRoute:
        """A gallery's route; UnknownGallery if there is none of that name."""
        return self._catalog.gallery(name)

    def galleries(self, tenant: str | None = None) -> list[GalleryRoute]:
        """Every gallery, or every one of a tenant, by name; UnknownTenant."""
        return self._catalog.galleries(tenant_id=None if tenant is None else self.tenants.get(tenant).tenant_id)

    def create_gallery(self, spec: GallerySpec, *, state: str = READY) -> GalleryRoute:
        """Create an empty gallery, and its tenant where there is none; AlreadyExists, InvalidParameter, QuotaExceeded.

        state: the one that it ends in. Only a gallery that is READY can be used.
        """
        spec = checked_spec(spec)
        with self._lock:
            if self._catalog.find(spec.name) is not None:
                raise AlreadyExists(f"gallery {spec.name!r} exists")
            self.snapshots.check_not_restoring(spec.name)
            self.replication.finish_drops()
            own_id = secrets.token_hex(8)
            held = self._catalog.shards_per_host()
            here = [r.host for r in self.replication.hosts() if r.state == UP and r.host in self._runtime.hosts()]
            places = place_replicas(own_id, spec.shards, spec.replicas, {host: held.get(host, 0) for host in here})
            tenant = self.tenants.ensure(tenant_name(spec.name))
            gallery_id = f"{tenant.tenant_id}-{own_id}"
            if tenant.is_encrypted:
                self._catalog.keys.data_key(tenant.tenant_id)
                self.replication.hand_keys()
            with self.replication.creating(gallery_id):
                self._catalog.add_gallery(gallery_id, spec, places)
                self._runtime.control(
                    [
                        (host, CreateShard(gallery_id, i, spec.dim, tenant.is_encrypted))
                        for i, hosts in enumerate(places)
                        for host in hosts
                    ]
                )
                self._catalog.set_state(gallery_id, state)
            self.replication.tell(gallery_id)
            return self._catalog.gallery(spec.name, state)

    def drop_gallery(self, name: str, *, state: str = READY) -> None:
        """Remove a gallery that is in this state, and every file of it; UnknownGallery."""
        with self._lock:
            route = self._catalog.gallery(name, state)
            self._catalog.begin_drop(route.gallery_id)
            self.replication.finish_drops()

    def _finish_drops(self) -> None:
        """Remove what the catalog says is being dropped, from the hosts that are there."""
        with self._lock:
            self.replication.finish_drops()
            self.replication.hand_keys()
        self.jobs.sweep()

    # Models

    def train(self, name: str, *, seed: int = 0) -> TrainReport:
        """Train a model on a sample across the gallery's shards and roll it out to all of them.

        Raises NotEnoughData below MIN_TRAIN templates, UnknownGallery, and what `Rollouts.start` does.
        """
        with self._changing_models():
            self._rollouts.resume(name)
            route = self._catalog.gallery(name)
            return self._train(route, self._sizes(route), seed, self._drift(route))

    def _train(self, route: GalleryRoute, sizes: GallerySizes, seed: int, drift: Drift | None) -> TrainReport:
        started = time.monotonic()
        templates = sizes.templates
        if templates < MIN_TRAIN:
            raise NotEnoughData(f"{route.name} has {templates} templates; training needs at least {MIN_TRAIN}")
        sample = self.of_primaries(route, lambda now: draw_sample(self._runtime, now, self._sizes(now).by_host, seed))
        model = train(sample, code_bits=route.code_bits, seed=seed)
        self._looked_at.pop(route.gallery_id, None)
        if model.model_id != route.model_id:
            baseline = Baseline(code_statistics(model, sample), sizes.lsns)
            self._rollouts.start(route.name, model, templates, baseline)
        seconds = time.monotonic() - started
        _LOG.info("trained %s on %d of %d templates in %.1f s", route.name, len(sample), templates, seconds)
        return TrainReport(model.model_id, templates, len(sample), seconds, drift)

    def activate(self, route: GalleryRoute, model: ModelData) -> None:
        """Search with this model on every shard from now on; ModelMismatch for another dimension."""
        held: dict[str, tuple[int, ...]] = {}
        for shard, hosts in enumerate(route.in_sync):
            for host in hosts:
                held[host] = (*held.get(host, ()), shard)
        prepare = [(host, PrepareModel(route.gallery_id, shards, model.data)) for host, shards in held.items()]
        activate = [(host, ActivateModel(route.gallery_id, shards, model.model_id)) for host, shards in held.items()]
        self._runtime.control(prepare)
        self._runtime.control(activate)
        self._catalog.set_model(route.gallery_id, model.model_id, model.data, model.templates)

    def train_if_due(self, name: str) -> TrainReport | None:
        """Train if the gallery has grown or changed enough for a first or a better model; None if it has not."""
        with self._changing_models():
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
        lsns = baseline.lsns
        recent = self.of_primaries(route, lambda now: draw_recent(self._runtime, now, lsns, seed=0))
        if len(recent) < MIN_DRIFT_ROWS:
            return None
        model = SearchModel.from_bytes(self._catalog.model_data(route.gallery_id, route.model_id))
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
        with self._changing_models():
            self._rollouts.roll_back(name)
        return next(status for status in self.rollouts() if status.gallery == name)

    def resume_rollouts(self) -> None:
        """Finish rollouts that were interrupted, and bring replicas that missed one to their gallery's model.

        Done by itself, see `tend_models`. Raises the first failure, after every gallery had its turn.
        """
        failures: list[FacegridError] = []
        with self._training:
            rolled_out = {status.gallery for status in self._rollouts.statuses()}
            for route in self._catalog.galleries():
                if route.model_id is None and route.name not in rolled_out:
                    continue  # it never had a model
                try:
                    self._rollouts.resume(route.name)
                    self._rollouts.reconcile([self._catalog.gallery(route.name)])
                except UnknownGallery:
                    _LOG.info("%s was dropped meanwhile", route.name)
                except FacegridError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    @contextlib.contextmanager
    def _changing_models(self) -> Iterator[None]:
        """The caller's turn to train or roll out; what it leaves unfinished is finished by `tend_models`."""
        with self._training:
            try:
                yield
            except BaseException:
                self.replication.arrivals.set()
                raise

    def tend_models(self) -> None:
        """Finish what rollouts left, and bring hosts that came back to their galleries' models, where there is need.

        Beside the caller: encoding a large gallery takes minutes, and searches are right meanwhile.
        """
        if self._tending is not None and self._tending.is_alive():
            return
        if not self.replication.arrivals.is_set() or time.monotonic() < self._tend_after:
            return
        self.replication.arrivals.clear()
        if any(route.model_id for route in self._catalog.galleries()) or self._rollouts.statuses():
            self._tending = threading.Thread(target=self._tend, name="facegrid-rollouts", daemon=True)
            self._tending.start()

    def _tend(self) -> None:
        try:
            self.resume_rollouts()
        except ShardClosed:
            if not self._closing.is_set():  # a host was restarting; else whoever opens the home next goes on
                self._tend_again()
        except FacegridError:
            _LOG.exception("a rollout that was interrupted could not be finished; it is tried again")
            self._tend_again()

    def _tend_again(self) -> None:
        self._tend_after = time.monotonic() + TEND_AGAIN_S
        self.replication.arrivals.set()

    def _sizes(self, route: GalleryRoute) -> GallerySizes:
        deadline = time.monotonic() + _STATS_TIMEOUT_S
        return self.of_primaries(route, lambda now: gallery_sizes(self._runtime, now, deadline))

    def of_primaries(self, route: GalleryRoute, ask: Callable[[GalleryRoute], T]) -> T:
        """What primaries say, by the newest route; asked again for a while where one has just begun to be primary."""
        until = time.monotonic() + SETTLE_S
        while True:
            try:
                return ask(self._catalog.gallery(route.name))
            except StaleRoute:
                if time.monotonic() >= until or self._closing.wait(SETTLE_PAUSE_S):
                    raise

    def close(self) -> None:
        """End the watch, then close the catalog; the runtime is its owner's to close."""
        self._closing.set()
        self._rollouts.stop()
        self.identities.close()
        for thread in self._watches:
            thread.join()
        self.replication.close()
        self._catalog.close()


def checked_spec(spec: GallerySpec) -> GallerySpec:
    """The spec with plain integers; InvalidParameter if a value of it is out of range."""
    check_gallery_name(spec.name)
    if isinstance(spec.shards, bool) or not isinstance(spec.shards, int) or not 1 <= spec.shards <= MAX_SHARDS:
        raise InvalidParameter(f"shards: expected an integer from 1 to {MAX_SHARDS}, got {spec.shards!r}")
    check_code_bits(spec.code_bits)
    if isinstance(spec.replicas, bool) or not isinstance(spec.replicas, int) or not 1 <= spec.replicas <= MAX_REPLICAS:
        raise InvalidParameter(f"replicas: expected an integer from 1 to {MAX_REPLICAS}, got {spec.replicas!r}")
    if (
        isinstance(spec.min_in_sync, bool)
        or not isinstance(spec.min_in_sync, int)
        or not (1 <= spec.min_in_sync <= spec.replicas)
    ):
        raise InvalidParameter(
            f"min_in_sync: expected an integer from 1 to the {spec.replicas} replicas, got {spec.min_in_sync!r}"
        )
    return replace(spec, dim=check_dim(spec.dim), code_bits=int(spec.code_bits))
