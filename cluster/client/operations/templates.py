"""Templates of a gallery: enrolled in requests of bounded size, read, changed, deleted."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cluster.client.call import Operation
from cluster.client.operations.galleries import Facts
from cluster.client.operations.requests import ask, gallery_path, get, patch, quoted, write
from cluster.client.wire import entry, packed_floats, record, records
from cluster.metadata import metadata_json
from cluster.results import EnrollResult, Template, TemplatePage
from shard.errors import DuplicateTemplate, FacegridError, InvalidParameter, ProtocolError, UnknownTemplate
from shard.types import EnrollBatch, FloatArray, IdentityCount
from shard.validate import check_batch, check_embeddings, check_label, normalised

REQUEST_BYTES = 8 << 20
"""Size of one request of an enrollment, about: small enough to be repeated, large enough that few are needed."""
REQUEST_ROWS = 8_192
"""Templates of one request at most."""
PAGE = 1_000
"""Templates or identities of one answer."""
MAX_MERGED = 1_000
"""Identities of one merge."""
_LABEL_BYTES = 16

Progress = Callable[[int, int], None]
"""Gets what is done and what there is in all."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What is to be enrolled, checked. is_new: the ids were made here, so that only we can have stored them."""

    embeddings: FloatArray
    template_ids: Sequence[str]
    identities: Sequence[str | None] | None
    metadata: Sequence[Mapping[str, Any] | None] | None
    sizes: Sequence[int]
    is_new: bool


def checked_enrollment(
    gallery: Facts,
    embeddings: FloatArray,
    identities: Sequence[str | None] | None,
    template_ids: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any] | None] | None,
    if_exists: str,
) -> Enrollment:
    """Everything that `Gallery.enroll` checks and that can be known here, before anything is sent."""
    if if_exists not in ("error", "skip"):
        raise InvalidParameter(f"if_exists: expected 'error' or 'skip', got {if_exists!r}")
    if isinstance(identities, str) or isinstance(template_ids, str):
        raise InvalidParameter("template_ids and identities: expected a list of texts, got one text")
    rows = check_embeddings(embeddings, gallery.dim)
    ids = [secrets.token_hex(16) for _ in range(len(rows))] if template_ids is None else list(template_ids)
    texts = (None,) * len(rows) if metadata is None else tuple(map(metadata_json, metadata))
    names = (None,) * len(rows) if identities is None else tuple(identities)
    # As the shard will check it. What is sent are the rows as given: scaled there, they are scaled once.
    check_batch(EnrollBatch(normalised(rows), tuple(ids), names, texts), gallery.dim)
    sizes = [
        4 * gallery.dim + len(i) + len(n or "") + len(t or b"") + _LABEL_BYTES
        for i, n, t in zip(ids, names, texts, strict=True)
    ]
    return Enrollment(rows, ids, identities, metadata, sizes, is_new=template_ids is None)


def enroll(
    gallery: Facts,
    batch: Enrollment,
    if_exists: Literal["error", "skip"],
    *,
    request_bytes: int = REQUEST_BYTES,
    progress: Progress | None = None,
) -> Operation[EnrollResult]:
    """Send the batch part by part, in order; an error says how many rows before it are durable."""
    parts = list(_parts(batch.sizes, request_bytes))
    if len(parts) > 1 and if_exists == "error" and not batch.is_new:
        yield from _check_absent(gallery, batch.template_ids)
    enrolled = skipped = 0
    for part in parts:
        try:
            now, before = yield from _enroll_part(gallery, batch, part, if_exists)
        except FacegridError as error:
            if part.start:
                error.args = (f"{error}; the first {part.start:,} of {len(batch.sizes):,} templates are durable",)
            raise
        enrolled, skipped = enrolled + now, skipped + before
        if progress is not None:
            progress(part.stop, len(batch.sizes))
    return EnrollResult(tuple(batch.template_ids), enrolled, skipped)


def _enroll_part(
    gallery: Facts, batch: Enrollment, part: slice, if_exists: Literal["error", "skip"]
) -> Operation[tuple[int, int]]:
    """(enrolled, skipped) of one request."""
    body = {
        "embeddings": packed_floats(batch.embeddings[part]),
        "template_ids": list(batch.template_ids[part]),
        "identities": None if batch.identities is None else list(batch.identities[part]),
        "metadata": None if batch.metadata is None else list(batch.metadata[part]),
        # An id made here is there only if an earlier attempt of this call has stored it.
        "if_exists": "skip" if batch.is_new else if_exists,
    }
    document = yield from write(gallery_path(gallery.name, "faces"), body, is_idempotent=True, is_packed=True)
    enrolled, skipped = entry(document, "enrolled", int), entry(document, "skipped", int)
    if enrolled + skipped != part.stop - part.start:
        sent = part.stop - part.start
        raise ProtocolError(f"{sent} templates were sent; the answer tells of {enrolled} enrolled, {skipped} skipped")
    return (enrolled + skipped, 0) if batch.is_new else (enrolled, skipped)


