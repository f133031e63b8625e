"""Finds every face of an image: one pass over the whole, and tiles where small faces would vanish in it.

Owns the detector's session and the passes over an image; heads.py reads its output, boxes.py sorts it out.
The networks take a fixed square, so an image is scaled to fit in it and laid at the upper left on black.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.faces.boxes import Detection, RawDetections, concatenated, suppressed
from cluster.faces.decode import ImageArray
from cluster.faces.extras import require_cv2
from cluster.faces.heads import HEADS
from cluster.faces.registry import ModelSpec
from cluster.faces.session import Device, open_session
from shard.errors import ModelFileCorrupt
from shard.types import FloatArray

VISIBLE_PX = 16
"""A face this wide in the network's input is found reliably; see docs/faces.md for recall by size."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the image that one pass looks at: its corner and size in pixels, and the scale it is shrunk by."""

    x: int
    y: int
    width: int
    height: int
    scale: float


class Detector:
    """A face detector in a session. Safe to call from several threads at once."""

    def __init__(self, spec: ModelSpec, path: Path, *, threads: int = 1, device: Device = "cpu") -> None:
        """Raises ModelFileCorrupt where the file does not load or has other outputs than its family."""
        self.spec = spec
        self._session = open_session(path, input_name=spec.input_name, threads=threads, device=device)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        if not any(name.startswith("kps_") for name in self._outputs):
            raise ModelFileCorrupt(f"{path}: expected a {spec.family} with landmarks, its outputs are {self._outputs}")

    def detect(self, image: ImageArray, *, min_face_px: float = 40.0) -> tuple[Detection, ...]:
        """Every face, largest first.

        image: (h, w, 3) uint8 RGB. min_face_px: faces from this width on must be found; where they would be narrower
        than VISIBLE_PX in the network's input, overlapping tiles are searched too, at a scale that shows them.
        """
        assert self.spec.nms_threshold is not None
        side = self.spec.input_size
        height, width = image.shape[:2]
        whole, *tiles = windows(width, height, side, min_face_px)
        parts = [self._look(image, whole)]
        parts += [_own_faces(self._look(image, tile), tile, whole) for tile in tiles]
        return suppressed(concatenated(parts), self.spec.nms_threshold)

    def is_upright(self, image: ImageArray, face: Detection) -> bool:
        """Whether a face found in `image` scores best the way up that it was found.

        A detector finds a face that lies on its side or head, but puts the landmarks where an upright face would have
        them, and the embedding means nothing. A score of at least `sure_score` settles it; below, the face's
        surroundings are tried in all four quarter turns.
        """
        assert self.spec.sure_score is not None
        if face.score >= self.spec.sure_score:
            return True
        x, y, w, h = face.box
        reach = 0.8 * max(w, h)
        left, top = int(max(0, x + w / 2 - reach)), int(max(0, y + h / 2 - reach))
        part = image[top : int(y + h / 2 + reach) + 1, left : int(x + w / 2 + reach) + 1]
        upright, *turned = (self._best_score(np.ascontiguousarray(np.rot90(part, turns))) for turns in range(4))
        return upright >= max(turned)

    def _best_score(self, image: ImageArray) -> float:
        height, width = image.shape[:2]
        whole = Window(0, 0, width, height, min(1.0, self.spec.input_size / max(width, height)))
        return float(self._look(image, whole).scores.max(initial=0.0))

    def _look(self, image: ImageArray, window: Window) -> RawDetections:
        """One pass; the detections are in the image's pixels."""
        assert self.spec.score_threshold is not None
        maps = dict(zip(self._outputs, self._session.run(None, {self._input: self._blob(image, window)}), strict=True))
        raw = HEADS[self.spec.family](maps, self.spec.input_size, self.spec.score_threshold)
        return raw.moved(window.scale, window.x, window.y)

    def _blob(self, image: ImageArray, window: Window) -> FloatArray:
        cv2 = require_cv2()
        side = self.spec.input_size
        part = image[window.y : window.y + window.height, window.x : window.x + window.width]
        size = (max(1, round(window.width * window.scale)), max(1, round(window.height * window.scale)))
        # Area averaging: bilinear sampling of a much larger photo skips pixels and invents patterns.
        small = part if window.scale == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        if self.spec.channels == "BGR":
            small = small[:, :, ::-1]
        canvas = np.zeros((1, 3, side, side), np.float32)
        canvas[0, :, : small.shape[0], : small.shape[1]] = small.transpose(2, 0, 1)
        return np.asarray((canvas - np.float32(self.spec.mean)) * np.float32(self.spec.scale), np.float32)


def windows(width: int, height: int, side: int, min_face_px: float) -> tuple[Window, ...]:
    """What the passes look at: the whole first, then tiles where a face of `min_face_px` would not be seen in it."""
    whole = Window(0, 0, width, height, min(1.0, side / max(width, height)))
    needed = min(1.0, VISIBLE_PX / min_face_px)
    if whole.scale >= needed or min(width, height) < min_face_px:
        return (whole,)
    reach = int(side / needed)
    lap = min(math.ceil(largest_tile_face(whole)), reach // 2)
    return (
        whole,
        *(
            Window(x, y, min(reach, width), min(reach, height), needed)
            for y in _starts(height, reach, lap)
            for x in _starts(width, reach, lap)
        ),
    )


def largest_tile_face(whole: Window) -> float:
    """Width in pixels of the largest face that is left to the tiles: the pass over the whole finds those beyond."""
    return 2 * VISIBLE_PX / whole.scale


def _starts(length: int, reach: int, lap: int) -> list[int]:
    """Where tiles of `reach` begin so that neighbours share at least `lap` and the last ends at `length`."""
    if length <= reach:
        return [0]
    count = math.ceil((length - lap) / (reach - lap))
    return [round(index * (length - reach) / (count - 1)) for index in range(count)]


def _own_faces(raw: RawDetections, tile: Window, whole: Window) -> RawDetections:
    """Detections of a tile that are its to report: small, and not cut by an edge that is not the image's.

    A big face seen in part would otherwise come back as a second, smaller one.
    """
    left, top = raw.boxes[:, 0], raw.boxes[:, 1]
    right, bottom = left + raw.boxes[:, 2], top + raw.boxes[:, 3]
    keep = raw.boxes[:, 2] <= largest_tile_face(whole)
    keep &= (left > tile.x) | (tile.x == 0)
    keep &= (top > tile.y) | (tile.y == 0)
    keep &= (right < tile.x + tile.width) | (tile.x + tile.width == whole.width)
    keep &= (bottom < tile.y + tile.height) | (tile.y + tile.height == whole.height)
    return RawDetections(raw.boxes[keep], raw.landmarks[keep], raw.scores[keep])
