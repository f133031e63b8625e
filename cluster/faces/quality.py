"""Decides whether a detected face is good enough to enroll, and says why not.

Owns the measures and their thresholds; must not know detectors, embedders or galleries. The defaults were set on the
photos and the faceless pictures of tests/accuracy; docs/faces.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cluster.faces.align import TEMPLATE
from cluster.faces.boxes import Detection
from cluster.faces.decode import ImageArray
from cluster.faces.extras import require_cv2
from shard.types import FloatArray

Refusal = Literal["low_detector_score", "too_small", "off_image", "pose", "blurred"]
"""Why a detected face is not enrolled; the first that applies, in this order."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on one face.

    eye_distance_px: between the eyes in the image, foreshortening undone. sharpness: see `sharpness_of`.
    yaw, pitch, roll: degrees; yaw > 0 turns the nose to the viewer's right, pitch > 0 down, roll > 0 clockwise.
    inside: share of the box that lies in the image. score: one number in [0, 1], the product of how far each measure is
    from its bound.
    """

    detector_score: float
    eye_distance_px: float
    sharpness: float
    yaw: float
    pitch: float
    roll: float
    inside: float
    score: float


@dataclass(frozen=True, slots=True)
class QualityGate:
    """The bounds a face must keep to be enrolled."""

    min_detector_score: float = 0.8
    min_eye_distance_px: float = 18.0
    min_inside: float = 0.85
    max_yaw: float = 50.0
    max_pitch: float = 40.0
    max_roll: float = 60.0
    min_sharpness: float = 0.12

    @property
    def min_face_px(self) -> float:
        """Width of the narrowest box that can pass: an eye distance is about 0.45 of a box's width."""
        return self.min_eye_distance_px / 0.45

    def refusal(self, quality: Quality) -> Refusal | None:
        """The first reason not to enroll a face of this quality, or None."""
        checks: tuple[tuple[Refusal, bool], ...] = (
            ("low_detector_score", quality.detector_score < self.min_detector_score),
            ("too_small", quality.eye_distance_px < self.min_eye_distance_px),
            ("off_image", quality.inside < self.min_inside),
            ("pose", self._is_turned(quality)),
            ("blurred", quality.sharpness < self.min_sharpness),
        )
        return next((reason for reason, applies in checks if applies), None)

    def _is_turned(self, quality: Quality) -> bool:
        return (
            abs(quality.yaw) > self.max_yaw or abs(quality.pitch) > self.max_pitch or abs(quality.roll) > self.max_roll
        )


def measure(image: ImageArray, face: Detection, crop: ImageArray, gate: QualityGate) -> Quality:
    """The quality of a face: `face` in `image` (h, w, 3) RGB, `crop` its aligned (112, 112, 3) RGB."""
    pose = head_pose(face.landmarks)
    sharpness = sharpness_of(crop)
    inside = _inside(face, image.shape[1], image.shape[0])
    parts = (
        _ramp(face.score, gate.min_detector_score, 0.95),
        _ramp(pose.eye_distance_px, gate.min_eye_distance_px, 60.0),
        _ramp(inside, gate.min_inside, 1.0),
        _ramp(-abs(pose.yaw), -gate.max_yaw, 0.0),
        _ramp(-abs(pose.pitch), -gate.max_pitch, 0.0),
        _ramp(sharpness, gate.min_sharpness, 4 * gate.min_sharpness),
    )
    score = math.prod(parts) ** (1 / len(parts))
    return Quality(
        face.score, pose.eye_distance_px, sharpness, pose.yaw, pose.pitch, pose.roll, inside, score=float(score)
    )


@dataclass(frozen=True, slots=True)
class HeadPose:
    """Angles in degrees (signs as in Quality) and the eye distance in pixels as if the face were frontal."""

    yaw: float
    pitch: float
    roll: float
    eye_distance_px: float


# Depth of each landmark towards the viewer, in pixels of the 112×112 template, where the eyes are 35 apart (63 mm in
# life): the nose tip stands about 30 mm before the eyes' plane, the mouth's corners about 5 mm.
_DEPTH = np.array([0.0, 0.0, 17.0, 3.0, 3.0])


def head_pose(landmarks: FloatArray) -> HeadPose:
    """Pose from five landmarks (5, 2): a weak-perspective camera fitted to a generic head by least squares.

    An estimate good to some ten degrees, for a gate rather than for measuring. Landmarks that fit no head give 90°.
    """
    points = np.asarray(landmarks, np.float64)
    head = np.hstack([TEMPLATE, _DEPTH[:, None]])
    head = head - head.mean(axis=0)
    solution, *_ = np.linalg.lstsq(head, points - points.mean(axis=0), rcond=None)
    camera = solution.T
    scale = float(np.linalg.norm(camera, 2))
    if not math.isfinite(scale) or scale < 1e-9:
        return HeadPose(90.0, 90.0, 0.0, 0.0)
    u, _, vt = np.linalg.svd(camera, full_matrices=False)
    rows = u @ vt
    forward = np.cross(rows[0], rows[1])
    eye = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])) * scale
    yaw = math.degrees(math.atan2(rows[0, 2], forward[2]))
    pitch = math.degrees(math.atan2(rows[1, 2], forward[2]))
    roll = math.degrees(math.atan2(rows[1, 0] - rows[0, 1], rows[0, 0] + rows[1, 1]))
    return HeadPose(yaw, pitch, roll, eye)


def sharpness_of(crop: ImageArray) -> float:
    """How much fine detail the middle of an aligned crop has against coarse detail: 0 flat, about 1 for noise.

    The ratio of the energies of the Laplacian at 112×112 and of the image's own variance, so that dim or soft lighting
    does not count as blur.
    """
    cv2 = require_cv2()
    grey = cv2.cvtColor(crop[24:104, 20:92], cv2.COLOR_RGB2GRAY).astype(np.float32)
    contrast = float(grey.std())
    if contrast < 1.0:
        return 0.0
    return float(cv2.Laplacian(grey, cv2.CV_32F).std()) / contrast


def _inside(face: Detection, width: int, height: int) -> float:
    x, y, w, h = face.box
    if w <= 0 or h <= 0:
        return 0.0
    return max(0.0, min(x + w, width) - max(x, 0.0)) * max(0.0, min(y + h, height) - max(y, 0.0)) / (w * h)


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0.0, 1.0)) if high > low else float(value >= low)
