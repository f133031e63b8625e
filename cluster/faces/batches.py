"""Faces of images that come one by one from several threads: each is decoded and searched for faces in its caller's
thread, and what waits while a batch is embedded travels in the next one.

Owns the queue in front of the embedder and the thread that empties it. Who may come, and whose turn it is, is decided
by the callers. A batch gives the bits that each image alone gives (`FacePipeline.faces`), on the CPU.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from cluster.faces.decode import ImageSource
from cluster.faces.pipeline import Face, FoundFaces
from shard.errors import FacegridError, ShardClosed

BATCH_FACES = 16
"""Faces of one call of the embedder, more only where one image has more. Larger batches cost no less a face, and an
image that comes next waits for the whole of them (benchmarks.photos)."""


class Pipeline(Protocol):
    """What is needed of a `FacePipeline`."""

    def find(self, image: ImageSource) -> FoundFaces:
        """Decode and detect; InvalidImage."""

    def embed(self, batch: Sequence[FoundFaces], embed_refused: Sequence[bool]) -> list[tuple[Face, ...]]:
        """The faces of each image with their embeddings."""


@dataclass(slots=True)
class _Waiting:
    found: FoundFaces
    embed_refused: bool
    faces: int
    done: Future[tuple[Face, ...]] = field(default_factory=Future)


class FaceBatches:
    """A pipeline, and a thread that embeds what several callers have found. Thread-safe."""

    def __init__(self, pipeline: Pipeline, *, batch_faces: int = BATCH_FACES) -> None:
        self._pipeline, self._batch_faces = pipeline, batch_faces
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._queued_faces = 0
        self._is_closed = False
        self._taken: list[int] = []
        self._thread = threading.Thread(target=self._work, name="facegrid-embed", daemon=True)
        self._thread.start()

    def begin(self, image: ImageSource, *, embed_refused: bool = False) -> Future[tuple[Face, ...]]:
        """Decode and detect now, in the caller's thread; the future has every face of the image, largest first.

        Blocks while a whole batch of faces waits: who finds faces faster than they are embedded would fill the memory.
        Raises InvalidImage; ShardClosed after `close`. The future may raise InvalidEmbedding.
        """
        found = self._pipeline.find(image)
        waiting = _Waiting(found, embed_refused, len(found.wanted(embed_refused)))
        if not waiting.faces:
            waiting.done.set_result(found.faces)
            return waiting.done
        with self._changed:
            while self._queued_faces >= self._batch_faces and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                raise ShardClosed("the face pipeline is being closed")
            self._queue.append(waiting)
            self._queued_faces += waiting.faces
            self._changed.notify_all()
        return waiting.done

    def taken_batches(self) -> list[int]:
        """Faces of each batch that was embedded since the last call."""
        with self._changed:
            found, self._taken = self._taken, []
        return found

    def close(self) -> None:
        """Embed what waits, then end. Idempotent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._embed(batch)

    def _next(self) -> list[_Waiting]:
        """What waits, up to a batch; waits for something. Nothing after the end."""
        with self._changed:
            while not self._queue and not self._is_closed:
                self._changed.wait()
            batch: list[_Waiting] = []
            faces = 0
            while self._queue and (not batch or faces + self._queue[0].faces <= self._batch_faces):
                batch.append(self._queue.popleft())
                faces += batch[-1].faces
            self._queued_faces -= faces
            if batch and len(self._taken) < 100_000:
                self._taken.append(faces)
            self._changed.notify_all()
        return batch

    def _embed(self, batch: list[_Waiting]) -> None:
        """Answer each of the batch. An embedding that fails is its own image's: the others are embedded without it."""
        try:
            faces = self._pipeline.embed([one.found for one in batch], [one.embed_refused for one in batch])
        except FacegridError as error:
            if len(batch) == 1:
                batch[0].done.set_exception(error)
                return
            for one in batch:
                self._embed([one])
        except Exception as error:  # noqa: BLE001 - handed to each caller, who must not wait for ever
            for one in batch:
                one.done.set_exception(error)
        else:
            for one, found in zip(batch, faces, strict=True):
                one.done.set_result(found)
