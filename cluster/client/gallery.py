"""`RemoteGallery`: the verbs of `cluster.Gallery`, over HTTP. What they do is in `cluster.client.operations`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cluster.client.call import Operation, T
from cluster.client.operations import calibrations as _calibrations
from cluster.client.operations import galleries as _galleries
from cluster.client.operations import photos as _photos
from cluster.client.operations import searches as _searches
from cluster.client.operations import templates as _templates
from cluster.client.operations.calibrations import RemoteCalibration
from cluster.client.operations.galleries import Facts
from cluster.client.shown import Progress, shown
from cluster.client.transport import Transport
from cluster.faces.decode import ImageSource
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
from coordinator.types import ReplicaErasure, TrainReport
from shard.types import DEFAULT_RECALL, MAX_K, FloatArray, IdentityCount


class RemoteGallery:
    """One gallery of a service, found by `RemoteCluster.gallery`. Thread-safe.

    The verbs, their arguments, results and errors are those of `cluster.Gallery`; besides, each may raise what becomes
    of connections (HostUnavailable, DeadlineExceeded, ProtocolError) and of keys (AccessError).
    """

    def __init__(self, transport: Transport, found: Facts) -> None:
        self._transport, self._found = transport, found

    def __repr__(self) -> str:
        return f"RemoteGallery({self.name!r} at {self._transport.base})"

    def _run(self, operation: Operation[T]) -> T:
        return self._transport.run(operation)

    @property
    def name(self) -> str:
        """`tenant/gallery`."""
        return self._found.name

    @property
    def embedder(self) -> str | None:
        """Name of the network whose embeddings it holds; None where they are made elsewhere."""
        return self._found.embedder

    @property
    def dim(self) -> int:
        """Dimension of its embeddings."""
        return self._found.dim

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._found.shards

    @property
    def code_bits(self) -> int:
        """Bits of a template's code."""
        return self._found.code_bits

    @property
    def replicas(self) -> int:
        """Copies of each shard."""
        return self._found.replicas

    @property
    def min_in_sync(self) -> int:
        """Copies without which writes are refused."""
        return self._found.min_in_sync

    @property
    def model_id(self) -> str | None:
        """The model that it was searched by when it was looked up last; None for exact searches."""
        return self._found.model_id

    def enroll(
        self,
        embeddings: FloatArray,
        *,
        identities: Sequence[str | None] | None = None,
        template_ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        if_exists: Literal["error", "skip"] = "error",
        progress: Progress | None = None,
    ) -> EnrollResult:
        """As `Gallery.enroll`, in requests of about 8 MiB. progress gets templates done and templates in all.

        All values are checked before the first request; an error after that says how many templates are durable.
        """
        batch = _templates.checked_enrollment(self._found, embeddings, identities, template_ids, metadata, if_exists)
        return self._run(_templates.enroll(self._found, batch, if_exists, progress=progress))

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
        deadline_ms: int = _searches.DEFAULT_DEADLINE_MS,
        target_fpir: float | None = None,
    ) -> SearchBatch:
        """As `Gallery.search`."""
        options = _searches.SearchOptions(
            k, recall, exact, threshold, identities, where, target_fpir, allow_partial, deadline_ms
        )
        return self._run(_searches.search(self._found, probes, options))

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
        deadline_ms: int = _searches.DEFAULT_DEADLINE_MS,
    ) -> RangeBatch:
        """As `Gallery.range_search`."""
        options = _searches.SearchOptions(
            limit, recall, exact, threshold, identities, where, None, allow_partial, deadline_ms
        )
        return self._run(_searches.range_search(self._found, probes, options))

    def verify(self, probe: FloatArray, identity: str, *, threshold: float) -> IdentityVerification:
        """As `Gallery.verify`."""
        return self._run(_searches.verify(self._found, probe, identity, threshold))

    def enroll_folder(self, folder: str | Path, *, progress: Progress | bool = True) -> FolderReport:
        """As `Gallery.enroll_folder`: photos are read here, and judged and embedded by the service."""
        with shown(progress, "enrolling") as tell:
            return self._run(_photos.enroll_folder(self.name, folder, tell))

    def enroll_image(
        self, image: ImageSource, *, identity: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> EnrollResult:
        """As `Gallery.enroll_image`."""
        return self._run(_photos.enroll_image(self.name, image, identity, metadata))

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
        """As `Gallery.search_image`."""
        options = _searches.SearchOptions(k, recall, exact, threshold, identities, where, target_fpir)
        return self._run(_photos.search_image(self.name, image, options))

    def delete(
        self, *, identity: str | None = None, template_ids: Sequence[str] = (), identities: Sequence[str] = ()
    ) -> int:
        """As `Gallery.delete`."""
        ids, names = _templates.checked_names(identity, template_ids, identities)
        return self._run(_templates.delete(self.name, ids, names))

    def get(self, template_id: str) -> Template:
        """As `Gallery.get`."""
        return self._run(_templates.get_template(self.name, template_id))

    def templates(self, template_ids: Sequence[str]) -> list[Template]:
        """As `Gallery.templates`."""
        return self._run(_templates.templates(self.name, template_ids))

    def update(self, template_id: str, metadata: Mapping[str, Any] | None) -> Template:
        """As `Gallery.update`."""
        return self._run(_templates.update(self.name, template_id, metadata))

    def rename_identity(self, old: str, new: str) -> int:
        """As `Gallery.rename_identity`."""
        return self._run(_templates.rename_identity(self.name, old, new))

    def merge_identities(self, identities: Sequence[str], into: str) -> int:
        """As `Gallery.merge_identities`."""
        return self._run(_templates.merge_identities(self.name, identities, into))

    def identities(self, *, start: str = "") -> Iterator[IdentityCount]:
        """As `Gallery.identities`; read page by page."""
        following: str | None = start
        while following is not None:
            page, following = self._run(_templates.identities(self.name, following, _templates.PAGE))
            yield from page

    def __contains__(self, identity: object) -> bool:
        """Whether the identity has a template."""
        return self._run(_templates.has_identity(self.name, identity))

    def __len__(self) -> int:
        """Live templates."""
        return self.stats().templates

    def __bool__(self) -> bool:
        """A gallery is true, empty or not."""
        return True

    def stats(self) -> GalleryStats:
        """As `Gallery.stats`."""
        found = self._run(_galleries.stats(self.name))
        self._found = _galleries.facts_of(found)
        return found

    def train(self, *, progress: Progress | bool = False) -> TrainReport:
        """As `Gallery.train`; the service does not tell of progress."""
        return self._run(_galleries.train(self.name))

    def calibrate(self, *, samples: int = 2_000) -> RemoteCalibration:
        """As `Gallery.calibrate`; its figures, without the scores that they come from."""
        return self._run(_calibrations.calibrate(self.name, samples))

    def calibration(self) -> RemoteCalibration | None:
        """As `Gallery.calibration`; its figures, without the scores that they come from."""
        return self._run(_calibrations.calibration(self.name))

    def threshold_for_fpir(self, target_fpir: float, n: int | None = None) -> float:
        """As `Calibration.threshold_for_fpir` of the gallery's calibration; NotEnoughData if it has none."""
        return self._run(_calibrations.threshold_for_fpir(self.name, target_fpir, n))

    def erase(self) -> None:
        """As `Gallery.erase`."""
        self._run(_galleries.erase(self.name))

    def erasure_report(self) -> list[ReplicaErasure]:
        """As `Gallery.erasure_report`."""
        return self._run(_galleries.erasure_report(self.name))

    def flush(self) -> None:
        """As `Gallery.flush`."""
        self._run(_galleries.flush(self.name))

    # The last one: after it, `list` in an annotation of this class would be this method.
    def list(self, *, cursor: str | None = None, limit: int = 100, identity: str | None = None) -> TemplatePage:
        """As `Gallery.list`."""
        return self._run(_templates.list_templates(self.name, cursor, limit, identity))
