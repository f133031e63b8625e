"""Decides whether a detected face is good enough to enroll, and says why not.

Owns the measures and their thresholds; must not know detectors, embedders or galleries. The defaults were set on the
photos and the faceless pictures of tests/accuracy; docs/faces.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cluster.faces.align import similarity_transform
from cluster.faces.boxes import Detection
from cluster.faces.decode import ImageArray
from cluster.faces.extras import require_cv2
from shard.types import FloatArray

Refusal = Literal["low_detector_score", "too_small", "off_image", "pose", "blurred", "not_a_photo"]
"""Why a detected face is not enrolled; the first that applies, in this order."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on one face.

    eye_distance_px: between the eyes in the image, foreshortening undone. sharpness, tones: see the functions.
    yaw, pitch, roll: degrees; yaw > 0 turns the nose to the viewer's right, pitch > 0 down, roll > 0 clockwise.
    inside: share of the face that lies in the image. score: one number in [0, 1], the geometric
    mean of how far each measure lies from its bound.
    """

    detector_score: float
    eye_distance_px: float
    sharpness: float
    tones: float
    yaw: float
    pitch: float
    roll: float
    inside: float
    score: float


@dataclass(frozen=True, slots=True)
class QualityGate:
    """The bounds a face must keep to be enrolled.

    min_detector_score: None takes the registry's `enroll_score` of the detector in use, for detectors score
    differently.
    """

    min_detector_score: float | None = None
    min_eye_distance_px: float = 18.0
    min_inside: float = 0.85
    max_yaw: float = 50.0
    max_pitch: float = 40.0
    max_roll: float = 60.0
    min_sharpness: float = 0.12
    min_tones: float = 3.3

    @property
    def min_face_px(self) -> float:
        """Width of the narrowest box that can pass: an eye distance is about 0.45 of a box's width."""
        return self.min_eye_distance_px / 0.45

    def for_detector(self, enroll_score: float) -> QualityGate:
        """The same gate with this least detector score where none was given."""
        return self if self.min_detector_score is not None else replace(self, min_detector_score=enroll_score)

    def refusal(self, quality: Quality) -> Refusal | None:
        """The first reason not to enroll a face of this quality, or None."""
        checks: tuple[tuple[Refusal, bool], ...] = (
            ("low_detector_score", quality.detector_score < (self.min_detector_score or 0.0)),
            ("too_small", quality.eye_distance_px < self.min_eye_distance_px),
            ("off_image", quality.inside < self.min_inside),
            ("pose", self._is_turned(quality)),
            ("blurred", quality.sharpness < self.min_sharpness),
            ("not_a_photo", quality.tones < self.min_tones),
        )
        return next((reason for reason, applies in checks if applies), None)

    def _is_turned(self, quality: Quality) -> bool:
        return (
            abs(quality.yaw) > self.max_yaw or abs(quality.pitch) > self.max_pitch or abs(quality.roll) > self.max_roll
        )


def measure(image: ImageArray, face: Detection, crop: ImageArray, gate: QualityGate) -> Quality:
    """The quality of a face: `face` in `image` (h, w, 3) RGB, `crop` its aligned (112, 112, 3) RGB."""
    least = gate.min_detector_score or 0.0
    pose = head_pose(face.landmarks)
    sharpness, tones = sharpness_of(crop), tones_of(crop)
    inside = _inside(face, image.shape[1], image.shape[0])
    parts = (
        _ramp(face.score, least, 0.25 * least + 0.75),
        _ramp(pose.eye_distance_px, gate.min_eye_distance_px, 60.0),
        _ramp(inside, gate.min_inside, 1.0),
        _ramp(-abs(pose.yaw), -gate.max_yaw, 0.0),
        _ramp(-abs(pose.pitch), -gate.max_pitch, 0.0),
        _ramp(sharpness, gate.min_sharpness, 4 * gate.min_sharpness),
    )
    score = math.prod(parts) ** (1 / len(parts))
    return Quality(
        face.score, pose.eye_distance_px, sharpness, tones, pose.yaw, pose.pitch, pose.roll, inside, float(score)
    )


