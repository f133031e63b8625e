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

from coordinator.catalog import READY, Catalog
from coordinator.erasure import Erasure
from coordinator.messages import ActivateModel, CreateShard
from coordinator.placement import place_replicas
from coordinator.replication import Replication, ReplicationPolicy
from coordinator.runtime import Runtime
from coordinator.training import count_templates, draw_sample, is_training_due
from coordinator.types import UP, GalleryRoute, GallerySpec, HostRecord, ReplicaErasure, ShardConfig, TrainReport
from shard.errors import AlreadyExists, ClusterNotReady, FacegridError, InvalidParameter, NotEnoughData
from shard.model import check_code_bits
from shard.training import MIN_TRAIN, train
from shard.validate import check_dim

MAX_SHARDS = 1_024
MAX_REPLICAS = 7
ERASURE_S = 24 * 3600.0
"""How long bytes of deleted templates may stay in files where nothing else is asked for."""
ERASE_EVERY_S = 60.0
"""Pause between two looks for bytes that are due."""
COMPARE_EVERY_S = 3_600.0
"""Pause between two comparisons of the replicas with each other."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}")
_STATS_TIMEOUT_S = 60.0
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
    ) -> None:
        """Finish or undo what an earlier process left half done, and open every shard.

        erasure_s: how long bytes of deleted templates may stay in files.

        Raises ClusterNotReady if a shard has no host in sync here, and what keeps its only replica from opening.
        """
        self._catalog, self._runtime = catalog, runtime
        self.replication = Replication(catalog, runtime, policy)
        self.erasure = Erasure(catalog, runtime, erasure_s)
        self._lock = threading.RLock()
        self._training = threading.Lock()
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None
        self._check_hosts()
        self.replication.start()

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
        """Look after the replicas in the background, a round every so many seconds, until `close`."""

        def run() -> None:
            erased_at = compared_at = time.monotonic()
            while not self._closing.wait(interval_s):
                try:
                    self.replication.tick()
                    if time.monotonic() - erased_at > ERASE_EVERY_S:
                        self.erasure.erase_due()
                        erased_at = time.monotonic()
                    if time.monotonic() - compared_at > COMPARE_EVERY_S:
                        self.replication.compare()
                        compared_at = time.monotonic()
                except FacegridError as error:
                    # The catalog or a host is away: the next round sees.
                    _LOG.warning("a round of looking after replicas failed: %s", error)

        self._watch = threading.Thread(target=run, name="facegrid-watch", daemon=True)
        self._watch.start()

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

    def erase_due(self) -> int:
        """Remove what is near its deadline in every gallery; how many shards were done."""
        return self.erasure.erase_due()

    def host_records(self) -> list[HostRecord]:
        """Every host that was ever part of the home, with its state, by name."""
        return self.replication.hosts()

    def replicas_left(self, host: str) -> int:
        """Replicas that a host holds still."""
        return self.replication.left_on(host)

    def shard_configs(self) -> list[ShardConfig]:
        """Who holds each shard of every gallery."""
        return self._catalog.shards()

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
            self.replication.finish_drops()
            gallery_id = secrets.token_hex(8)
            held = self._catalog.shards_per_host()
            here = [r.host for r in self.replication.hosts() if r.state == UP and r.host in self._runtime.hosts()]
            places = place_replicas(gallery_id, spec.shards, spec.replicas, {host: held.get(host, 0) for host in here})
            self._catalog.add_gallery(gallery_id, spec, places)
            self._runtime.control(
                [(host, CreateShard(gallery_id, i, spec.dim)) for i, hosts in enumerate(places) for host in hosts]
            )
            self._catalog.set_state(gallery_id, READY)
            self.replication.tell(gallery_id)
            return self._catalog.gallery(spec.name)

    def drop_gallery(self, name: str) -> None:
        """Remove a gallery and every file of it; UnknownGallery."""
        with self._lock:
            route = self._catalog.gallery(name)
            self._catalog.begin_drop(route.gallery_id)
            self.replication.finish_drops()

    def train(self, name: str, *, seed: int = 0) -> TrainReport:
        """Train a model on a sample across the gallery's shards and activate it on all of them.

        Raises NotEnoughData below MIN_TRAIN templates, UnknownGallery.
        """
        with self._training:
            return self._train(self._catalog.gallery(name), seed)

    def _train(self, route: GalleryRoute, seed: int) -> TrainReport:
        started = time.monotonic()
        counts = count_templates(self._runtime, route, started + _STATS_TIMEOUT_S)
        templates = sum(counts.values())
        if templates < MIN_TRAIN:
            raise NotEnoughData(f"{route.name} has {templates} templates; training needs at least {MIN_TRAIN}")
        sample = draw_sample(self._runtime, route, counts, seed)
        model = train(sample, code_bits=route.code_bits, seed=seed)
        message = ActivateModel(route.gallery_id, model.to_bytes())
        self._runtime.control([(host, message) for host in sorted({h for hosts in route.in_sync for h in hosts})])
        self._catalog.set_model(route.gallery_id, model.model_id, message.model, templates)
        seconds = time.monotonic() - started
        _LOG.info("trained %s on %d of %d templates in %.1f s", route.name, len(sample), templates, seconds)
        return TrainReport(model.model_id, templates, len(sample), seconds)

    def train_if_due(self, name: str) -> TrainReport | None:
        """Train if the gallery has become large enough for a first or a better model; None if it has not."""
        with self._training:
            route = self._catalog.gallery(name)
            counts = count_templates(self._runtime, route, time.monotonic() + _STATS_TIMEOUT_S)
            trained_at = self._catalog.model_templates(route.model_id) if route.model_id else None
            return self._train(route, seed=0) if is_training_due(sum(counts.values()), trained_at) else None

    def close(self) -> None:
        """End the watch, then close the catalog; the runtime is its owner's to close."""
        self._closing.set()
        if self._watch is not None:
            self._watch.join()
        self.replication.close()
        self._catalog.close()
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
