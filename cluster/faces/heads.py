"""Turns a detector network's output maps into boxes, landmarks and scores, family by family.

Owns the arithmetic of the anchor-free heads; must not know images, sessions or suppression.
Sources: YuNet, Wu, Peng & Yu, Machine Intelligence Research 2023; SCRFD, Guo et al., ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cluster.faces.boxes import RawDetections, concatenated
from shard.types import FloatArray

STRIDES = (8, 16, 32)
Maps = Mapping[str, FloatArray]
Head = Callable[[Maps, int, float], RawDetections]
"""(output maps by name, side of the square input, least score) to the detections in the input's pixels."""


def yunet_head(maps: Maps, side: int, min_score: float) -> RawDetections:
    """YuNet: one cell per stride step; score is the geometric mean of class and objectness; sizes are exponents."""
    parts = []
    for stride in STRIDES:
        score = np.sqrt(np.clip(maps[f"cls_{stride}"], 0, 1) * np.clip(maps[f"obj_{stride}"], 0, 1)).reshape(-1)
        keep = np.flatnonzero(score >= min_score)
        cells = _cells(side, stride, 1)[keep]
        box = maps[f"bbox_{stride}"].reshape(-1, 4)[keep]
        centre, size = (cells + box[:, :2]) * stride, np.exp(box[:, 2:]) * stride
        points = (maps[f"kps_{stride}"].reshape(-1, 5, 2)[keep] + cells[:, None]) * stride
        parts.append(RawDetections(np.hstack([centre - size / 2, size]), points, score[keep]))
    return concatenated(parts)


def scrfd_head(maps: Maps, side: int, min_score: float) -> RawDetections:
    """SCRFD: two anchors per cell; a box is four distances from the cell's corner, in strides."""
    parts = []
    for stride in STRIDES:
        score = maps[f"score_{stride}"].reshape(-1)
        keep = np.flatnonzero(score >= min_score)
        corner = _cells(side, stride, 2)[keep] * stride
        reach = maps[f"bbox_{stride}"].reshape(-1, 4)[keep] * stride
        boxes = np.hstack([corner - reach[:, :2], reach[:, :2] + reach[:, 2:]])
        points = maps[f"kps_{stride}"].reshape(-1, 5, 2)[keep] * stride + corner[:, None]
        parts.append(RawDetections(boxes, points, score[keep]))
    return concatenated(parts)


HEADS: dict[str, Head] = {"yunet": yunet_head, "scrfd": scrfd_head}


def _cells(side: int, stride: int, anchors: int) -> FloatArray:
    """(column, row) of each prediction, row by row, each cell `anchors` times; float32."""
    count = side // stride
    rows, columns = np.divmod(np.arange(count * count, dtype=np.int64), count)
    return np.repeat(np.stack([columns, rows], axis=1), anchors, axis=0).astype(np.float32)