def _parts(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Consecutive rows that together are no larger than the limit; a row that is larger goes alone."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + limit, side="right"))
        stop = max(start + 1, min(stop, start + REQUEST_ROWS))
        yield slice(start, stop)
        start = stop


def _check_absent(gallery: Facts, template_ids: Sequence[str]) -> Operation[None]:
    """DuplicateTemplate if one is there, before the first of several requests is sent."""
    there = yield from templates(gallery.name, template_ids)
    if there:
        raise DuplicateTemplate(f"template id {there[0].template_id!r} is in {gallery.name} already")


def templates(name: str, template_ids: Sequence[str]) -> Operation[list[Template]]:
    """Those that are there, in the order asked."""
    if isinstance(template_ids, str):
        raise InvalidParameter("template_ids: expected a list of texts, got one text")
    found: list[Template] = []
    for start in range(0, len(template_ids), PAGE):
        asked = {"template_ids": list(template_ids[start : start + PAGE])}
        document = yield from ask(gallery_path(name, "faces", "get"), asked)
        found += records(Template, entry(document, "templates", list), "templates")
    return found


def list_templates(name: str, cursor: str | None, limit: int, identity: str | None) -> Operation[TemplatePage]:
    """A page of templates, and where the next one begins."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE:
        raise InvalidParameter(f"limit: expected an integer from 1 to {PAGE}, got {limit!r}")
    if identity is not None:
        check_label(identity, what="identity")
    query = {"cursor": cursor, "limit": limit, "identity": identity}
    document = yield from get(gallery_path(name, "faces"), query)
    found = records(Template, entry(document, "templates", list), "templates")
    return TemplatePage(tuple(found), entry(document, "cursor", str, type(None)))


def get_template(name: str, template_id: str) -> Operation[Template]:
    """One template; UnknownTemplate."""
    found = yield from templates(name, [template_id])
    if not found:
        raise UnknownTemplate(f"{name} has no template {template_id!r}")
    return found[0]


def update(name: str, template_id: str, metadata: Mapping[str, Any] | None) -> Operation[Template]:
    """Give a template other metadata."""
    check_label(template_id, what="template_id")
    metadata_json(metadata)
    path = gallery_path(name, "faces", quoted(template_id))
    document = yield from patch(path, {"metadata": metadata})
    return record(Template, document)


def checked_names(
    identity: str | None, template_ids: Sequence[str], identities: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(template ids, identities) of a deletion; InvalidParameter if nothing is named, or something that has no name."""
    names = tuple(identities) if identity is None else (identity, *identities)
    if isinstance(template_ids, str) or isinstance(identities, str):
        raise InvalidParameter("template_ids and identities: expected a list of texts, got one text")
    if not names and not template_ids:
        raise InvalidParameter("delete: expected identity=, identities= or template_ids=, got none of them")
    for label in (*names, *template_ids):
        check_label(label, what="delete")
    return tuple(template_ids), names


def delete(name: str, template_ids: Sequence[str], identities: Sequence[str]) -> Operation[int]:
    """Delete templates by id and by identity; how many there were."""
    deleted = 0
    labels = [("template_ids", i) for i in template_ids] + [("identities", i) for i in identities]
    for start in range(0, len(labels), PAGE):
        part = labels[start : start + PAGE]
        body = {kind: [i for k, i in part if k == kind] or None for kind in ("template_ids", "identities")}
        document = yield from write(gallery_path(name, "faces", "delete"), body, is_idempotent=True)
        deleted += entry(document, "deleted", int)
    return deleted


def identities(name: str, start: str, limit: int) -> Operation[tuple[list[IdentityCount], str | None]]:
    """(a page of identities from `start` on, in byte order of UTF-8; where the next page begins)."""
    document = yield from get(gallery_path(name, "identities"), {"start": start, "limit": limit})
    following = entry(document, "next", str, type(None))
    return records(IdentityCount, entry(document, "identities", list), "identities"), following


def has_identity(name: str, identity: object) -> Operation[bool]:
    """Whether an identity has a template; False for what cannot be one."""
    try:
        start = check_label(identity, what="identity")
    except InvalidParameter:
        return False
    page, _ = yield from identities(name, start, 1)
    return bool(page) and page[0].identity == start


def rename_identity(name: str, old: str, new: str) -> Operation[int]:
    """Give an identity's templates another name; how many."""
    check_label(old, what="old")
    check_label(new, what="new")
    document = yield from write(
        gallery_path(name, "identities", "rename"), {"old": old, "new": new}, is_idempotent=False
    )
    return int(entry(document, "templates", int))


def merge_identities(name: str, identities: Sequence[str], into: str) -> Operation[int]:
    """Make several identities one; how many templates changed theirs."""
    check_label(into, what="into")
    if isinstance(identities, str) or not 0 < len(identities) <= MAX_MERGED:
        raise InvalidParameter(f"identities: expected a list of 1 to {MAX_MERGED} names, got {identities!r:.80}")
    for identity in identities:
        check_label(identity, what="identities")
    body = {"identities": list(identities), "into": into}
    document = yield from write(gallery_path(name, "identities", "merge"), body, is_idempotent=False)
    return int(entry(document, "templates", int))
