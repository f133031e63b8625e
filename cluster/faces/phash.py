"""Perceptual hash of a photo: 64 bits that scaling, compressing and small changes of light leave nearly as they are.

Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010 (the DCT hash).
"""

from __future__ import annotations

import numpy as np

from cluster.faces.decode import DEFAULT_LIMITS, ImageLimits, ImageSource, decode_grey
from cluster.faces.extras import require_cv2
from shard.types import FloatArray

SIDE = 32
"""Pixels of the grey picture that is hashed."""
KEPT = 8
"""Frequencies of each direction, from the second on: the first is the light as a whole."""


def phash(image: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> int:
    """64 bits of a photo, upright; the number of bits in which two differ says how unlike they look.

    Raises InvalidImage for what is no picture, MissingExtra.
    """
    cv2 = require_cv2()
    grey = decode_grey(image, least_side=4 * SIDE, limits=limits)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    frequencies: FloatArray = cv2.dct(small.astype(np.float32))[1 : KEPT + 1, 1 : KEPT + 1].ravel()
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
