"""The perceptual hash: the same picture in other bytes is near, another picture is far."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.faces.decode import ImageLimits
from shard.errors import InvalidImage

cv2 = pytest.importorskip("cv2")

from cluster.faces.phash import phash  # noqa: E402


def scene(seed: int, height: int = 600, width: int = 800) -> np.ndarray:  # type: ignore[type-arg]
    """Soft light and dark regions, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(picture: np.ndarray, suffix: str = ".jpg", *flags: int) -> bytes:  # type: ignore[type-arg]
    return bytes(cv2.imencode(suffix, picture, list(flags))[1])


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count() if hasattr(int, "bit_count") else bin(a ^ b).count("1")


@pytest.mark.parametrize("seed", range(5))
def test_other_bytes_of_a_picture_are_near(seed: int) -> None:
    picture = scene(seed)
    own = phash(encoded(picture))
    half = cv2.resize(picture, (400, 300), interpolation=cv2.INTER_AREA)
    for other in (
        encoded(picture, ".png"),
        encoded(picture, ".webp", cv2.IMWRITE_WEBP_QUALITY, 60),
        encoded(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 30),
        encoded(half),
        encoded(cv2.convertScaleAbs(picture, alpha=0.9, beta=5)),
    ):
        assert bits(own, phash(other)) <= 4
    assert bits(own, phash(picture[..., ::-1].copy())) <= 4  # pixels, RGB


def test_other_pictures_are_far() -> None:
    hashes = [phash(encoded(scene(seed))) for seed in range(12)]
    least = min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i])
    assert least > 10


def test_limits_hold() -> None:
    with pytest.raises(InvalidImage) as refused:
        phash(encoded(scene(1)), limits=ImageLimits(max_pixels=1_000))
    assert refused.value.reason == "too_many_pixels"
    with pytest.raises(InvalidImage):
        phash(b"no picture")
