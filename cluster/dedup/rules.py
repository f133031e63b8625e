"""`Rules`: what makes faces a group. Plain values, of a job's parameters once its threshold is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shard.errors import InvalidParameter

COHESION = 0.5
"""Of the threshold: how near to its medoid a group's faces are, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """threshold: cosine from which on two faces are a pair. cohesion: least cosine of a group's faces to its medoid,
    None for COHESION of the threshold. min_group, max_group: faces of a group. merge_same_photo: two faces of one photo
    may be in one group. same_photo_bits: see `photos.pair_kinds`. keep: which face of a group is kept, the best one or
    the first by template id. Raises InvalidParameter for what cannot be."""

    threshold: float
    cohesion: float | None = None
    min_group: int = 2
    max_group: int = 1_000
    merge_same_photo: bool = False
    same_photo_bits: int = 4
    keep: Literal["quality", "first"] = "quality"

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("cohesion", self.least_cohesion)):
            if not math.isfinite(value) or not -1 <= value <= 1:
                raise InvalidParameter(f"{name}: expected a cosine between -1 and 1, got {value}")
        if not 2 <= self.min_group <= self.max_group:
            raise InvalidParameter(f"min_group: expected 2 to max_group {self.max_group}, got {self.min_group}")

    @property
    def least_cohesion(self) -> float:
        """Least cosine to the medoid, as asked for or by default."""
        return COHESION * self.threshold if self.cohesion is None else self.cohesion
