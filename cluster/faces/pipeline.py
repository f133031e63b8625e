"""The face pipeline: image in, faces with embeddings (or named refusals) out.

Owns the order of the steps and the threads; each step is its own module. This is what `cluster.Cluster`, the service
and the command line call; image bytes go no further than here.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.faces.align import aligned_crop
from cluster.faces.decode import ImageArray, ImageLimits, ImageSource, decode_image
from cluster.faces.detect import Detector
from cluster.faces.embed import Embedder
from cluster.faces.extras import require_cv2
from cluster.faces.model_files import Announce, ModelPlaces, locate
from cluster.faces.quality import Quality, QualityGate, measure
from cluster.faces.registry import DEFAULT_DETECTOR, DEFAULT_EMBEDDER, Kind, ModelSpec, model_spec
from cluster.faces.session import Device
from shard.errors import InvalidImage, InvalidParameter
from shard.types import FloatArray

Select = Literal["largest", "only"]
"""Which face stands for an image: the largest, or the only one (several are refused as `several_faces`)."""


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Everything that decides what the pipeline does; `cluster/config.py` fills it from the environment.

    detector, embedder: names of the registry. detector_path, embedder_path: these files instead of looking for them.
    places, allow_download: where model files are looked for, and whether a missing one may be fetched.
    threads: decoding and detecting at once in `faces_of_many`, and within one embedding call; 0 for all cores.
    """

    detector: str = DEFAULT_DETECTOR
    embedder: str = DEFAULT_EMBEDDER
    gate: QualityGate = field(default_factory=QualityGate)
    limits: ImageLimits = field(default_factory=ImageLimits)
    places: ModelPlaces = field(default_factory=ModelPlaces)
    detector_path: Path | None = None
    embedder_path: Path | None = None
    allow_download: bool = False
    device: Device = "cpu"
    threads: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.threads < 0 or self.batch_size < 1:
            raise InvalidParameter(
                f"expected threads >= 0 and batch_size >= 1, got {self.threads} and {self.batch_size}"
            )


@dataclass(frozen=True, slots=True)
class Face:
    """One face of an image.

    box: (x, y, w, h) in pixels of the upright image; landmarks: (5, 2) float32. refused: why it may not be enrolled, or
    None. embedding: (dim,) float32 of unit norm; None for a refused face unless refused ones were asked for.
    """

    box: tuple[float, float, float, float]
    landmarks: FloatArray
    detector_score: float
    quality: Quality
    refused: str | None
    embedding: FloatArray | None


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The faces of one image before embedding, and the aligned crop (112, 112, 3) uint8 of each."""

    faces: tuple[Face, ...]
    crops: tuple[ImageArray, ...]

    def wanted(self, embed_refused: bool) -> list[ImageArray]:
        """The crops that get an embedding: all, or those of faces that passed the gate."""
        pairs = zip(self.faces, self.crops, strict=True)
        return [crop for face, crop in pairs if embed_refused or face.refused is None]


@dataclass(frozen=True, slots=True)
class ImageFaces:
    """What became of one image of a batch: its faces, largest first, or the error that refused the whole image."""

    faces: tuple[Face, ...]
    error: InvalidImage | None = None

    def chosen(self, select: Select = "largest") -> Face:
        """The face that stands for the image. Raises InvalidImage: the image's own error, no_face, several_faces, or
        the gate's reason where no face passed."""
        if self.error is not None:
            raise self.error
        return select_face(self.faces, select)


def select_face(faces: tuple[Face, ...], select: Select = "largest") -> Face:
    """The largest (or only) face that passed the gate.

    Raises InvalidImage with reason no_face where there is none at all, several_faces for `only` where several passed,
    and the reason of the largest face where all were refused.
    """
    passed = [face for face in faces if face.refused is None]
    if not faces:
        raise InvalidImage("expected a face, the detector found none", reason="no_face")
    if not passed:
        worst = faces[0]
        raise InvalidImage(
            f"expected a face fit to enroll, all {len(faces)} found were refused; the largest: {worst.refused} "
            f"({_describe(worst)})",
            reason=worst.refused or "no_face",
        )
    if select == "only" and len(passed) > 1:
        raise InvalidImage(f"expected one face, found {len(passed)}", reason="several_faces")
    return passed[0]


