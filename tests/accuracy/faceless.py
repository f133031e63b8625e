"""Pictures without a real face, drawn from a seed: what must never be enrolled."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
INK, PAPER, SKIN, HAIR = (20, 20, 20), (250, 250, 245), (232, 190, 160), (70, 45, 25)


def white_noise(seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8)


def soft_noise(seed: int) -> Picture:
    """Noise of face-sized blobs, in colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def mixed_noise(seed: int) -> Picture:
    """Noise at every scale at once, as clouds and foliage have it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((480, 640, 3))
    for cells in (4, 8, 16, 32, 64, 128):
        total += cv2.resize(rng.normal(size=(cells, cells, 3)), (640, 480), interpolation=cv2.INTER_CUBIC) / cells**0.5
    return np.clip(128 + 60 * total / total.std(), 0, 255).astype(np.uint8)


def gradient(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, 640)[None, :, None] * np.linspace(0.5, 1, 480)[:, None, None]
    return (ends[0] + (ends[1] - ends[0]) * ramp).astype(np.uint8)


def brick_wall(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    picture = np.full((480, 640, 3), (170, 165, 160), np.uint8)
    for row, y in enumerate(range(0, 480, 32)):
        for x in range(-32 * (row % 2), 640, 64):
            colour = np.array([150, 70, 50]) + rng.integers(-25, 25, 3)
            cv2.rectangle(picture, (x + 2, y + 2), (x + 60, y + 28), colour.tolist(), -1)
    noisy = picture + rng.normal(0, 8, picture.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def printed_text(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    picture = np.full((480, 640, 3), PAPER, np.uint8)
    for line in range(16):
        words = "".join(chr(code) for code in rng.integers(97, 123, 40))
        cv2.putText(picture, words, (10, 25 + 29 * line), cv2.FONT_HERSHEY_COMPLEX, 0.7, INK, 1, cv2.LINE_AA)
    return picture


def line_drawing(seed: int) -> Picture:
    """A face in outline, as a child draws it."""
    rng = np.random.default_rng(seed)
    picture = np.full((480, 640, 3), PAPER, np.uint8)
    dx = int(rng.integers(-8, 9))
    cv2.ellipse(picture, (320, 240), (120, 160), 0, 0, 360, INK, 3, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.ellipse(picture, (320 + 48 * side + dx, 200), (22, 12), 0, 0, 360, INK, 3, cv2.LINE_AA)
        cv2.circle(picture, (320 + 48 * side + dx, 200), 6, INK, -1, cv2.LINE_AA)
        cv2.ellipse(picture, (320 + 48 * side + dx, 180), (30, 12), 0, 200, 340, INK, 4, cv2.LINE_AA)
    cv2.polylines(picture, [np.array([[322, 210], [306, 262], [330, 266]])], False, INK, 3, cv2.LINE_AA)
    cv2.ellipse(picture, (320, 310), (45, 20), 0, 10, 170, INK, 4, cv2.LINE_AA)
    return picture


def cartoon(seed: int) -> Picture:
    """A coloured comic face: skin, hair, white eyes, lips, no shading."""
    rng = np.random.default_rng(seed)
    sky = tuple(int(value) for value in rng.integers(120, 256, 3))
    picture = np.full((480, 640, 3), sky, np.uint8)
    cv2.ellipse(picture, (320, 210), (140, 170), 0, 0, 360, HAIR, -1, cv2.LINE_AA)
    cv2.ellipse(picture, (320, 250), (115, 150), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    for side in (-1, 1):
        x = 320 + 46 * side
        cv2.ellipse(picture, (x, 220), (24, 14), 0, 0, 360, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, (x, 220), 10, (60, 90, 140), -1, cv2.LINE_AA)
        cv2.circle(picture, (x, 220), 5, INK, -1, cv2.LINE_AA)
        cv2.ellipse(picture, (x, 196), (32, 10), 0, 190, 350, HAIR, 6, cv2.LINE_AA)
    cv2.ellipse(picture, (320, 275), (16, 10), 0, 0, 180, (200, 150, 120), 3, cv2.LINE_AA)
    cv2.ellipse(picture, (320, 325), (46, 16), 0, 0, 180, (180, 60, 60), -1, cv2.LINE_AA)
    return picture


def smiley(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    picture = np.full((480, 640, 3), 255, np.uint8)
    radius = int(rng.integers(90, 200))
    cv2.circle(picture, (320, 240), radius, (255, 205, 40), -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.ellipse(
            picture, (320 + side * radius // 3, 240 - radius // 4), (radius // 10, radius // 6), 0, 0, 360, INK, -1
        )
    cv2.ellipse(picture, (320, 240), (radius // 2, radius // 2), 0, 20, 160, INK, radius // 14, cv2.LINE_AA)
    return picture


def stripes(seed: int) -> Picture:
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    y, x = np.mgrid[:480, :640]
    wave = 127 + 127 * np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) / 9))
    return np.repeat(wave[:, :, None], 3, axis=2).astype(np.uint8)


def flat(seed: int) -> Picture:
    return np.full((480, 640, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)


FACELESS: dict[str, Callable[[int], Picture]] = {
    "white_noise": white_noise,
    "soft_noise": soft_noise,
    "mixed_noise": mixed_noise,
    "gradient": gradient,
    "brick_wall": brick_wall,
    "printed_text": printed_text,
    "line_drawing": line_drawing,
    "cartoon": cartoon,
    "smiley": smiley,
    "stripes": stripes,
    "flat": flat,
}
