"""Brings a face to the 112×112 position that the embedders were trained on.

Owns the template and the similarity transform; must not know detectors or embedders.
Sources: Umeyama, IEEE PAMI 13(4), 1991; the template is the ArcFace one (Deng et al., CVPR 2019).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cluster.faces.decode import ImageArray
from cluster.faces.extras import require_cv2
from shard.types import FloatArray

CROP_SIDE = 112
TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) x, y in the crop: left eye, right eye, nose tip, left and right mouth corner, as the viewer sees them."""


def similarity_transform(source: FloatArray, target: npt.NDArray[np.float64] = TEMPLATE) -> npt.NDArray[np.float64]:
    """The (2, 3) matrix of rotation, uniform scale and shift that carries `source` (n, 2) nearest to `target` (n, 2).

    Least squares, never a reflection. Raises ValueError where the source points coincide or are not finite.
    """
    points = np.asarray(source, np.float64)
    centred = points - points.mean(axis=0)
    variance = float((centred**2).sum()) / len(points)
    if not math.isfinite(variance) or variance < 1e-12:
        raise ValueError(f"expected distinct finite points, got {points.tolist()}")
    covariance = (target - target.mean(axis=0)).T @ centred / len(points)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u * sign @ vt
    matrix = rotation * float((singular * sign).sum()) / variance
    shift = target.mean(axis=0) - matrix @ points.mean(axis=0)
    return np.hstack([matrix, shift[:, None]])


def aligned_crop(image: ImageArray, landmarks: FloatArray) -> ImageArray:
    """The face as (112, 112, 3) uint8 RGB, its landmarks on the template; black where the image ends.

    image: (h, w, 3) uint8 RGB. landmarks: (5, 2) in its pixels. A face far larger than the crop is averaged down
    first: sampling it directly would alias.
    """
    cv2 = require_cv2()
    matrix = similarity_transform(landmarks)
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    part, origin = _around_crop(image, matrix, scale)
    matrix = matrix @ np.array([[1, 0, origin[0]], [0, 1, origin[1]], [0, 0, 1]])
    if scale < 0.5:
        size = (max(1, round(part.shape[1] * 2 * scale)), max(1, round(part.shape[0] * 2 * scale)))
        sx, sy = part.shape[1] / size[0], part.shape[0] / size[1]
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        # Pixel centres: x_before = (x + 0.5) * s - 0.5.
        matrix = matrix @ np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
    crop = cv2.warpAffine(part, matrix, (CROP_SIDE, CROP_SIDE), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    return np.asarray(crop, np.uint8)


def _around_crop(
    image: ImageArray, matrix: npt.NDArray[np.float64], scale: float
) -> tuple[ImageArray, tuple[int, int]]:
    """The part of the image that the crop samples, with a margin, and its upper left corner."""
    corners = np.array([[0, 0], [CROP_SIDE, 0], [0, CROP_SIDE], [CROP_SIDE, CROP_SIDE]], np.float64)
    there = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    margin = 2 + 2 / scale
    height, width = image.shape[:2]
    left, top = (int(max(0, value)) for value in np.floor(there.min(axis=0) - margin))
    right, bottom = (int(value) for value in np.ceil(there.max(axis=0) + margin))
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = min(max(right, left + 1), width), min(max(bottom, top + 1), height)
    return image[top:bottom, left:right], (left, top)
