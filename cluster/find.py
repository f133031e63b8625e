"""Searches a folder of photos for the person of one photo; no gallery, no shards, nothing stored.

Owns the loop over the folder and the order of the matches; the faces are `cluster.faces`' business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.faces import Face, FacePipeline, ImageSource, naming, walk_photos
from shard.errors import InvalidImage, InvalidParameter
from shard.types import FloatArray

Progress = Callable[[int, int], None]
"""Gets the photos done and the photos in all."""


@dataclass(frozen=True, slots=True)
class Match:
    """A face that looks like the query: cosine `score`, `box` (x, y, w, h) in pixels of the upright photo."""

    path: Path
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class RefusedPhoto:
    """A file that could not be searched: `reason` is one of InvalidImage's, `message` says more."""

    path: Path
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FindResult:
    """Matches, best first; files that are no usable image; how many photos and faces were compared; the score asked."""

    matches: tuple[Match, ...]
    refused: tuple[RefusedPhoto, ...]
    photos: int
    faces: int
    min_score: float


def find_faces(
    query_image: ImageSource,
    folder: str | os.PathLike[str],
    *,
    pipeline: FacePipeline,
    min_score: float | None = None,
    min_face_px: float = 0.0,
    progress: Progress | None = None,
    on_match: Callable[[Match], None] | None = None,
) -> FindResult:
    """Every face below `folder` that scores at least `min_score` against the largest face of `query_image`.

    min_score: cosine in [-1, 1]; the embedder's threshold if None. min_face_px: narrower faces are passed over.
    Faces that the quality gate would not enroll are compared all the same: a blurred face in a photo is worth finding.
    on_match: gets each match as it is found, in the folder's order. Order of the result: score descending, then path,
    then size. A photo without a face is no error. Raises InvalidImage for the query (no_face and all decoding
    reasons), InvalidParameter for the folder, the score, or an embedder whose threshold nobody has derived.
    """
    least = _min_score(min_score, pipeline)
    if min_face_px < 0:
        raise InvalidParameter(f"expected min_face_px >= 0, got {min_face_px}")
    paths = [photo.path for photo in walk_photos(folder)]
    probe = _probe(pipeline, query_image)
    matches: list[Match] = []
    refused: list[RefusedPhoto] = []
    faces = 0
    results = pipeline.faces_of_many(paths, embed_refused=True)
    for done, (path, found) in enumerate(zip(paths, results, strict=True), start=1):
        if found.error is not None:
            refused.append(RefusedPhoto(path, found.error.reason, str(found.error)))
        wide = [face for face in found.faces if face.box[2] >= min_face_px]
        faces += len(wide)
        for match in _matches(path, probe, wide, least):
            matches.append(match)
            if on_match is not None:
                on_match(match)
        if progress is not None:
            progress(done, len(paths))
    matches.sort(key=lambda match: (-match.score, match.path))
    return FindResult(tuple(matches), tuple(refused), len(paths), faces, least)


def _min_score(given: float | None, pipeline: FacePipeline) -> float:
    if given is None:
        if pipeline.threshold is None:
            raise InvalidParameter(f"no threshold is known for {pipeline.embedder.name!r}: give min_score")
        return pipeline.threshold
    if not -1.0 <= given <= 1.0:
        raise InvalidParameter(f"expected min_score in [-1, 1], got {given}")
    return given


def _probe(pipeline: FacePipeline, image: ImageSource) -> FloatArray:
    faces = pipeline.faces(image, embed_refused=True)
    if not faces:
        with naming(image):
            raise InvalidImage("the query image: expected a face, the detector found none", reason="no_face")
    # The largest face that is good, else the largest: a poor probe is better than none.
    chosen = next((face for face in faces if face.refused is None), faces[0])
    assert chosen.embedding is not None
    return chosen.embedding


def _matches(path: Path, probe: FloatArray, faces: list[Face], least: float) -> list[Match]:
    scored = [(float(np.dot(probe, face.embedding)), face) for face in faces if face.embedding is not None]
    return [Match(path, score, face.box) for score, face in scored if score >= least]
