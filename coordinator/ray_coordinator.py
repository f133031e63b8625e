"""The coordinator's methods, carried out by its actor: what a process has in hand that is not the coordinator's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.actors import Actor
from coordinator.calibrations import LabelledSample
from coordinator.gallery_calibration import Calibration
from coordinator.ray_idempotency import RayIdempotency
from coordinator.ray_jobs import RayJobs
from coordinator.ray_tenants import RayTenants
from coordinator.snapshot_catalog import SnapshotRecord
from coordinator.types import (
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
from shard.drift import Drift

REPORT_S = 10.0
"""How long the coordinator may take to look at a shard that a writer reports; it looks after all by itself too."""


class RayCoordinator:
    """The methods of `coordinator.coordinator.Coordinator`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.snapshots = RaySnapshotControl(actor)
        self.calibrations = RayCalibrations(actor)
        self.tenants = RayTenants(actor)
        self.idempotency = RayIdempotency(actor)
        self.identities = RayIdentityChanges(actor)
        self.jobs = RayJobs(actor)

    def hosts(self) -> tuple[str, ...]:
        """See Coordinator.hosts."""
        hosts: tuple[str, ...] = self._call("hosts")
        return hosts

    def gallery(self, name: str) -> GalleryRoute:
        """See Coordinator.gallery."""
        route: GalleryRoute = self._call("gallery", name)
        return route

    def galleries(self, tenant: str | None = None) -> list[GalleryRoute]:
        """See Coordinator.galleries."""
        routes: list[GalleryRoute] = self._call("galleries", tenant)
        return routes

    def create_gallery(self, spec: GallerySpec) -> GalleryRoute:
        """See Coordinator.create_gallery."""
        route: GalleryRoute = self._call("create_gallery", spec)
        return route

    def drop_gallery(self, name: str) -> None:
        """See Coordinator.drop_gallery."""
        self._call("drop_gallery", name)

    def train(self, name: str, *, seed: int = 0) -> TrainReport:
        """See Coordinator.train."""
        report: TrainReport = self._call("train", name, seed=seed)
        return report

    def train_if_due(self, name: str) -> TrainReport | None:
        """See Coordinator.train_if_due."""
        report: TrainReport | None = self._call("train_if_due", name)
        return report

    def drift(self, name: str) -> Drift | None:
        """See Coordinator.drift."""
        drift: Drift | None = self._call("drift", name)
        return drift

    def rollouts(self) -> list[RolloutStatus]:
        """See Coordinator.rollouts."""
        statuses: list[RolloutStatus] = self._call("rollouts")
        return statuses

    def roll_back(self, name: str) -> RolloutStatus:
        """See Coordinator.roll_back."""
        status: RolloutStatus = self._call("roll_back", name)
        return status

    def resume_rollouts(self) -> None:
        """See Coordinator.resume_rollouts."""
        self._call("resume_rollouts")

    def report(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        """See Coordinator.report."""
        self.actor.call("call", "report", (gallery_id, shard, epoch, error), {}, timeout_s=REPORT_S)

    def drain(self, host: str) -> None:
        """See Coordinator.drain."""
        self._call("drain", host)

    def undrain(self, host: str) -> None:
        """See Coordinator.undrain."""
        self._call("undrain", host)

    def hand_over(self, host: str) -> int:
        """See Coordinator.hand_over."""
        moved: int = self._call("hand_over", host)
        return moved

    def leave(self, host: str) -> int:
        """See Coordinator.leave."""
        missed: int = self._call("leave", host)
        return missed

    def host_records(self) -> list[HostRecord]:
        """See Coordinator.host_records."""
        records: list[HostRecord] = self._call("host_records")
        return records

    def replicas_left(self, host: str) -> int:
        """See Coordinator.replicas_left."""
        left: int = self._call("replicas_left", host)
        return left

    def erasure_report(self, name: str | None = None) -> list[ReplicaErasure]:
        """See Coordinator.erasure_report."""
        report: list[ReplicaErasure] = self._call("erasure_report", name)
        return report

    def erase(self, name: str) -> None:
        """See Coordinator.erase."""
        self._call("erase", name)

    def erase_due(self, name: str | None = None) -> int:
        """See Coordinator.erase_due."""
        done: int = self._call("erase_due", name)
        return done

    def erasure_backlog(self) -> ErasureBacklog | None:
        """See Coordinator.erasure_backlog."""
        backlog: ErasureBacklog | None = self._call("erasure_backlog")
        return backlog

    def look_after(self) -> None:
        """See Coordinator.look_after; the actor does so by itself too."""
        self._call("look_after")

    def compare(self) -> list[str]:
        """See Coordinator.compare."""
        found: list[str] = self._call("compare")
        return found

    def heat(self) -> dict[str, str]:
        """See Coordinator.heat."""
        return dict(self._call("heat"))

    def shard_configs(self) -> list[ShardConfig]:
        """See Coordinator.shard_configs."""
        configs: list[ShardConfig] = self._call("shard_configs")
        return configs

    def close(self) -> None:
        """The actor is RayCluster's to close."""

    def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        return self.actor.call("call", method, args, kwargs)


class RaySnapshotControl:
    """The methods of `coordinator.snapshots.control.SnapshotControl`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def active_model(self, gallery: str) -> ModelData | None:
        """See SnapshotControl.active_model."""
        model: ModelData | None = self._call("active_model", gallery)
        return model

    def begin_restore(self, spec: GallerySpec, snapshot_id: str, model: ModelData | None) -> tuple[GalleryRoute, bool]:
        """See SnapshotControl.begin_restore."""
        begun: tuple[GalleryRoute, bool] = self._call("begin_restore", spec, snapshot_id, model)
        return begun

    def restoring(self, gallery: str) -> GalleryRoute:
        """See SnapshotControl.restoring."""
        route: GalleryRoute = self._call("restoring", gallery)
        return route

    def finish_restore(self, gallery: str) -> GalleryRoute:
        """See SnapshotControl.finish_restore."""
        route: GalleryRoute = self._call("finish_restore", gallery)
        return route

    def abandon_restore(self, gallery: str) -> None:
        """See SnapshotControl.abandon_restore."""
        self._call("abandon_restore", gallery)

    def was_restored_from(self, gallery: str, snapshot_id: str) -> bool:
        """See SnapshotControl.was_restored_from."""
        answer: bool = self._call("was_restored_from", gallery, snapshot_id)
        return answer

    def remember(self, record: SnapshotRecord) -> None:
        """See SnapshotControl.remember."""
        self._call("remember", record)

    def forget(self, snapshot_ids: tuple[str, ...]) -> None:
        """See SnapshotControl.forget."""
        self._call("forget", snapshot_ids)

    def made(self) -> list[SnapshotRecord]:
        """See SnapshotControl.made."""
        records: list[SnapshotRecord] = self._call("made")
        return records

    def _call(self, method: str, *args: object) -> Any:
        return self._actor.call("call", f"snapshots.{method}", args, {})


class RayCalibrations:
    """The methods of `coordinator.calibrations.Calibrations`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def draw(self, gallery: str, count: int, seed: int) -> LabelledSample:
        """See Calibrations.draw."""
        sample: LabelledSample = self._actor.call("call", "calibrations.draw", (gallery, count, seed), {})
        return sample

    def put(self, gallery_id: str, calibration: Calibration) -> None:
        """See Calibrations.put."""
        self._actor.call("call", "calibrations.put", (gallery_id, calibration), {})

    def of(self, gallery_id: str) -> Calibration | None:
        """See Calibrations.of."""
        found: Calibration | None = self._actor.call("call", "calibrations.of", (gallery_id,), {})
        return found


class RayIdentityChanges:
    """The methods of `coordinator.identities.IdentityChanges`, carried out by the coordinator's actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def rename(self, gallery: str, old: str, new: str) -> int:
        """See IdentityChanges.rename."""
        moved: int = self._actor.call("call", "identities.rename", (gallery, old, new), {})
        return moved

    def merge(self, gallery: str, identities: Sequence[str], into: str) -> int:
        """See IdentityChanges.merge."""
        moved: int = self._actor.call("call", "identities.merge", (gallery, tuple(identities), into), {})
        return moved

    def mark(self, gallery: str) -> int | None:
        """See IdentityChanges.mark."""
        mark: int | None = self._actor.call("call", "identities.mark", (gallery,), {})
        return mark
