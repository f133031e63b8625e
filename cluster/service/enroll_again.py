"""An enrollment that is asked for again, when nobody knows how far the attempt before came: its answer was lost.

What that attempt has stored is found by what it looks like, id, identity, metadata and embedding, and counts as
enrolled; another template under such an id is a duplicate, as ever. Nothing here is done for a first attempt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from cluster.gallery import Gallery
from cluster.results import SearchBatch, Template
from shard.errors import DuplicateTemplate
from shard.types import MAX_K, EnrollBatch

SAME = 1.0 - 1e-5
"""Cosine from which on two unit float32 rows are one embedding: less than 1 by rounding alone."""
DEADLINE_MS = 60_000
"""Of the search for the rows: as many may be asked for at once as one request enrolls."""


def enroll_again(
    gallery: Gallery, asked: EnrollBatch, *, settle: Callable[[], None], write: Callable[[list[int]], object]
) -> None:
    """Have everything that is asked stored: what is there as asked is left out, `write` gets the rows of the rest.

    asked: checked, so that no id is in it twice. settle: returns when every replica in sync has what primaries have.
    Raises DuplicateTemplate if an id is there with anything else, nothing more having been written, and what `write`
    does.
    """
    left = _without(range(len(asked)), stored_rows(gallery, asked, settle=settle))
    while left:
        try:
            write(left)
            return
        except DuplicateTemplate:
            # The attempt before may be under way still: ids are claimed, so by now it has stored what it had begun.
            stored = stored_rows(gallery, asked, left, settle=settle)
            if not stored:
                raise
            left = _without(left, stored)


def stored_rows(
    gallery: Gallery, asked: EnrollBatch, rows: Sequence[int] | None = None, *, settle: Callable[[], None]
) -> set[int]:
    """Those of the rows, all if none are named, that the gallery has as asked, on every replica in sync."""
    wanted = list(range(len(asked))) if rows is None else list(rows)
    candidates = _labelled(gallery, asked, wanted)
    if not candidates:
        return set()
    # A primary also tells of what no backup has confirmed yet, and that may be lost with it.
    settle()
    return _embedded(gallery, asked, _labelled(gallery, asked, candidates))


def labelled_alike(asked: EnrollBatch, rows: Iterable[int], stored: Iterable[Template]) -> list[int]:
    """Those of the rows whose id is stored, with the identity and the metadata that are asked."""
    known = {template.template_id: template for template in stored}
    return [
        row
        for row in rows
        if (there := known.get(asked.template_ids[row])) is not None
        and there.identity == asked.identities[row]
        and _canonical(there.metadata) == _canonical(_value(asked.metadata[row]))
    ]


def found_themselves(template_ids: Sequence[str], found: SearchBatch) -> list[int]:
    """Positions of the probes that have the template of this id among their candidates, with a cosine of 1."""
    return [
        position
        for position, (wanted, ids) in enumerate(zip(template_ids, found.template_ids, strict=True))
        if wanted in ids and found.scores[position, ids.index(wanted)] >= SAME
    ]


def _labelled(gallery: Gallery, asked: EnrollBatch, rows: list[int]) -> list[int]:
    return labelled_alike(asked, rows, gallery.templates([asked.template_ids[row] for row in rows]))


def _embedded(gallery: Gallery, asked: EnrollBatch, rows: list[int]) -> set[int]:
    """Those of the rows whose template has the embedding that is asked.

    Among an identity's templates every float is scanned. Without one that would be the whole gallery: the quick search
    goes first, which finds what is there, and only what it did not find is looked for in all floats.
    """
    named = [row for row in rows if asked.identities[row] is not None]
    unnamed = [row for row in rows if asked.identities[row] is None]
    found = _search(gallery, asked, named, exact=True) | _search(gallery, asked, unnamed, exact=False)
    return found | _search(gallery, asked, _without(unnamed, found), exact=True)


def _search(gallery: Gallery, asked: EnrollBatch, rows: list[int], *, exact: bool) -> set[int]:
    """Rows that find their own template among those of the rows' identities, or everywhere where they have none."""
    if not rows:
        return set()
    part = asked.take(np.array(rows))
    identities = {identity for identity in part.identities if identity is not None}
    found = gallery.search(
        part.embeddings,
        MAX_K,  # others may have the same embedding
        exact=exact,
        threshold=SAME,
        identities=sorted(identities) or None,
        deadline_ms=DEADLINE_MS,
    )
    return {rows[position] for position in found_themselves(part.template_ids, found)}


def _without(rows: Iterable[int], others: Collection[int]) -> list[int]:
    return [row for row in rows if row not in others]


def _value(metadata: bytes | None) -> object:
    return None if metadata is None else json.loads(metadata)


def _canonical(value: object) -> str:
    """One text for one JSON value: 1, 1.0 and true are three, the order of keys says nothing."""
    return json.dumps(value, sort_keys=True)
