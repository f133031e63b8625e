"""Embeddings and labels from files: .npy arrays, and text files of one label a line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from cluster.imports.arrays import widened
from shard.errors import DuplicateTemplate, FacegridError, InvalidParameter
from shard.validate import check_embeddings, check_label, check_unique

if TYPE_CHECKING:
    from cluster.cli.invocation import AnyGallery

CHUNK_ROWS = 32_768
"""Rows of one durable write: bounds memory, and gives the progress bar something to show."""
_LOG = logging.getLogger(__name__)


def read_labels(path: Path, rows: int) -> list[str]:
    """The lines of a UTF-8 text file, `rows` of them; InvalidParameter otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path}: expected a text file of one label a line: {error}") from error
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != rows:
        raise InvalidParameter(f"{path}: expected {rows} lines, one for each embedding, got {len(lines)}")
    return [line.removesuffix("\r") for line in lines]


def enroll_embeddings(
    gallery: AnyGallery,
    rows: npt.NDArray[Any],
    *,
    identities: Sequence[str | None] | None,
    template_ids: Sequence[str] | None,
    if_exists: Literal["error", "skip"],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Enroll a mapped array chunk by chunk; returns how many were enrolled and how many skipped.

    Every row and label is checked before the first chunk is written, so bad input enrolls nothing.
    """
    starts = range(0, len(rows), CHUNK_ROWS)
    _check_all(gallery, rows, starts, identities, template_ids, if_exists)
    enrolled = skipped = 0
    for start in starts:
        part = slice(start, start + CHUNK_ROWS)
        try:
            result = gallery.enroll(
                widened(rows[part]),
                identities=None if identities is None else identities[part],
                template_ids=None if template_ids is None else template_ids[part],
                if_exists=if_exists,
            )
        except FacegridError:
            if start:
                _LOG.warning("the first %d of %d rows are durable; those after them are not certain", start, len(rows))
            raise
        enrolled, skipped = enrolled + result.enrolled, skipped + result.skipped
        if progress is not None:
            progress(min(start + CHUNK_ROWS, len(rows)), len(rows))
    return enrolled, skipped


def _check_all(
    gallery: AnyGallery,
    rows: npt.NDArray[Any],
    starts: range,
    identities: Sequence[str | None] | None,
    template_ids: Sequence[str] | None,
    if_exists: str,
) -> None:
    if len(starts) == 1:
        return  # `enroll` checks its batch before it writes
    for start in starts:
        check_embeddings(widened(rows[start : start + CHUNK_ROWS]), gallery.dim, what=f"rows from {start} on")
    for row, identity in enumerate(identities or ()):
        if identity is not None:
            check_label(identity, what=f"identity in line {row + 1}")
    if template_ids is None:
        return
    for row, template_id in enumerate(template_ids):
        check_label(template_id, what=f"template id in line {row + 1}")
    check_unique(template_ids)
    if if_exists == "error":
        for start in starts:
            there = gallery.templates(template_ids[start : start + CHUNK_ROWS])
            if there:
                raise DuplicateTemplate(f"template id {there[0].template_id!r} is in {gallery.name} already")
