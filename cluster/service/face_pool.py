"""`FacePool`: images on their way to the face pipeline, tenants taking turns, no more waiting than fits.

Where the faces are found is a `FaceSource`'s to know: in this process (`OwnFaces`), or by embedder actors
(`cluster.service.embedders`). Either embeds what waits in batches.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cluster.faces import Face, FaceBatches
from cluster.faces.batches import Pipeline
from cluster.service.scheduler import FairScheduler, Piece
from cluster.service.work import tell
from shard.errors import HostBusy, InvalidImage, RateLimited

if TYPE_CHECKING:
    from cluster.service.auth import Principal
    from cluster.service.metrics import Metrics

Faces = tuple[Face, ...]
WAIT_S = 30.0
"""How long an image waits, from when it came, where nobody is there that finds faces."""
GUESS_S = 0.1
"""What an image is taken to cost until it is done."""


@dataclass(frozen=True, slots=True)
class Room:
    """Images and their bytes that may wait at once, of all tenants and of one.

    A tenant of which nothing waits may bring more than its share: no request is too large to be ever served.
    """

    images: int = 1_024
    size: int = 512 << 20
    tenant_images: int = 256
    tenant_size: int = 128 << 20


class FaceSource(Protocol):
    """Finds faces."""

    @property
    def threads(self) -> int:
        """Images that may be begun at once, each in a thread. May change."""

    def begin(self, image: bytes, embedder: str, *, embed_refused: bool, until: float) -> Future[Faces]:
        """Begin with an image: what is done in the caller's thread may take long. May raise, as the future may.

        until: monotonic, how long to wait where nobody is there to find faces.
        """

    def close(self) -> None:
        """Finish what was begun. Idempotent."""


class OwnFaces:
    """Faces found in this process; a pipeline for each embedder in use, loaded when it is first needed."""

    def __init__(self, pipeline: Callable[[str], Pipeline], threads: int) -> None:
        """pipeline: the one with an embedder, by its name; asked once. threads: images decoded at once."""
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._batches: dict[str, FaceBatches] = {}
        self.threads = threads

    def begin(self, image: bytes, embedder: str, *, embed_refused: bool, until: float = 0.0) -> Future[Faces]:
        """Decode and detect in the caller's thread; InvalidImage."""
        return self._batches_of(embedder).begin(image, embed_refused=embed_refused)

    def close(self) -> None:
        """Embed what waits. Idempotent."""
        for batches in self._batches.values():
            batches.close()

    def _batches_of(self, embedder: str) -> FaceBatches:
        with self._lock:
            if embedder not in self._batches:
                self._batches[embedder] = FaceBatches(self._pipeline(embedder))
            return self._batches[embedder]


class FacePool:
    """Faces of one event loop's images."""

    def __init__(self, source: FaceSource, room: Room | None = None, metrics: Metrics | None = None) -> None:
        self._source, self._room, self._metrics = source, room or Room(), metrics
        self._scheduler: FairScheduler | None = None
        self._images = self._size = 0
        self._of_tenant: dict[str, tuple[int, int]] = {}

    async def faces(self, principal: Principal, image: bytes, *, embedder: str, embed_refused: bool = False) -> Faces:
        """Every face of an image, largest first; the bits of `FacePipeline.faces` of the image alone.

        Raises InvalidImage; RateLimited where this tenant's images fill its share of the room, HostBusy where all of
        it is full; and what the pipeline raises when it is loaded.
        """
        [found] = await self.faces_of_many(principal, [image], embedder=embedder, embed_refused=embed_refused)
        if isinstance(found, InvalidImage):
            raise found
        return found

    async def faces_of_many(
        self, principal: Principal, images: Sequence[bytes], *, embedder: str, embed_refused: bool = False
    ) -> list[Faces | InvalidImage]:
        """The faces of each image, in their order, or why it was refused. All of them are let in, or none."""
        size = sum(map(len, images))
        self._enter(principal.flow, len(images), size)
        begun: list[asyncio.Future[Faces]] = []
        try:
            begun.extend(self._submit(principal, image, embedder, embed_refused) for image in images)
            found = await asyncio.gather(*begun, return_exceptions=True)
        finally:
            for future in begun:
                future.cancel()  # whoever asked has gone: what was not begun is not
            self._leave(principal.flow, len(images), size)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, InvalidImage):
                raise one
        return found  # type: ignore[return-value]

    def waiting(self) -> dict[str, int]:
        """Images that wait or are under way, by tenant id."""
        return {tenant: images for tenant, (images, _) in self._of_tenant.items()}

    def images(self) -> int:
        """Images that wait or are under way, of all tenants. From any thread."""
        return self._images

    def close(self) -> None:
        """Finish what was let in. Idempotent."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._source.close()

    def _submit(self, principal: Principal, image: bytes, embedder: str, embed_refused: bool) -> asyncio.Future[Faces]:
        if self._scheduler is None:
            self._scheduler = FairScheduler("faces", self._source.threads)
        scheduler = self._scheduler
        scheduler.resize(self._source.threads)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Faces] = loop.create_future()
        queued = began = time.perf_counter()
        until = time.monotonic() + WAIT_S

        def answered(done: Future[Faces]) -> None:
            if self._metrics is not None:
                self._metrics.work_wait.observe(began - queued, "photo")
                self._metrics.work_call.observe(time.perf_counter() - began, "photo")
            scheduler.resize(self._source.threads)
            tell(loop, _settle, answer, done)

        def run() -> None:
            nonlocal began
            if answer.cancelled():
                return
            began = time.perf_counter()
            try:
                done = self._source.begin(image, embedder, embed_refused=embed_refused, until=until)
            except Exception as error:  # noqa: BLE001 - handed to the caller
                done = Future()
                done.set_exception(error)
            done.add_done_callback(answered)

        scheduler.submit((principal.flow, "photo"), principal.weight, Piece(run, GUESS_S))
        return answer

    def _enter(self, tenant: str, images: int, size: int) -> None:
        room = self._room
        held = self._of_tenant.get(tenant, (0, 0))
        if held[0] and (held[0] + images > room.tenant_images or held[1] + size > room.tenant_size):
            raise RateLimited(
                f"{held[0]} images of this tenant ({held[1] >> 20} MiB) are waiting for their turn, at most"
                f" {room.tenant_images} ({room.tenant_size >> 20} MiB) may",
                retry_after_s=1,
            )
        if self._images and (self._images + images > room.images or self._size + size > room.size):
            raise HostBusy(f"{self._images} images ({self._size >> 20} MiB) are waiting for the face pipeline")
        self._images += images
        self._size += size
        self._of_tenant[tenant] = (held[0] + images, held[1] + size)

    def _leave(self, tenant: str, images: int, size: int) -> None:
        held = self._of_tenant[tenant]
        self._images -= images
        self._size -= size
        if held[0] == images:
            del self._of_tenant[tenant]
        else:
            self._of_tenant[tenant] = (held[0] - images, held[1] - size)


def _settle(answer: asyncio.Future[Faces], done: Future[Faces]) -> None:
    if answer.done():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
