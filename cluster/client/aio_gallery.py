"""`AsyncRemoteGallery`: the twin of `RemoteGallery` for asyncio; the same verbs, as coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
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
from cluster.client.transport import AsyncTransport
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


class AsyncRemoteGallery:
    """One gallery of a service, found by `AsyncRemoteCluster.gallery`. For one event loop.

    The verbs, their arguments, results and errors are those of `cluster.Gallery`; besides, each may raise what becomes
    of connections (HostUnavailable, DeadlineExceeded, ProtocolError) and of keys (AccessError).
    """

    def __init__(self, transport: AsyncTransport, found: Facts) -> None:
        self._transport, self._found = transport, found

    def __repr__(self) -> str:
        return f"AsyncRemoteGallery({self.name!r} at {self._transport.base})"

    async def _run(self, operation: Operation[T]) -> T:
        return await self._transport.run(operation)

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

    async def enroll(
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
        return await self._run(_templates.enroll(self._found, batch, if_exists, progress=progress))

    async def search(
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
        return await self._run(_searches.search(self._found, probes, options))

    async def range_search(
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
        return await self._run(_searches.range_search(self._found, probes, options))

    async def verify(self, probe: FloatArray, identity: str, *, threshold: float) -> IdentityVerification:
        """As `Gallery.verify`."""
        return await self._run(_searches.verify(self._found, probe, identity, threshold))

    async def enroll_folder(self, folder: str | Path, *, progress: Progress | bool = True) -> FolderReport:
        """As `Gallery.enroll_folder`: photos are read here, and judged and embedded by the service."""
        with shown(progress, "enrolling") as tell:
            return await self._run(_photos.enroll_folder(self.name, folder, tell))

    async def enroll_image(
        self, image: ImageSource, *, identity: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> EnrollResult:
        """As `Gallery.enroll_image`."""
        return await self._run(_photos.enroll_image(self.name, image, identity, metadata))

    async def search_image(
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
        return await self._run(_photos.search_image(self.name, image, options))

    async def delete(
        self, *, identity: str | None = None, template_ids: Sequence[str] = (), identities: Sequence[str] = ()
    ) -> int:
        """As `Gallery.delete`."""
        ids, names = _templates.checked_names(identity, template_ids, identities)
        return await self._run(_templates.delete(self.name, ids, names))

    async def get(self, template_id: str) -> Template:
        """As `Gallery.get`."""
        return await self._run(_templates.get_template(self.name, template_id))

    async def templates(self, template_ids: Sequence[str]) -> list[Template]:
        """As `Gallery.templates`."""
        return await self._run(_templates.templates(self.name, template_ids))

    async def update(self, template_id: str, metadata: Mapping[str, Any] | None) -> Template:
        """As `Gallery.update`."""
        return await self._run(_templates.update(self.name, template_id, metadata))

    async def rename_identity(self, old: str, new: str) -> int:
        """As `Gallery.rename_identity`."""
        return await self._run(_templates.rename_identity(self.name, old, new))

    async def merge_identities(self, identities: Sequence[str], into: str) -> int:
        """As `Gallery.merge_identities`."""
        return await self._run(_templates.merge_identities(self.name, identities, into))

    async def identities(self, *, start: str = "") -> AsyncIterator[IdentityCount]:
        """As `Gallery.identities`; read page by page."""
        following: str | None = start
        while following is not None:
            page, following = await self._run(_templates.identities(self.name, following, _templates.PAGE))
            for one in page:
                yield one

    async def contains(self, identity: object) -> bool:
        """Whether the identity has a template."""
        return await self._run(_templates.has_identity(self.name, identity))

    async def count(self) -> int:
        """Live templates."""
        return (await self.stats()).templates

    def __bool__(self) -> bool:
        """A gallery is true, empty or not."""
        return True

    async def stats(self) -> GalleryStats:
        """As `Gallery.stats`."""
        found = await self._run(_galleries.stats(self.name))
        self._found = _galleries.facts_of(found)
        return found

    async def train(self, *, progress: Progress | bool = False) -> TrainReport:
        """As `Gallery.train`; the service does not tell of progress."""
        return await self._run(_galleries.train(self.name))

    async def calibrate(self, *, samples: int = 2_000) -> RemoteCalibration:
        """As `Gallery.calibrate`; its figures, without the scores that they come from."""
        return await self._run(_calibrations.calibrate(self.name, samples))

    async def calibration(self) -> RemoteCalibration | None:
        """As `Gallery.calibration`; its figures, without the scores that they come from."""
        return await self._run(_calibrations.calibration(self.name))

    async def threshold_for_fpir(self, target_fpir: float, n: int | None = None) -> float:
        """As `Calibration.threshold_for_fpir` of the gallery's calibration; NotEnoughData if it has none."""
        return await self._run(_calibrations.threshold_for_fpir(self.name, target_fpir, n))

    async def erase(self) -> None:
        """As `Gallery.erase`."""
        await self._run(_galleries.erase(self.name))

    async def erasure_report(self) -> list[ReplicaErasure]:
        """As `Gallery.erasure_report`."""
        return await self._run(_galleries.erasure_report(self.name))

    async def flush(self) -> None:
        """As `Gallery.flush`."""
        await self._run(_galleries.flush(self.name))

    # The last one: after it, `list` in an annotation of this class would be this method.
    async def list(self, *, cursor: str | None = None, limit: int = 100, identity: str | None = None) -> TemplatePage:
        """As `Gallery.list`."""
        return await self._run(_templates.list_templates(self.name, cursor, limit, identity))
