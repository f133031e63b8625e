"""What two faces of a pair have to do with each other: one person, one photo stored twice, or one photo's two faces."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from cluster.dedup.faces import Faces
from shard.types import FloatArray, RowArray

Kinds = npt.NDArray[np.uint8]

IDENTICAL_SCORE = 0.9995
"""Embeddings this near are of one picture of one face, whatever is known of the photos."""
SAME_FACE_SCORE = 0.995
"""One file gives one embedding: faces of the same photo that are less alike are two faces of it."""
REENCODED_SCORE = 0.8
"""What a photo that was scaled or compressed again keeps of its face at least; see docs/decisions/0028-grouping.md."""


class PairKind(IntEnum):
    """Kind of a pair, the number that files have."""

    SAME_PERSON = 0
    SAME_PHOTO = 1
    """The same bytes, or perceptual hashes that nearly agree."""
    SAME_FACE = 2
    """Embeddings that are practically identical, of photos of which nothing is known or that differ."""
    TWO_FACES = 3
    """Two faces of one photo: two people, however alike."""


def pair_kinds(left: RowArray, right: RowArray, scores: FloatArray, faces: Faces, *, same_photo_bits: int) -> Kinds:
    """(n,) uint8 of PairKind. left, right: (n,) int64 positions in `faces`; scores: (n,) float32 cosines.

    same_photo_bits: perceptual hashes that differ in at most so many bits are of one photo, if the faces agree too.
    """
    kinds: Kinds = np.full(len(left), PairKind.SAME_PERSON, np.uint8)
    kinds[scores >= IDENTICAL_SCORE] = PairKind.SAME_FACE
    hashed = faces.has_phash[left] & faces.has_phash[right] & (scores >= REENCODED_SCORE)
    bits = np.bitwise_count(faces.phash[left[hashed]] ^ faces.phash[right[hashed]])
    kinds[np.flatnonzero(hashed)[bits <= same_photo_bits]] = PairKind.SAME_PHOTO
    one_photo = (faces.photo[left] >= 0) & (faces.photo[left] == faces.photo[right])
    kinds[one_photo] = np.where(scores[one_photo] >= SAME_FACE_SCORE, PairKind.SAME_PHOTO, PairKind.TWO_FACES)
    return kinds
