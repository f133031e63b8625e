"""Searches with embeddings. A long batch of probes is cut, so that neither request nor answer grows without bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.client.call import Operation
from cluster.client.operations.galleries import Facts
from cluster.client.operations.requests import ask, gallery_path
from cluster.client.wire import entry, floats, packed_floats, record, records, texts
from cluster.results import IdentityVerification, RangeBatch, SearchBatch
from coordinator.types import Coverage
from shard.errors import InvalidEmbedding, InvalidParameter, ProtocolError
from shard.types import MAX_K, FloatArray, SearchParams
from shard.validate import check_label, check_params, check_probes

REQUEST_BYTES = 8 << 20
REQUEST_CANDIDATES = 250_000
"""Candidates of one answer at most, of some 80 bytes each."""
DEFAULT_DEADLINE_MS = 10_000
_TRAVEL_S = 5.0
"""What an answer may take beside the deadline of its search."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """As `Gallery.search` takes them."""

    k: int
    recall: float
    exact: bool
    threshold: float | None = None
    identities: Sequence[str] | None = None
    where: Mapping[str, Any] | None = None
    target_fpir: float | None = None
    allow_partial: bool = False
    deadline_ms: int | None = None

    def check(self) -> None:
        """InvalidParameter for what no search takes, as the gallery would say it."""
        among = self.identities
        if among is not None and (isinstance(among, str) or len(among) == 0):
            raise InvalidParameter(f"identities: expected a list of at least one to search among, got {among!r}")
        if self.threshold is not None and self.target_fpir is not None:
            raise InvalidParameter("expected threshold or target_fpir, got both")
        check_params(SearchParams(self.k, self.recall, self.exact, self.threshold, tuple(among or ())))

    def body(self) -> dict[str, Any]:
        """As the service takes them; what is None is left out there."""
        return {
            "k": int(self.k),
            "recall": float(self.recall),
            "exact": True if self.exact else None,
            "threshold": None if self.threshold is None else float(self.threshold),
            "identities": None if self.identities is None else list(self.identities),
            "where": self.where,
            "target_fpir": self.target_fpir,
            "allow_partial": True if self.allow_partial else None,
            "deadline_ms": self.deadline_ms,
        }

    @property
    def deadline_s(self) -> float | None:
        """How long one request may take, with all its attempts."""
        return None if self.deadline_ms is None else self.deadline_ms / 1000 + _TRAVEL_S


def search(gallery: Facts, probes: FloatArray, options: SearchOptions) -> Operation[SearchBatch]:
    """Candidates of each probe, in the order of the probes."""
    options.check()
    rows = check_probes(probes, gallery.dim)
    step = max(1, min(REQUEST_BYTES // (4 * gallery.dim), REQUEST_CANDIDATES // int(options.k)))
    found = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        body = {"probes": packed_floats(part), **options.body()}
        path = gallery_path(gallery.name, "search")
        document = yield from ask(path, body, is_packed=True, deadline_s=options.deadline_s)
        found.append(search_batch(document, len(part)))
    return joined(found)


def search_batch(document: Mapping[str, Any], probes: int) -> SearchBatch:
    """The columns of an answer, which have to agree with each other."""
    ids, names = _columns(document, "template_ids"), _columns(document, "identities", may_be_none=True)
    scores = floats(document.get("scores"), "scores", 2)
    widths = [len(row) for row in ids]
    if len(scores) != probes or [len(row) for row in names] != widths or len(ids) != probes:
        raise ProtocolError(f"expected candidates of {probes} probes, got columns of {len(ids)}, {len(scores)} rows")
    if max(widths, default=0) > scores.shape[1]:
        raise ProtocolError(f"a probe has {max(widths)} candidates and {scores.shape[1]} scores")
    return SearchBatch(ids, scores, names, record(Coverage, document.get("coverage")), used_threshold(document))


def used_threshold(document: Mapping[str, Any]) -> float | None:
    """The cosine below which candidates were left out; None where there was none."""
    found = entry(document, "threshold", int, float, type(None))
    return None if found is None else float(found)


def range_search(gallery: Facts, probes: FloatArray, options: SearchOptions) -> Operation[RangeBatch]:
    """Every template within a threshold, up to `options.k` a probe."""
    if options.threshold is None:
        raise InvalidParameter("threshold: expected a cosine from -1 to 1, got None")
    if isinstance(options.k, bool) or not isinstance(options.k, int) or not 1 <= options.k <= MAX_K:
        raise InvalidParameter(f"limit: expected an integer from 1 to {MAX_K}, got {options.k!r}")
    options.check()
    rows = check_probes(probes, gallery.dim)
    step = max(1, min(REQUEST_BYTES // (4 * gallery.dim), REQUEST_CANDIDATES // options.k))
    body = options.body()
    body["limit"] = body.pop("k")
    if options.deadline_ms == DEFAULT_DEADLINE_MS:
        del body["deadline_ms"]
    found: list[RangeBatch] = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        document = yield from ask(
            gallery_path(gallery.name, "range"),
            {"probes": packed_floats(part), **body},
            is_packed=True,
            deadline_s=options.deadline_s,
        )
        found.append(_range_batch(document, len(part)))
    return _joined_ranges(found)


def _range_batch(document: Mapping[str, Any], probes: int) -> RangeBatch:
    """An answer of rows, one a probe."""
    results = entry(document, "results", list)
    if len(results) != probes or not all(isinstance(result, dict) for result in results):
        raise ProtocolError(f"expected results of {probes} probes in the answer, got {len(results)}")
    rows = [records(_Found, entry(result, "candidates", list), "candidates") for result in results]
    scores = np.full((probes, max(map(len, rows), default=0)), np.nan, np.float32)
    for row, candidates in zip(scores, rows, strict=True):
        row[: len(candidates)] = [candidate.score for candidate in candidates]
    return RangeBatch(
        tuple(tuple(candidate.template_id for candidate in row) for row in rows),
        scores,
        tuple(tuple(candidate.identity for candidate in row) for row in rows),
        tuple(entry(result, "is_truncated", bool) for result in results),
        record(Coverage, document.get("coverage")),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    template_id: str
    identity: str | None
    score: float


def _joined_ranges(found: Sequence[RangeBatch]) -> RangeBatch:
    """As `joined`."""
    both = joined([SearchBatch(one.template_ids, one.scores, one.identities, one.coverage) for one in found])
    is_truncated = tuple(value for one in found for value in one.is_truncated)
    return RangeBatch(both.template_ids, both.scores, both.identities, is_truncated, both.coverage)


def verify(gallery: Facts, probe: FloatArray, identity: str, threshold: float) -> Operation[IdentityVerification]:
    """Whether a probe is an identity's."""
    if not isinstance(threshold, (int, float)) or not -1.0 <= threshold <= 1.0:
        raise InvalidParameter(f"threshold: expected a cosine from -1 to 1, got {threshold!r}")
    if not isinstance(probe, np.ndarray) or probe.ndim != 1:
        raise InvalidEmbedding(f"probe: expected a numpy array ({gallery.dim},) float32, got {probe!r:.80}")
    check_label(identity, what="identities")
    row = check_probes(probe[None, :], gallery.dim)
    body = {"probe": packed_floats(row), "identity": identity, "threshold": float(threshold)}
    path = gallery_path(gallery.name, "verify")
    return record(IdentityVerification, (yield from ask(path, body, is_packed=True)))


def _columns(document: Mapping[str, Any], name: str, *, may_be_none: bool = False) -> tuple[tuple[Any, ...], ...]:
    return tuple(texts(row, name, may_be_none=may_be_none) for row in entry(document, name, list))


def joined(found: Sequence[SearchBatch]) -> SearchBatch:
    """Answers of several requests as one. Its coverage is that of the request which the fewest shards answered."""
    if len(found) == 1:
        return found[0]
    width = max(batch.scores.shape[1] for batch in found)
    padded = [
        np.pad(batch.scores, ((0, 0), (0, width - batch.scores.shape[1])), constant_values=np.nan) for batch in found
    ]
    return SearchBatch(
        tuple(row for batch in found for row in batch.template_ids),
        np.concatenate(padded),
        tuple(row for batch in found for row in batch.identities),
        min((batch.coverage for batch in found), key=lambda coverage: coverage.answered - coverage.asked),
        found[0].threshold,
    )
