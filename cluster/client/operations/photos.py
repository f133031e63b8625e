"""Photos: read here, judged by the service. Which face counts and why a photo is refused is decided there."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.client.call import Operation
from cluster.client.operations.requests import ask, gallery_path, write
from cluster.client.operations.searches import SearchOptions, used_threshold
from cluster.client.wire import entry, record, records
from cluster.faces.decode import ImageLimits, ImageSource, naming, read_image
from cluster.faces.photos import Photo, walk_photos
from cluster.metadata import metadata_json
from cluster.results import Box, Candidate, EnrollResult, FolderReport, ImageSearch, Refusal, Verification
from coordinator.types import Coverage
from shard.errors import InvalidImage, InvalidParameter, ProtocolError
from shard.validate import check_label

BATCH_BYTES = 8 << 20
BATCH_PHOTOS = 32
"""Photos of one request: each takes the service some 50 ms."""
LIMITS, PAIR_LIMITS = ImageLimits(max_bytes=45 << 20), ImageLimits(max_bytes=22 << 20)
"""Photos travel as base64, in requests of at most 64 MiB: a third less fits than into an open home."""
PHOTOS_S = 300.0
"""How long the answer to a batch of photos may take."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a photo: its template and whether it is new, or why it was refused."""

    template_id: str | None = None
    is_new: bool | None = None
    reason: str | None = None
    message: str | None = None


def enroll_image(
    name: str, image: ImageSource, identity: str | None, metadata: Mapping[str, Any] | None
) -> Operation[EnrollResult]:
    """Enroll the main face of one image; InvalidImage with the reason of the service."""
    data = read_image(image, limits=LIMITS)
    metadata_json(metadata)
    if identity is not None:
        check_label(identity, what="identity")
    (found,) = yield from _enroll(name, [_entry(data, identity, metadata)])
    if found.template_id is None:
        raise _named(image, _refusal(found))
    return EnrollResult((found.template_id,), int(bool(found.is_new)), int(not found.is_new))


def _entry(data: bytes, identity: str | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    photo = {"data": base64.b64encode(data).decode(), "identity": identity, "metadata": metadata}
    return {key: value for key, value in photo.items() if value is not None}


def _enroll(name: str, photos: Sequence[dict[str, Any]]) -> Operation[list[Outcome]]:
    """One request. A photo's template is named by its bytes, so that one sent twice is enrolled once."""
    document = yield from write(
        gallery_path(name, "images"), {"images": list(photos)}, is_idempotent=True, patience_s=PHOTOS_S
    )
    found = records(Outcome, entry(document, "results", list), "results")
    if len(found) != len(photos):
        raise ProtocolError(f"{len(photos)} photos were sent, the answer tells of {len(found)}")
    return found


def enroll_folder(name: str, folder: str | Path, progress: Progress | None) -> Operation[FolderReport]:
    """Send `folder/<identity>/<photo>` batch by batch; what cannot be read or named is refused here."""
    photos = list(walk_photos(folder))
    refused: list[Refusal] = []
    enrolled = skipped = done = 0
    for seen, batch in _batches(photos, refused):
        outcomes = (yield from _enroll(name, [content for _, content in batch])) if batch else []
        for (photo, _), outcome in zip(batch, outcomes, strict=True):
            if outcome.template_id is None:
                error = _named(photo.path, _refusal(outcome))
                refused.append(Refusal(photo.path, error.reason, str(error)))
            elif outcome.is_new:
                enrolled += 1
            else:
                skipped += 1
        done += seen
        if progress is not None:
            progress(done, len(photos))
    return FolderReport(len(photos), enrolled, skipped, tuple(sorted(refused, key=lambda one: one.path)))


_Batch = list[tuple[Photo, dict[str, Any]]]


def _batches(photos: Sequence[Photo], refused: list[Refusal]) -> Iterator[tuple[int, _Batch]]:
    """(photos seen, those of them that can be sent), in order; the others join `refused`."""
    batch: _Batch = []
    size = seen = 0
    for photo in photos:
        seen += 1
        try:
            data = _readable(photo)
        except InvalidImage as error:
            refused.append(Refusal(photo.path, error.reason, str(error)))
            continue
        if batch and (size + len(data) > BATCH_BYTES or len(batch) == BATCH_PHOTOS):
            yield seen - 1, batch
            batch, size, seen = [], 0, 1
        batch.append((photo, _entry(data, photo.identity, {"source": _source(photo)})))
        size += len(data)
    if seen:
        yield seen, batch


def _readable(photo: Photo) -> bytes:
    if photo.identity is not None:
        try:
            check_label(photo.identity, what="identity, the folder's name")
        except InvalidParameter as error:
            raise InvalidImage(str(error), reason="bad_name") from error
    return read_image(photo.path, limits=LIMITS)


def _source(photo: Photo) -> str:
    """As `cluster.images` names it."""
    name = photo.path.name if photo.identity is None else f"{photo.identity}/{photo.path.name}"
    return name.encode(errors="backslashreplace").decode()


def search_image(name: str, image: ImageSource, options: SearchOptions) -> Operation[ImageSearch]:
    """Candidates for the main face of an image."""
    options.check()
    data = read_image(image, limits=LIMITS)
    body = {"image": base64.b64encode(data).decode(), "include": ["metadata"], **options.body()}
    try:
        document = yield from ask(gallery_path(name, "search", "image"), body)
    except InvalidImage as error:
        raise _named(image, error) from None
    return ImageSearch(
        record(Box, _box(document.get("face"))),
        tuple(records(Candidate, entry(document, "candidates", list), "candidates")),
        record(Coverage, document.get("coverage")),
        used_threshold(document),
    )


def verify_images(a: ImageSource, b: ImageSource, threshold: float | None) -> Operation[Verification]:
    """Whether two images show the same person, by the service's face pipeline."""
    body = {
        "image_a": base64.b64encode(read_image(a, limits=PAIR_LIMITS)).decode(),
        "image_b": base64.b64encode(read_image(b, limits=PAIR_LIMITS)).decode(),
        "threshold": threshold,
    }
    document = yield from ask("/v1/verify", body)
    faces = {name: record(Box, _box(document.get(name))) for name in ("face_a", "face_b")}
    return record(Verification, document, **faces)


def _box(face: Any) -> Any:
    """The box of a face that the answer tells of, with more about it or by itself."""
    return face["box"] if isinstance(face, dict) and "box" in face else face


def _refusal(outcome: Outcome) -> InvalidImage:
    return InvalidImage(outcome.message or "refused", reason=outcome.reason or "undecodable")


def _named(image: ImageSource, error: InvalidImage) -> InvalidImage:
    """The error with the image's path before its message; but for one that is not about what is in the image."""
    if error.reason == "duplicate_photo":
        return error
    try:
        with naming(image):
            raise error
    except InvalidImage as named:
        return named
