"""`DedupParameters`: what a dedup job may be asked for. Pure values; what they mean for a gallery is the job's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from coordinator.names import check_gallery_name
from coordinator.snapshots.manifest import check_snapshot_id
from coordinator.snapshots.places import public_url

Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Threshold = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
GalleryName = Annotated[str, AfterValidator(check_gallery_name)]
SnapshotId = Annotated[str, AfterValidator(check_snapshot_id)]

RECALLS = {"exact": 0.999, "fast": 0.99}
"""Share of the true pairs that a mode finds, where no other is asked for."""
DEFAULT_FLOOR = 0.3
"""Where the histogram of an analysis begins: pairs of strangers are most of what is below it."""
DEFAULT_MAX_PAIRS = 50_000_000
"""Pairs of which the files of a job take about 1 GiB; far more mean that the threshold is among strangers' scores."""


class DedupParameters(BaseModel):
    """Parameters of a dedup job. InvalidParameter, by whoever submits it, for values that cannot be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Threshold | None = Field(default=None, description="Cosine from which on two faces are a pair.")
    target_fpir: float | None = Field(
        default=None, gt=0, lt=1, description="Instead of a threshold: the one of the gallery's calibration for it."
    )
    mode: Literal["exact", "fast"] = Field(default="exact", description="All pairs, or faster and fewer of them.")
    recall: float | None = Field(
        default=None, gt=0, lt=1, description="Share of the true pairs to find; 0.999, in fast mode 0.99."
    )
    other: GalleryName | None = Field(
        default=None, description="Second gallery: pairs have one face of each, and none are within one of them."
    )
    store: str | None = Field(
        default=None,
        min_length=1,
        description="Snapshot store that all workers reach; the job's directory if not given.",
    )
    snapshot: SnapshotId | None = Field(
        default=None, description="Snapshot of the gallery in the store; a new one is made if not given."
    )
    other_snapshot: SnapshotId | None = Field(default=None, description="Snapshot of the second gallery in the store.")
    analyse: bool = Field(default=False, description="No groups: what each threshold would give, to choose one by.")
    floor: Threshold | None = Field(
        default=None, description=f"Least score that an analysis looks at; {DEFAULT_FLOOR} if not given."
    )
    min_group: int = Field(default=2, ge=2, description="Groups of fewer faces are left out.")
    max_group: int = Field(default=1_000, ge=2, description="Groups of more faces are marked for review.")
    cohesion: Cosine | None = Field(
        default=None, description="Least cosine of a group's faces to its medoid; half of the threshold if not given."
    )
    merge_same_photo: bool = Field(default=False, description="Two faces of one photo may be in one group.")
    same_photo_bits: int = Field(
        default=4, ge=0, le=63, description="Perceptual hashes that differ in at most so many bits are of one photo."
    )
    keep: Literal["quality", "first"] = Field(
        default="quality", description="Which face of a group is kept: the best one, or the one enrolled first."
    )
    max_pairs: int = Field(
        default=DEFAULT_MAX_PAIRS, ge=1, le=10**10, description="More pairs than that end the job with an error."
    )
    workers: int | None = Field(
        default=None, ge=1, le=1024, description="Processes, or Ray tasks, at a time; as many as there are cores."
    )

    @model_validator(mode="after")
    def _check(self) -> DedupParameters:
        given = [name for name in ("threshold", "target_fpir") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("expected threshold or target_fpir, got both")
        if not given and not self.analyse:
            raise ValueError("expected threshold or target_fpir, got neither; analyse shows what thresholds would give")
        if self.floor is not None and not self.analyse:
            raise ValueError("floor: only an analysis has one; expected analyse")
        if self.floor is not None and self.threshold is not None and self.floor > self.threshold:
            raise ValueError(f"floor: expected at most the threshold {self.threshold}, got {self.floor}")
        if self.min_group > self.max_group:
            raise ValueError(f"min_group: expected at most max_group {self.max_group}, got {self.min_group}")
        self._check_inputs()
        return self

    def _check_inputs(self) -> None:
        if self.store is not None and public_url(self.store) != self.store:
            raise ValueError("store: parameters are kept, so expected a URL without credentials")
        if self.snapshot is not None and self.store is None:
            raise ValueError("snapshot: expected the store that it is in too")
        if self.other_snapshot is not None and (self.other is None or self.snapshot is None):
            raise ValueError("other_snapshot: expected other, store and snapshot with it")
        if self.other is not None and self.snapshot is not None and self.other_snapshot is None:
            raise ValueError("other: expected other_snapshot, since snapshot is given")

    @property
    def target_recall(self) -> float:
        """Share of the true pairs to find, as asked for or the mode's own."""
        return RECALLS[self.mode] if self.recall is None else self.recall

    @property
    def is_cross(self) -> bool:
        """Whether two galleries are compared."""
        return self.other is not None
