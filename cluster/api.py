"""`Cluster`: an open home and its galleries, the entry point of the Python API.

    with Cluster.open("home/") as grid:
        staff = grid.gallery("acme/staff", create=True, shards=4)

Puts home, runtime, coordinator and router together, for one machine or Ray. The verbs are in `cluster.gallery`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster import entry, hosts, images
from cluster.calibration import Thresholds
from cluster.config import Settings, key_source, load_settings, pipeline_options, tls_files
from cluster.dedup.sweeping import Sweeper, sweep
from cluster.faces import FacePipeline, ImageSource, model_spec
from cluster.gallery import Gallery
from cluster.hosts import Progress
from cluster.jobs.jobs import Jobs
from cluster.results import HostStatus, ShardReplicas, Verification
from cluster.snapshots import Snapshots
from coordinator.attachment import Attached, Attachment
from coordinator.catalog import open_catalog
from coordinator.coordinator import Coordinator
from coordinator.heat import COLD
from coordinator.home import Home, jobs_directory
from coordinator.idempotency import Idempotency
from coordinator.names import check_gallery_name
from coordinator.ray_cluster import RayCluster, RayOptions
from coordinator.ray_coordinator import RayCoordinator
from coordinator.ray_idempotency import RayIdempotency
from coordinator.ray_tenants import RayTenants
from coordinator.router import Router
from coordinator.runtime import LocalRuntime, Runtime
from coordinator.tenants import Tenants
from coordinator.types import GalleryRoute, GallerySpec, ReplicaErasure
from shard.errors import AlreadyExists, FacegridError, InvalidParameter, ModelMismatch, ShardClosed, UnknownGallery
from shard.index import use_kernel

DEFAULT_SHARDS = 4
DEFAULT_CODE_BITS = 512
LOCAL_WATCH_S = 30.0
"""Pause between two rounds of looking after the shards of a home in this process, whose hosts do not come and go."""
_LOG = logging.getLogger(__name__)


class Cluster(entry.Cluster):
    """An open home. Use as a context manager, or call `close`. Thread-safe; one process at a time (HomeLocked)."""

    def __init__(self, settings: Settings, attachment: Attachment | None = None) -> None:
        """Open or create `settings.home`; see `Cluster.open`. attachment: join one that is open instead."""
        self.settings = settings
        self._closing = contextlib.ExitStack()
        self._is_closed = False
        self._home: Home | None = None
        self._ray: RayCluster | None = None
        self._maintenance = ThreadPoolExecutor(1, thread_name_prefix="facegrid-maintenance")
        self._due: set[str] = set()
        self._due_lock = threading.Lock()
        self._pipelines: dict[str, FacePipeline] = {}
        self._pipelines_lock = threading.Lock()
        with contextlib.ExitStack() as undo:
            if settings.kernel is not None:
                use_kernel(settings.kernel)
            self.runtime, self.coordinator = self._opened(undo) if attachment is None else _joined(attachment, undo)
            undo.callback(self._maintenance.shutdown)
            # Where there are several gateways, this process is one of those that enroll.
            is_alone = isinstance(self.coordinator, Coordinator)
            self.router = Router(self.runtime, self.coordinator.gallery, self.coordinator.report, is_alone=is_alone)
            self.thresholds = Thresholds(self)
            self.jobs = Jobs(self, self.home.directory if attachment is None else Path(attachment.home))
            """Batch jobs; see `cluster.jobs`."""
            undo.callback(self.jobs.close)
            if attachment is None:
                self.jobs.take_over()
            self._closing = undo.pop_all()
        if attachment is None:
            self._submit(self._remove_due, "the cluster was closed meanwhile")
            self._closing.callback(Sweeper(self, self.jobs.directory).close)

    def _opened(self, undo: contextlib.ExitStack) -> tuple[Runtime, Coordinator | RayCoordinator]:
        self._home = Home(self.settings.home)
        undo.callback(self._home.close)
        if self.settings.runtime == "ray":
            self._ray = _start_ray(self._home, self.settings, undo)
            return self._ray.runtime, self._ray.coordinator
        return _start(self._home, self.settings, undo)

    @classmethod
    def attach(cls, settings: Settings, attachment: Attachment) -> Cluster:
        """Join a cluster on Ray that another process has open, and keeps open. Any number of processes may.

        Raises HostUnavailable if its coordinator is not running.
        """
        return cls(settings, attachment)

    @property
    def home(self) -> Home:
        """The home, in the process that opened it. InvalidParameter in one that joined."""
        if self._home is None:
            raise InvalidParameter("the home is open in another process; this one has joined its cluster")
        return self._home

    @property
    def is_local(self) -> bool:
        """Whether the shards are in this process."""
        return isinstance(self.coordinator, Coordinator)

    @property
    def ray(self) -> RayCluster | None:
        """The actors, in the process that started them; None on one machine."""
        return self._ray

    def attachment(self) -> Attachment:
        """What another process needs to join this cluster on Ray; InvalidParameter where there is no Ray."""
        if self._ray is None:
            raise InvalidParameter("expected a home that was opened with runtime='ray'")
        coordinator = self._ray.coordinator.actor.where
        tls = tls_files(self.settings)
        return Attachment(str(self.home.directory), coordinator, self._ray.host_actors, self.home.secret, tls)

    @classmethod
    def open(cls, home: str | Path | None = None, *, runtime: str | None = None, **settings: Any) -> Cluster:
        """Open a home directory, creating it where there is none.

        runtime: "local" (shards in this process) or "ray" (one shard host a node). Further settings by keyword: the
        fields of `cluster.config.Settings`; what is not given comes from FACEGRID_ environment variables.
        Raises InvalidParameter, HomeLocked, FormatTooNew, CorruptData, ClusterNotReady, MissingExtra.
        """
        return cls(load_settings(home=home, runtime=runtime, **settings))

    def gallery(
        self,
        name: str,
        *,
        create: bool = False,
        shards: int | None = None,
        dim: int | None = None,
        code_bits: int | None = None,
        embedder: str | None = None,
        replicas: int | None = None,
        min_in_sync: int | None = None,
    ) -> Gallery:
        """The gallery of that name, `tenant/gallery`; with `create`, made where there is none.

        shards (4 if not given), code_bits (512), and either dim, for embeddings made elsewhere, or embedder, the
        network that makes them here (the configured one if neither is given) are fixed at creation, and so are replicas
        (1), copies of each shard on hosts of their own, and min_in_sync (1), copies without which writes are refused. A
        gallery that is there must have what is given.
        Raises UnknownGallery, InvalidParameter, ClusterNotReady for too few hosts, AlreadyExists for a different one.
        """
        check_gallery_name(name)
        wanted = {
            "shards": shards,
            "dim": dim,
            "code_bits": code_bits,
            "embedder": embedder,
            "replicas": replicas,
            "min_in_sync": min_in_sync,
        }
        try:
            route = self.coordinator.gallery(name)
        except UnknownGallery:
            if not create:
                raise
            copies = (1 if replicas is None else replicas, 1 if min_in_sync is None else min_in_sync)
            return Gallery(self, self._create(name, shards, dim, code_bits, embedder, copies))
        for field, value in wanted.items():
            if value is not None and value != getattr(route, field):
                raise AlreadyExists(f"gallery {name!r} exists with {field}={getattr(route, field)!r}, not {value!r}")
        return Gallery(self, route)

    def _create(
        self,
        name: str,
        shards: int | None,
        dim: int | None,
        code_bits: int | None,
        embedder: str | None,
        copies: tuple[int, int],
    ) -> GalleryRoute:
        if dim is None or embedder is not None:
            embedder = embedder or self.settings.embedder
            expected, dim = dim, model_spec(embedder, "embedder").dim
            if dim is None or (expected is not None and expected != dim):
                raise InvalidParameter(f"dim: embedder {embedder} makes {dim} dimensions, not {expected}")
        spec = GallerySpec(
            name=name,
            dim=dim,
            shards=DEFAULT_SHARDS if shards is None else shards,
            code_bits=DEFAULT_CODE_BITS if code_bits is None else code_bits,
            embedder=embedder,
            replicas=copies[0],
            min_in_sync=copies[1],
        )
        return self.coordinator.create_gallery(spec)

    @property
    def faces(self) -> FacePipeline:
        """The face pipeline of the settings; see `pipeline`."""
        return self.pipeline(self.settings.embedder)

    def pipeline(self, embedder: str) -> FacePipeline:
        """The face pipeline with an embedder, loaded on first use; a missing network is fetched, its licence logged.

        Raises MissingExtra, ModelFileMissing, ModelFileCorrupt, UnknownModel.
        """
        with self._pipelines_lock:
            if embedder not in self._pipelines:
                options = replace(pipeline_options(self.settings), embedder=embedder)
                self._pipelines[embedder] = FacePipeline(options, announce=_LOG.warning)
            return self._pipelines[embedder]

    def faces_for(self, gallery: Gallery) -> FacePipeline:
        """The pipeline whose embeddings the gallery holds. Raises what `embedder_of` and `pipeline` do."""
        return self.pipeline(self.embedder_of(gallery))

    def embedder_of(self, gallery: Gallery) -> str:
        """Name of the embedder of a gallery's photos: its own, unless the settings name one.

        Raises ModelMismatch if the settings name another, or if the gallery's embeddings are made elsewhere: scores
        between embedders are noise; UnknownModel for a name that is in no registry.
        """
        model_spec(self.settings.detector, "detector")
        model_spec(self.settings.embedder, "embedder")
        configured = self.settings.embedder if "embedder" in self.settings.model_fields_set else gallery.embedder
        if gallery.embedder is None or gallery.embedder != configured:
            holds = "embeddings of unknown origin" if gallery.embedder is None else f"embeddings of {gallery.embedder}"
            raise ModelMismatch(f"{gallery.name} holds {holds}; the embedder is {configured or self.settings.embedder}")
        return gallery.embedder

    def verify(self, a: ImageSource, b: ImageSource, *, threshold: float | None = None) -> Verification:
        """Whether two images, paths or bytes, show the same person: their main faces' cosine against a threshold.

        threshold: the embedder's default if None. Raises InvalidImage.
        """
        return images.verify(self.faces, a, b, threshold=threshold)

    def galleries(self, tenant: str | None = None) -> list[Gallery]:
        """Every gallery, or every one of a tenant, by name; UnknownTenant."""
        return [Gallery(self, route) for route in self.coordinator.galleries(tenant)]

    @cached_property
    def tenants(self) -> Tenants | RayTenants:
        """Tenants, their API keys and the audit log; see `coordinator.tenants.Tenants`."""
        self.check_open()
        return self.coordinator.tenants

    @property
    def idempotency(self) -> Idempotency | RayIdempotency:
        """Replies to requests that may be repeated; see `coordinator.idempotency`."""
        self.check_open()
        return self.coordinator.idempotency

    def heat(self) -> dict[str, str]:
        """How near at hand each gallery is, by name: `hot` (open, used in the last minutes), `warm` (open) or `cold`.

        A cold one is opened by the next request for it. Asking opens none.
        """
        self.check_open()
        open_now = self.coordinator.heat()
        return {route.name: open_now.get(route.gallery_id, COLD) for route in self.coordinator.galleries()}

    def drop(self, name: str) -> None:
        """Remove a gallery, its templates and its files, and what jobs hold of these; UnknownGallery."""
        self.coordinator.drop_gallery(check_gallery_name(name))
        if self._home is not None:  # elsewhere its Sweeper comes to it
            sweep(self, self.jobs.directory)

    def hosts(self) -> list[HostStatus]:
        """Every shard host that was ever part of the home, by name: its state, what it holds, how it answers."""
        self.check_open()
        return hosts.statuses(self.coordinator, self.router)

    def replicas(self) -> list[ShardReplicas]:
        """Who holds each shard, by gallery and shard."""
        self.check_open()
        return hosts.replicas(self.coordinator)

    def drain(
        self, host: str, *, progress: Progress | None = None, timeout_s: float | None = None, wait: bool = True
    ) -> int:
        """Have a shard host emptied: each of its replicas is copied to another host, then removed; all verbs go on.

        Waits until nothing is left on it, and calls progress(replicas gone, replicas in all) meanwhile; the host stays
        empty until `undrain`. With wait=False it is only marked, and emptied while the home is open. Returns how many
        replicas it held. A call that ended early may be repeated.
        Raises InvalidParameter for a host that is not known; when waiting, ClusterNotReady if the other hosts that are
        up are too few for what it holds or somebody undrains it, DeadlineExceeded after `timeout_s`.
        """
        self.check_open()
        return hosts.drain(self.coordinator, host, progress=progress, timeout_s=timeout_s, wait=wait)

    def undrain(self, host: str) -> None:
        """Have a drained host hold shards again; no change to one that is not. InvalidParameter if it is not known."""
        self.check_open()
        self.coordinator.undrain(host)

    def compare(self, *, timeout_s: float | None = None, wait: bool = True) -> list[str]:
        """Compare the replicas of every shard with each other; what differs from its primary is copied anew.

        Returns a line for each replica that differed, none if all are alike. Waits until the copies are made unless
        wait=False, with which they are made while the home is open; DeadlineExceeded after `timeout_s`.
        """
        self.check_open()
        return hosts.compare(self.coordinator, timeout_s=timeout_s, wait=wait)

    def erasure_report(self, gallery: str | None = None) -> list[ReplicaErasure]:
        """What the files of each replica hold still of deleted templates, and until when: of one gallery, or of all.

        Raises UnknownGallery.
        """
        self.check_open()
        return self.coordinator.erasure_report(gallery)

    def erase_due(self, gallery: str | None = None) -> int:
        """Remove the bytes of deleted templates that are near their deadline: of one gallery, or of all.

        Returns how many shards were rewritten; one that fails is logged and left for the next time, as
        `erasure_report` shows. An open home does this by itself, and once when it is opened. Raises UnknownGallery.
        """
        self.check_open()
        return self.coordinator.erase_due(gallery)

    def snapshots(self, url: str | Path) -> Snapshots:
        """The snapshots in a store: a directory, or a URL that pyarrow understands, such as `s3://bucket/prefix`.

        Raises InvalidParameter for a URL that is none, MissingExtra without pyarrow.
        """
        return Snapshots(self, url)

    def abandon_restore(self, name: str) -> None:
        """Remove a gallery whose restore was interrupted; UnknownGallery if none of that name is half restored."""
        self.coordinator.snapshots.abandon_restore(check_gallery_name(name))

    def enrolled(self, name: str, templates: int) -> None:
        """Have a gallery trained in the background if it has grown enough. Called after each enrollment."""
        with self._due_lock:
            if not templates or name in self._due:
                return
            self._due.add(name)
        self._submit(
            partial(self._train_if_due, name), "the cluster was closed during the enrollment, which is durable"
        )

    def _submit(self, work: Callable[[], None], if_closed: str) -> Future[None]:
        """Have the maintenance thread do it; ShardClosed, saying this, after `close`."""
        try:
            return self._maintenance.submit(work)
        except RuntimeError:
            raise ShardClosed(if_closed) from None

    def _train_if_due(self, name: str) -> None:
        with self._due_lock:
            self._due.discard(name)
        try:
            self.coordinator.train_if_due(name)
        except FacegridError:
            # The gallery stays searchable as it is, and the next enrollment tries again.
            _LOG.exception("training of %s in the background failed", name)

    def _remove_due(self) -> None:
        try:
            self.coordinator.erase_due()
            self.coordinator.tenants.trim_audit()
        except FacegridError:
            # It is tried again while the home is open, and when it is opened next.
            _LOG.exception("removing the bytes of deleted templates, and old entries of the audit log, failed")

    def wait_until_idle(self) -> None:
        """Wait for work in the background: training that enrollments made due, erasing what was due at opening.

        ShardClosed after `close`.
        """
        self.check_open()
        self._submit(lambda: None, "the cluster was closed meanwhile").result()

    def check_open(self) -> None:
        """ShardClosed after `close`."""
        if self._is_closed:
            raise ShardClosed(f"the cluster of {self.settings.home} is closed")

    def close(self) -> None:
        """Finish background work, stop the runtime, release the home. Nothing acknowledged is lost. Idempotent."""
        self._is_closed = True
        self._closing.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _joined(attachment: Attachment, undo: contextlib.ExitStack) -> tuple[Runtime, Coordinator | RayCoordinator]:
    """Connections to a cluster that is open elsewhere; closed by `undo`."""
    joined = Attached(attachment)
    undo.callback(joined.close)
    return joined.runtime, joined.coordinator


def _start_ray(home: Home, settings: Settings, undo: contextlib.ExitStack) -> RayCluster:
    """Shard hosts and coordinator as actors; closed by `undo`."""
    source = key_source(settings)
    source.service()  # what is wrong with it is said here, and not by an actor
    with contextlib.closing(open_catalog(home, settings.catalog)) as catalog:
        known = tuple(catalog.shards_per_host())
        needed = {config.primary for config in catalog.shards() if len(config.in_sync) == 1}
    options = RayOptions(
        address=settings.ray_address,
        shard_hosts=settings.shard_hosts,
        is_detached=settings.ray_detached,
        data_port=settings.data_port,
        probe_port=settings.probe_port,
        tls=tls_files(settings),
    )
    ray = RayCluster.start(
        options,
        home.directory,
        home.home_id,
        home.secret,
        known,
        needed_hosts=sorted(needed),
        kernel=settings.kernel,
        catalog=settings.catalog,
        erasure_s=settings.erasure_hours * 3600,
        audit_s=settings.audit_days * 86_400,
        key_source=source,
        open_shards=settings.open_shards,
    )
    undo.callback(ray.close)
    return ray


def _start(home: Home, settings: Settings, undo: contextlib.ExitStack) -> tuple[Runtime, Coordinator | RayCoordinator]:
    """Shard hosts and coordinator in this process; closed by `undo`."""
    catalog = open_catalog(home, settings.catalog, key_source(settings).service())
    undo.callback(catalog.close)
    names = {f"host-{i}" for i in range(settings.shard_hosts or 1)}
    present = sorted(names | set(home.local_hosts()))
    runtime = LocalRuntime(home.hosts_directory, present, open_shards=settings.open_shards)
    undo.callback(runtime.close)
    coordinator = Coordinator(
        catalog,
        runtime,
        erasure_s=settings.erasure_hours * 3600,
        audit_s=settings.audit_days * 86_400,
        jobs_directory=jobs_directory(home.directory),
    )
    undo.callback(coordinator.close)
    coordinator.watch(LOCAL_WATCH_S)
    return runtime, coordinator
