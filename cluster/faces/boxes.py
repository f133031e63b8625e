"""The geometry of boxes: what a detection is, suppression of overlapping ones, one order for all.

Owns arithmetic on (x, y, w, h) only; must not know networks or images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shard.types import FloatArray


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected face in the pixels of the image it was found in.

    box: (x, y, w, h), floats; it may reach over the border. landmarks: (5, 2) float32 (x, y) in the order left eye,
    right eye, nose tip, left and right mouth corner, left and right as the viewer sees them. score: the detector's, in
    [0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: FloatArray
    score: float


@dataclass(frozen=True, slots=True)
class RawDetections:
    """What a network says, all float32: boxes (n, 4) x, y, w, h; landmarks (n, 5, 2); scores (n,)."""

    boxes: FloatArray
    landmarks: FloatArray
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    def moved(self, scale: float, dx: float, dy: float) -> RawDetections:
        """The same detections after every coordinate is divided by `scale` and moved by (dx, dy)."""
        shift = np.array([dx, dy], np.float32)
        boxes = self.boxes / np.float32(scale)
        boxes[:, :2] += shift
        return RawDetections(boxes, self.landmarks / np.float32(scale) + shift, self.scores)


def concatenated(parts: list[RawDetections]) -> RawDetections:
    """All detections of several passes, in the order of the passes; at least one part."""
    return RawDetections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.landmarks for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def suppressed(raw: RawDetections, max_overlap: float) -> tuple[Detection, ...]:
    """Greedy non-maximum suppression, then the largest face first.

    Of two boxes whose intersection over union exceeds `max_overlap` the one of higher score stays (ties: the leftmost,
    then topmost). Order of the result: area descending, then score descending, then x, then y.
    """
    order = np.lexsort((raw.boxes[:, 1], raw.boxes[:, 0], -raw.scores))
    kept: list[int] = []
    while len(order):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        order = rest[overlap(raw.boxes[best], raw.boxes[rest]) <= max_overlap]
    found = [_detection(raw, index) for index in kept]
    return tuple(sorted(found, key=lambda face: (-face.box[2] * face.box[3], -face.score, face.box[0], face.box[1])))


def overlap(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Intersection over union of one box (4,) with each of (n, 4); (n,) float32."""
    left_top = np.maximum(box[:2], boxes[:, :2])
    right_bottom = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    shared = np.prod(np.maximum(right_bottom - left_top, 0), axis=1)
    union = box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float32).tiny), np.float32)


def _detection(raw: RawDetections, index: int) -> Detection:
    x, y, w, h = (float(value) for value in raw.boxes[index])
    return Detection((x, y, w, h), raw.landmarks[index].astype(np.float32), float(raw.scores[index]))
