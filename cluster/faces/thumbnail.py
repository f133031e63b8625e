"""A small picture of one face, for people who compare candidates."""

from __future__ import annotations

from cluster.faces.decode import DEFAULT_LIMITS, ImageLimits, ImageSource, decode_image
from cluster.faces.extras import require_cv2
from shard.errors import InvalidImage

SIDE_PX = 96
MARGIN = 0.35
"""Of the face's longer side, on each side."""
MAX_BYTES = 8_192
_QUALITIES = (80, 60, 40, 20)


def thumbnail(
    image: ImageSource, box: tuple[float, float, float, float], *, limits: ImageLimits = DEFAULT_LIMITS
) -> bytes:
    """A JPEG of SIDE_PX by SIDE_PX, at most MAX_BYTES: the face (x, y, width, height in pixels) with a margin.

    Where the margin leaves the image it is grey. No metadata of the photo is in it. Raises InvalidImage, MissingExtra.
    """
    cv2 = require_cv2()
    pixels = decode_image(image, limits=limits)
    x, y, width, height = box
    half = max(width, height) * (0.5 + MARGIN)
    scale = SIDE_PX / (2 * half)
    moved = cv2.getRotationMatrix2D((x + width / 2, y + height / 2), 0, scale)
    moved[:, 2] += SIDE_PX / 2 - (x + width / 2), SIDE_PX / 2 - (y + height / 2)
    crop = cv2.warpAffine(
        pixels, moved, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_CONSTANT, borderValue=(128,) * 3
    )
    for quality in _QUALITIES:
        is_done, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if is_done and len(data) <= MAX_BYTES:
            encoded: bytes = data.tobytes()
            return encoded
    raise InvalidImage(f"the face cannot be shown in {MAX_BYTES} bytes", reason="undecodable")