@dataclass(frozen=True, slots=True)
class HeadPose:
    """Angles in degrees (signs as in Quality) and the eye distance in pixels as if the face were frontal."""

    yaw: float
    pitch: float
    roll: float
    eye_distance_px: float


# A generic head (x, y, depth towards the viewer), eyes 37.8 apart as YuNet sees them in the aligned crop: the median of
# 47 frontal photos, made symmetric. Depth from life, where the eyes are 63 mm apart: the nose tip stands about 30 mm
# before the eyes' plane, the mouth's corners about 5 mm.
_HEAD = np.array([[-18.9, 0.0, 0.0], [18.9, 0.0, 0.0], [0.0, 22.1, 18.0], [-16.8, 36.9, 3.0], [16.8, 36.9, 3.0]])
_HEAD_EYES = 37.8


def head_pose(landmarks: FloatArray) -> HeadPose:
    """Pose from five landmarks (5, 2): a weak-perspective camera fitted to a generic head by least squares.

    An estimate good to some ten degrees, for a gate rather than for measuring. Landmarks that fit no head give 90°.
    """
    points = np.asarray(landmarks, np.float64)
    head = _HEAD - _HEAD.mean(axis=0)
    solution, *_ = np.linalg.lstsq(head, points - points.mean(axis=0), rcond=None)
    camera = solution.T
    scale = float(np.linalg.norm(camera, 2))
    if not math.isfinite(scale) or scale < 1e-9:
        return HeadPose(90.0, 90.0, 0.0, 0.0)
    u, _, vt = np.linalg.svd(camera, full_matrices=False)
    rows = u @ vt
    forward = np.cross(rows[0], rows[1])
    yaw = math.degrees(math.atan2(rows[0, 2], forward[2]))
    pitch = math.degrees(math.atan2(rows[1, 2], forward[2]))
    roll = math.degrees(math.atan2(rows[1, 0] - rows[0, 1], rows[0, 0] + rows[1, 1]))
    return HeadPose(yaw, pitch, roll, _HEAD_EYES * scale)


def sharpness_of(crop: ImageArray) -> float:
    """How much fine detail the middle of an aligned crop has against its contrast: 0 where flat, above 1 for noise.

    The Laplacian's standard deviation over that of the grey levels, so that dim or soft light does not count as blur.
    """
    cv2 = require_cv2()
    grey = _middle(crop)
    contrast = float(grey.std())
    return float(cv2.Laplacian(grey, cv2.CV_32F).std()) / contrast if contrast >= 1.0 else 0.0


def tones_of(crop: ImageArray) -> float:
    """Entropy in bits of the middle's grey levels, stretched to 64 steps: at most 6, low for drawings of few tones."""
    grey = _middle(crop)
    low, high = np.percentile(grey, (1, 99))
    if high - low < 1.0:
        return 0.0
    steps = np.clip((grey - low) * (64 / (high - low)), 0, 63).astype(np.int64)
    share = np.bincount(steps.ravel(), minlength=64) / steps.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _middle(crop: ImageArray) -> FloatArray:
    """Eyes to mouth of an aligned crop in grey, where hair and background matter least: (80, 72) float32."""
    cv2 = require_cv2()
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(crop[24:104, 20:92]), cv2.COLOR_RGB2GRAY), np.float32)


def _inside(face: Detection, width: int, height: int) -> float:
    """Share of the box, or of the middle of the aligned crop if that is less, that lies in the image.

    The box alone does not tell: of a face cut by the border, detectors box what is left.
    """
    x, y, w, h = face.box
    if w <= 0 or h <= 0:
        return 0.0
    box = max(0.0, min(x + w, width) - max(x, 0.0)) * max(0.0, min(y + h, height) - max(y, 0.0)) / (w * h)
    matrix = similarity_transform(face.landmarks)
    grid = np.stack(np.meshgrid(np.linspace(16, 96, 17), np.linspace(16, 104, 17)), axis=-1).reshape(-1, 2)
    there = (grid - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    within = ((there >= -0.5) & (there <= [width - 0.5, height - 0.5])).all(axis=1)
    return min(box, float(within.mean()))


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0.0, 1.0)) if high > low else float(value >= low)
