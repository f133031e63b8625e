"""`Gallery`: what a user does with one gallery. What becomes of images is in `cluster.images`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cluster import calibration, images, rollouts
from cluster.cursors import read_cursor, write_cursor
from cluster.faces import ImageSource
from cluster.images import Progress
from cluster.metadata import metadata_json
from cluster.photo_facts import without_photo_facts
from cluster.progress import show_progress
from cluster.results import (
    EnrollResult,
    FolderReport,
    GalleryStats,
    IdentityVerification,
    ImageSearch,
    RangeBatch,
    SearchBatch,
    Template,
    TemplatePage,
)
from cluster.thumbnails import with_reserved_of
from coordinator.gallery_calibration import Calibration
from coordinator.measuring import DEFAULT_SAMPLES
from coordinator.router import DEFAULT_DEADLINE_MS
from coordinator.types import GalleryRoute, ReplicaErasure, RolloutStatus, TrainReport
from shard.drift import Drift
from shard.errors import InvalidEmbedding, InvalidParameter, UnknownIdentity, UnknownTemplate
from shard.types import DEFAULT_RECALL, MAX_K, EnrollBatch, FloatArray, IdentityCount, SearchParams
from shard.validate import check_embeddings, check_label, normalised
from shard.where import canonical

if TYPE_CHECKING:
    from cluster.api import Cluster

_PAGE = 1_000
MAX_LISTED = 1_000
"""Most templates of one page."""


class Gallery:
    """One gallery of an open cluster, found by `Cluster.gallery`. Thread-safe."""

    def __init__(self, cluster: Cluster, route: GalleryRoute) -> None:
        self._cluster, self._route = cluster, route

    @property
    def name(self) -> str:
        """`tenant/gallery`."""
        return self._route.name

    @property
    def gallery_id(self) -> str:
        """Of this gallery; one that is made again under its name has another."""
        return self._route.gallery_id

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._route.shards

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return self._route.code_bits

    @property
    def replicas(self) -> int:
        """Copies of each shard."""
        return self._route.replicas

    @property
    def min_in_sync(self) -> int:
        """Copies without which writes are refused."""
        return self._route.min_in_sync

    @property
    def model_id(self) -> str | None:
        """The search model as of when the gallery was looked up; None for exact search."""
        return self._route.model_id

    @property
    def embedder(self) -> str | None:
        """Name of the network whose embeddings it holds; None where they are made elsewhere."""
        return self._route.embedder

    @property
    def dim(self) -> int:
        """Dimension of its embeddings."""
        return self._route.dim

    def enroll(
        self,
        embeddings: FloatArray,
        *,
        identities: Sequence[str | None] | None = None,
        template_ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        if_exists: Literal["error", "skip"] = "error",
    ) -> EnrollResult:
        """Store templates; they are durable and searchable when it returns.

        embeddings: (n, dim) float32, n >= 1, scaled to unit norm here. identities, template_ids, metadata: n entries;
        ids are made where none are given; metadata is stored as JSON. if_exists: what to do with a template id that
        the gallery has: raise DuplicateTemplate, or skip it (which makes a repeated call complete an interrupted one).
        Everything is checked before anything is written: InvalidEmbedding, InvalidParameter, DuplicateTemplate.
        """
        if if_exists not in ("error", "skip"):
            raise InvalidParameter(f"if_exists: expected 'error' or 'skip', got {if_exists!r}")
        if isinstance(identities, str) or isinstance(template_ids, str):
            raise InvalidParameter("template_ids and identities: expected a list of texts, got one text")
        self._cluster.check_open()
        rows = normalised(check_embeddings(embeddings, self.dim))
        ids = [secrets.token_hex(16) for _ in range(len(rows))] if template_ids is None else list(template_ids)
        batch = EnrollBatch(
            embeddings=rows,
            template_ids=tuple(ids),
            identities=(None,) * len(rows) if identities is None else tuple(identities),
            metadata=(None,) * len(rows) if metadata is None else tuple(map(metadata_json, metadata)),
        )
        outcome = self._cluster.router.enroll(
            self._route, batch, skip_existing=if_exists == "skip", new_ids=template_ids is None
        )
        self._cluster.enrolled(self.name, outcome.enrolled)
        return EnrollResult(batch.template_ids, outcome.enrolled, outcome.skipped)

    def search(
        self,
        probes: FloatArray,
        k: int = 10,
        *,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        threshold: float | None = None,
        identities: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        allow_partial: bool = False,
        deadline_ms: int = DEFAULT_DEADLINE_MS,
        target_fpir: float | None = None,
    ) -> SearchBatch:
        """The k nearest templates of each probe.

        probes: (n, dim) float32, n >= 1, scaled to unit norm here. recall: recall@k against exhaustive search to aim
        at, in (0, 1); exact: scan every float instead. threshold: leave out candidates of a lower cosine; with k=1000
        it is a range search, and the recall is that of the templates above it. identities: search among these only.
        where: among templates whose metadata meets this filter (docs/metadata.md), e.g. {"site": "north", "age":
        {"gte": 18}}.
        allow_partial: answer with the shards there are when some do not answer; see `.coverage`. target_fpir, instead
        of threshold: the share of probes of people who are not here that may have a candidate, from the gallery's
        calibration and its present size, whatever is searched among; `.threshold` says which was used.
        Raises InvalidEmbedding, InvalidParameter, IncompleteCoverage, DeadlineExceeded; NotEnoughData if the gallery is
        not calibrated, or not for so low a target.
        """
        threshold = self._cluster.thresholds.choose(self._route, threshold, target_fpir)
        outcome = self._cluster.router.search(
            self._route,
            normalised(check_embeddings(probes, self.dim, what="probes")),
            SearchParams(k, recall, exact, threshold, _among(identities), _filter(where)),
            allow_partial=allow_partial,
            deadline_ms=deadline_ms,
        )
        found = outcome.candidates
        return SearchBatch(found.template_ids, found.scores, found.identities, outcome.coverage, threshold)

    def range_search(
        self,
        probes: FloatArray,
        threshold: float,
        *,
        limit: int = MAX_K,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        identities: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        allow_partial: bool = False,
        deadline_ms: int = DEFAULT_DEADLINE_MS,
    ) -> RangeBatch:
        """Every template whose cosine with a probe is at least `threshold`, the best `limit` of them, 1 to 1,000.

        Each probe's `.is_truncated` says whether the limit was reached. The others as in `search`; recall is that of
        the templates within the threshold, all of them with `exact`. Raises as `search` does.
        """
        if threshold is None:
            raise InvalidParameter("threshold: expected a cosine from -1 to 1, got None")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_K:
            raise InvalidParameter(f"limit: expected an integer from 1 to {MAX_K}, got {limit!r}")
        found = self.search(
            probes,
            limit,
            recall=recall,
            exact=exact,
            threshold=threshold,
            identities=identities,
            where=where,
            allow_partial=allow_partial,
            deadline_ms=deadline_ms,
        )
        sizes = [len(names) for names in found.template_ids]
        return RangeBatch(
            template_ids=found.template_ids,
            scores=found.scores[:, : max(sizes)],
            identities=found.identities,
            is_truncated=tuple(size == limit for size in sizes),
            coverage=found.coverage,
        )

    def verify(self, probe: FloatArray, identity: str, *, threshold: float) -> IdentityVerification:
        """Whether a probe (dim,) float32 is an identity's: its best cosine with the identity's templates, all scanned,
        against a threshold. Raises UnknownIdentity if it has none, InvalidEmbedding, InvalidParameter.
        """
        if not isinstance(threshold, (int, float)) or not -1.0 <= threshold <= 1.0:
            raise InvalidParameter(f"threshold: expected a cosine from -1 to 1, got {threshold!r}")
        if not isinstance(probe, np.ndarray) or probe.ndim != 1:
            raise InvalidEmbedding(f"probe: expected a numpy array ({self.dim},) float32, got {probe!r:.80}")
        found = self.search(probe[None, :], 1, exact=True, identities=(identity,))
        if not found.template_ids[0]:
            raise UnknownIdentity(f"{self.name} has no template of identity {identity!r}")
        score = float(found.scores[0, 0])
        return IdentityVerification(score, float(threshold), score >= threshold, found.template_ids[0][0])

    def enroll_folder(self, folder: str | Path, *, progress: Progress | bool = True) -> FolderReport:
        """Enroll `folder/<identity>/<photo>`: the main face of each photo, durable batch by batch.

        progress: a bar on a terminal (True), nothing (False), or a callable that gets photos done and photos in all.
        A refused photo is in the report with its path, reason and message. Photos of a flat folder have no identity.
        Repeating the call enrolls only what is not there. Raises ModelMismatch if the gallery is another embedder's.
        """
        with show_progress(progress, "enrolling") as tell:
            return images.enroll_folder(self, self._cluster.faces_for(self), folder, progress=tell)

    def enroll_image(
        self,
        image: ImageSource,
        *,
        identity: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        keep_thumbnail: bool = False,
    ) -> EnrollResult:
        """Enroll the main face of one image, a path or bytes; the same file twice is one template.

        keep_thumbnail: with a small picture of the face, in its metadata (see `cluster.thumbnails`).
        Raises InvalidImage with the reason (duplicate_photo if the file is enrolled as somebody else), ModelMismatch.
        """
        return images.enroll_image(
            self,
            self._cluster.faces_for(self),
            image,
            identity=identity,
            metadata=metadata,
            keep_thumbnail=keep_thumbnail,
        )

    def search_image(
        self,
        image: ImageSource,
        k: int = 5,
        *,
        recall: float = DEFAULT_RECALL,
        exact: bool = False,
        threshold: float | None = None,
        identities: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        target_fpir: float | None = None,
    ) -> ImageSearch:
        """The k nearest templates to the main face of an image, a path or bytes, with their metadata.

        recall, exact, threshold, identities, where, target_fpir: as in `search`. Raises InvalidImage (reason no_face
        where there is none), and what `search` does.
        """
        return images.search_image(
            self,
            self._cluster.faces_for(self),
            image,
            k=k,
            recall=recall,
            exact=exact,
            threshold=threshold,
            identities=identities,
            target_fpir=target_fpir,
            where=where,
        )

    def delete(
        self, *, identity: str | None = None, template_ids: Sequence[str] = (), identities: Sequence[str] = ()
    ) -> int:
        """Delete every template of an identity, or templates by id; returns how many. Gone from every search at once.

        Deleting what is not there deletes 0. Raises InvalidParameter if nothing is named.
        """
        names = tuple(identities) if identity is None else (identity, *identities)
        if isinstance(template_ids, str) or isinstance(identities, str):
            raise InvalidParameter("template_ids and identities: expected a list of texts, got one text")
        if not names and not template_ids:
            raise InvalidParameter("delete: expected identity=, identities= or template_ids=, got none of them")
        for label in (*names, *template_ids):
            check_label(label, what="delete")
        return self._cluster.router.delete(self._route, template_ids=tuple(template_ids), identities=names)

    def update(self, template_id: str, metadata: Mapping[str, Any] | None) -> Template:
        """Replace a template's metadata, None for none; durable, and what filters see, when it returns.

        What Facegrid notes there itself (keys that begin with `facegrid:`) stays, unless other
        values are given. The old metadata leaves the files by the deadline of erasure. Raises UnknownTemplate,
        InvalidParameter.
        """
        metadata_json(metadata)  # refuses what is none, before the template is asked for
        for record in self._cluster.router.records(self._route, (template_id,)):
            old = None if record.metadata is None else json.loads(record.metadata)
            metadata = with_reserved_of(old, metadata)
        if not self._cluster.router.amend(self._route, template_id, metadata_json(metadata)):
            raise UnknownTemplate(f"{self.name} has no template {template_id!r}")
        return self.get(template_id)

    def rename_identity(self, old: str, new: str) -> int:
        """Give every template of an identity another name; how many. None is found by the old name when it returns.

        Templates are renamed one after another, and found once meanwhile. One that is enrolled under the old name
        then is renamed too, or begins that name anew. After an error, repeat the call; a home that was closed before
        completes it when it is opened. Raises UnknownIdentity if the old name has no template, AlreadyExists if the new
        one has any (see `merge_identities`), InvalidParameter.
        """
        self._cluster.check_open()
        return self._cluster.coordinator.identities.rename(self.name, old, new)

    def merge_identities(self, identities: Sequence[str], into: str) -> int:
        """Give every template of these identities one name, which may have templates; how many changed theirs.

        As `rename_identity` otherwise. Raises UnknownIdentity if one of them has no template, InvalidParameter.
        """
        self._cluster.check_open()
        return self._cluster.coordinator.identities.merge(self.name, identities, into)

    def get(self, template_id: str) -> Template:
        """A template's labels and metadata; UnknownTemplate if it is not there."""
        found = self.templates([template_id])
        if not found:
            raise UnknownTemplate(f"{self.name} has no template {template_id!r}")
        return found[0]

    def templates(self, template_ids: Sequence[str]) -> list[Template]:
        """Labels and metadata of those templates that are there, in the order asked."""
        records = {r.template_id: r for r in self._cluster.router.records(self._route, tuple(template_ids))}
        return [
            Template(
                r.template_id, r.identity, without_photo_facts(None if r.metadata is None else json.loads(r.metadata))
            )
            for r in (records[i] for i in template_ids if i in records)
        ]

    def identities(self, *, start: str = "") -> Iterator[IdentityCount]:
        """Every identity from `start` on with its number of templates, in byte order of UTF-8; read page by page."""
        while page := self._cluster.router.identities(self._route, start=start, limit=_PAGE):
            yield from page
            start = page[-1].identity + "\0"  # the next text in byte order

    def __contains__(self, identity: object) -> bool:
        """Whether the identity has a template."""
        if not isinstance(identity, str):
            return False
        page = self._cluster.router.identities(self._route, start=identity, limit=1)
        return bool(page) and page[0].identity == identity

    def __len__(self) -> int:
        """Live templates."""
        return self.stats().templates

    def __bool__(self) -> bool:
        """A gallery is true, empty or not."""
        return True

    def stats(self) -> GalleryStats:
        """Size in memory and on disk, summed over shards; UnknownGallery if the gallery was dropped.

        While the coordinator is away, who holds the shards is told as it was known last.
        """
        self._cluster.check_open()
        route = self._route = self._cluster.router.newest(self._route)
        shards = self._cluster.router.stats(route)
        return GalleryStats(
            name=route.name,
            dim=route.dim,
            shards=route.shards,
            templates=sum(s.templates for s in shards),
            deleted=sum(s.deleted for s in shards),
            code_bits=route.code_bits,
            code_bytes=sum(s.code_bytes for s in shards),
            disk_bytes=sum(s.disk_bytes for s in shards),
            embedder=route.embedder,
            model_id=route.model_id,
            hosts=tuple(sorted({host for hosts in route.in_sync for host in hosts})),
            replicas=route.replicas,
            min_in_sync=route.min_in_sync,
            in_sync=min(len(hosts) for hosts in route.in_sync),
        )

    def train(self, *, progress: Progress | bool = False) -> TrainReport:
        """Train a SearchModel on a sample of this gallery and search with it. NotEnoughData below 1,000 templates.

        Galleries train by themselves when they reach that size; this does it now. Searches go on, by the model before,
        until the new one is ready everywhere. progress: as in `enroll_folder`, of replicas prepared and activated.
        """
        with show_progress(progress, "rolling out") as tell:
            return rollouts.train(self._cluster, self.name, tell)

    def calibrate(self, *, samples: int = DEFAULT_SAMPLES, seed: int = 0) -> Calibration:
        """Measure the gallery's error rates on its own labelled templates, and keep them with it.

        samples: how many identities to search with and how many pairs of one identity to compare, 100 to 5,000; drawn
        by the seed, all alike. NotEnoughData with fewer than 100 identities, or than 30 with two templates.
        """
        return calibration.calibrate(self._cluster, self._route, samples, seed)

    def calibration(self) -> Calibration | None:
        """What `calibrate` measured last; None if it never did. `Calibration.stale_reason` says whether it is old."""
        self._cluster.check_open()
        return self._cluster.coordinator.calibrations.of(self._route.gallery_id)

    def drift(self) -> Drift | None:
        """How far the templates enrolled since the last training are from those trained on, as codes see them.

        From a `score` of 1 on, the next enrollment trains the gallery anew. None for too few of them, or no model.
        """
        return self._cluster.coordinator.drift(self.name)

    def roll_back(self) -> RolloutStatus:
        """Search by the model before the last training again; NotFound if there is none to go back to."""
        return self._cluster.coordinator.roll_back(self.name)

    def erase(self) -> None:
        """Remove the bytes of deleted templates from the files of every replica now, instead of by the deadline."""
        self._cluster.check_open()
        self._cluster.coordinator.erase(self.name)

    def erasure_report(self) -> list[ReplicaErasure]:
        """For each replica of each shard what its files still hold of deleted templates, and until when."""
        self._cluster.check_open()
        return self._cluster.coordinator.erasure_report(self.name)

    def flush(self) -> None:
        """Seal the open segment of every shard. Nothing is lost without it; sealed files are checksummed."""
        self._cluster.router.flush(self._route)

    def settle(self) -> None:
        """Return when every replica in sync has what was written before; a write that was answered it has anyway."""
        self._cluster.router.settle(self._route)

    # The last one: after it, `list` in an annotation of this class would be this method.
    def list(self, *, cursor: str | None = None, limit: int = 100, identity: str | None = None) -> TemplatePage:
        """A page of up to `limit` templates, 1 to 1,000: all of the gallery, or those of an identity.

        cursor: `.cursor` of the page before, None for the first. The order is one of ids that looks random and stays
        as it is: each template that is there throughout is in exactly one page, whatever is written meanwhile. A page
        may be short, or empty, before the last. Raises InvalidParameter for a cursor of another listing.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LISTED:
            raise InvalidParameter(f"limit: expected an integer from 1 to {MAX_LISTED}, got {limit!r}")
        if identity is not None:
            check_label(identity, what="identity")
        scope = (self._route.gallery_id, identity)
        after = "" if cursor is None else read_cursor(cursor, scope)
        # One more than asked for tells whether there is another page.
        ids = self._cluster.router.template_ids(self._route, after=after, limit=limit + 1, identity=identity)
        more = write_cursor(ids[limit - 1], scope) if len(ids) > limit else None
        return TemplatePage(tuple(self.templates(ids[:limit])), more)


def _among(identities: Sequence[str] | None) -> tuple[str, ...]:
    if identities is None:
        return ()
    if isinstance(identities, str) or len(identities) == 0:
        raise InvalidParameter(f"identities: expected a list of at least one to search among, got {identities!r}")
    return tuple(identities)


def _filter(where: Mapping[str, Any] | None) -> bytes:
    return b"" if where is None else canonical(where)