class FacePipeline:
    """Decode, detect, align, gate and embed. Opening loads both networks; safe to call from several threads."""

    def __init__(self, options: PipelineOptions | None = None, *, announce: Announce | None = None) -> None:
        """announce: gets a line for each licence, download and unchecked file.

        Raises UnknownModel, ModelFileMissing, ModelFileCorrupt, MissingExtra, InvalidParameter.
        """
        self.options = options or PipelineOptions()
        self._cv2 = require_cv2()
        chosen = self.options
        detector, detector_file = self._model(chosen.detector, "detector", chosen.detector_path, announce)
        embedder, embedder_file = self._model(chosen.embedder, "embedder", chosen.embedder_path, announce)
        assert detector.enroll_score is not None
        self._gate = chosen.gate.for_detector(detector.enroll_score)
        self._detector = Detector(detector, detector_file, threads=1, device=chosen.device)
        self._embedder = Embedder(
            embedder, embedder_file, threads=chosen.threads, device=chosen.device, batch_size=chosen.batch_size
        )

    @property
    def detector(self) -> ModelSpec:
        """The registry's entry of the detector in use."""
        return self._detector.spec

    @property
    def embedder(self) -> ModelSpec:
        """The registry's entry of the embedder in use; its name and dim are what a gallery must match."""
        return self._embedder.spec

    @property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        assert self.embedder.dim is not None
        return self.embedder.dim

    @property
    def threshold(self) -> float | None:
        """Default cosine for 1:1 verification with this embedder; None where none has been derived."""
        return self.embedder.threshold

    def faces(self, image: ImageSource, *, embed_refused: bool = False) -> tuple[Face, ...]:
        """Every face of one image, largest first; none is a valid answer.

        embed_refused: give refused faces an embedding too (for searching, where a poor probe is better than none).
        Raises InvalidImage for an image that cannot be decoded.
        """
        return self.embed([self.find(image)], [embed_refused])[0]

    def faces_of_many(self, images: Iterable[ImageSource], *, embed_refused: bool = False) -> Iterator[ImageFaces]:
        """The faces of many images, in their order: decoding and detection in threads, embedding in batches.

        One bad image does not stop the rest: its InvalidImage comes back in its place. Takes images as it goes, so an
        endless iterable is fine; memory holds at most two batches of crops.
        """
        source = iter(images)
        workers = self.options.threads or _cores()
        with ThreadPoolExecutor(workers, thread_name_prefix="facegrid-faces") as pool:
            ahead: deque[Future[FoundFaces | InvalidImage]] = deque()
            while True:
                wanted = self.options.batch_size + workers - len(ahead)
                ahead.extend(pool.submit(self._find_or_error, image) for image in islice(source, wanted))
                if not ahead:
                    return
                batch = [ahead.popleft().result() for _ in range(min(len(ahead), self.options.batch_size))]
                whole = [found for found in batch if isinstance(found, FoundFaces)]
                embedded = iter(self.embed(whole, [embed_refused] * len(whole)))
                for found in batch:
                    yield ImageFaces(next(embedded)) if isinstance(found, FoundFaces) else ImageFaces((), found)

    def embed_image(self, image: ImageSource, *, select: Select = "largest") -> FloatArray:
        """The embedding (dim,) float32 of the image's face. Raises InvalidImage as `select_face` does."""
        embedding = select_face(self.faces(image), select).embedding
        assert embedding is not None
        return embedding

    def _model(self, name: str, kind: Kind, path: Path | None, announce: Announce | None) -> tuple[ModelSpec, Path]:
        spec = model_spec(name, kind)
        options = self.options
        file = locate(spec, options.places, path=path, allow_download=options.allow_download, announce=announce)
        return spec, file

    def _find_or_error(self, image: ImageSource) -> FoundFaces | InvalidImage:
        try:
            return self.find(image)
        except InvalidImage as error:
            return error

    def find(self, image: ImageSource) -> FoundFaces:
        """Decode and detect: the faces of one image, largest first, ready for `embed`. Raises InvalidImage."""
        pixels = decode_image(image, limits=self.options.limits)
        gate = self._gate
        faces, crops = [], []
        for detection in self._detector.detect(pixels, min_face_px=gate.min_face_px):
            crop = aligned_crop(pixels, detection.landmarks)
            quality = measure(pixels, detection, crop, gate)
            refused = gate.refusal(quality)
            if refused is None and not self._detector.is_upright(pixels, detection):
                refused = "pose"
            faces.append(Face(detection.box, detection.landmarks, detection.score, quality, refused, None))
            crops.append(crop)
        return FoundFaces(tuple(faces), tuple(crops))

    def embed(self, batch: Sequence[FoundFaces], embed_refused: Sequence[bool]) -> list[tuple[Face, ...]]:
        """The faces of each image with their embeddings; one call of the embedder for all.

        embed_refused: of each image, as in `faces`. Raises InvalidEmbedding where the network gives NaN, Inf or zero.
        """
        wanted = [crop for found, also in zip(batch, embed_refused, strict=True) for crop in found.wanted(also)]
        if not wanted:
            return [found.faces for found in batch]
        rows = iter(self._embedder.embed(np.stack(wanted)))
        return [
            tuple(replace(face, embedding=next(rows)) if also or face.refused is None else face for face in found.faces)
            for found, also in zip(batch, embed_refused, strict=True)
        ]

    def embed_crops(self, crops: ImageArray) -> FloatArray:
        """Embeddings (n, dim) float32 of aligned crops (n, 112, 112, 3) uint8, in their order; see `Embedder.embed`."""
        return self._embedder.embed(crops)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _describe(face: Face) -> str:
    quality = face.quality
    return (
        f"detector score {quality.detector_score:.2f}, eyes {quality.eye_distance_px:.0f} px apart, "
        f"sharpness {quality.sharpness:.2f}, tones {quality.tones:.1f}, yaw {quality.yaw:.0f}°, "
        f"pitch {quality.pitch:.0f}°, roll {quality.roll:.0f}°, {quality.inside:.0%} inside the image"
    )
