"""Embedder actors: processes that find faces for the gateways, on any node, on the CPU or on a GPU.

They hold no state but the networks: one that dies is started again by Ray, and what it had under way is asked of
another. Images reach them as bytes in a call; nothing is written.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.config import pipeline_options
from cluster.faces import FacePipeline, PipelineOptions, require_device
from cluster.service.face_pool import Faces, OwnFaces
from coordinator.actors import HEALTH, Actor, ActorName
from coordinator.outcome import Outcome, outcome_of
from shard.errors import ClusterNotReady, HostUnavailable, InvalidImage, InvalidParameter

if TYPE_CHECKING:
    from cluster.api import Cluster

CALLS = 64
"""Images that an actor has under way; more wait in its queue."""
CALLS_EACH = 16
"""Images that a gateway has under way at one actor: one batch. The others wait where tenants take turns."""
CALL_S = 120.0
"""How long an image may take, with the loading of a network that was not used before."""
START_S = 60.0
AWAY_S = 1.0
"""How long an actor that was unavailable is asked last."""
ATTEMPTS = 2
"""Actors that an image is shown. One that ends the process it comes to must not end them all."""
_LOG = logging.getLogger("facegrid.actors")


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why an image was refused: an InvalidImage on its way."""

    reason: str
    message: str


class EmbedderProcess:
    """What runs inside an embedder's actor: pipelines, each loaded when it is first needed."""

    def __init__(self, options: PipelineOptions) -> None:
        """options: of the pipelines, but for the embedder, which each call names."""
        logging.basicConfig(level=logging.INFO)
        threads = options.threads or len(os.sched_getaffinity(0))
        self._device = options.device
        self._faces = OwnFaces(
            lambda embedder: FacePipeline(replace(options, embedder=embedder), announce=_LOG.warning), threads
        )
        self._finding = threading.Semaphore(threads)

    def open(self) -> Outcome:
        """Whether onnxruntime is here, with the device; MissingExtra, InvalidParameter."""
        return outcome_of(lambda: require_device(self._device), "the embedder")

    def faces(self, image: bytes, embedder: str, embed_refused: bool) -> Outcome:
        """Every face of an image, largest first, embedded in a batch with those of other calls; or a _Refused."""

        def find() -> Faces | _Refused:
            try:
                with self._finding:
                    done = self._faces.begin(image, embedder, embed_refused=embed_refused)
                return done.result()
            except InvalidImage as error:
                return _Refused(error.reason, str(error))

        return outcome_of(find, "the embedder")

    def health(self) -> Outcome:
        """Process id."""
        return Outcome(os.getpid())

    def close(self) -> Outcome:
        """Embed what waits. Idempotent."""
        return outcome_of(self._faces.close, "the embedder")


class Embedders:
    """Embedder actors beside an open home. They end when its cluster is closed."""

    def __init__(self, cluster: Cluster, count: int, *, gpus: float = 0.0) -> None:
        """Start `count` of them, spread over the nodes, each with so many GPUs (a part of one if below 1).

        Raises InvalidParameter for a cluster that is not on Ray or has fewer GPUs, or where an actor's onnxruntime
        has no CUDA; MissingExtra where it has no onnxruntime; ClusterNotReady if one does not start.
        """
        if cluster.ray is None:
            raise InvalidParameter("embedders run on Ray: open the home with runtime='ray'")
        if count < 1 or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InvalidParameter(
                f"embedders: expected 1 or more, with a part of a GPU or whole ones each, got {count} with {gpus:g}"
            )
        offered = sum(node.resources.get("GPU", 0.0) for node in cluster.ray.nodes())
        if count * gpus > offered:
            raise InvalidParameter(
                f"{count} embedders with {gpus:g} GPUs each: the Ray cluster offers {offered:g} GPUs"
            )
        options = replace(pipeline_options(cluster.settings), device="cuda" if gpus else "cpu")
        self._actors = [
            cluster.ray.spawn(
                EmbedderProcess, (options,), title=f"embedder {number}", gpus=gpus, calls=CALLS, is_spread=True
            )
            for number in range(count)
        ]
        self.names = tuple(actor.where for actor in self._actors)
        """By which gateways find them."""
        for pending in [actor.begin("open") for actor in self._actors]:
            try:
                pending.result(START_S)
            except HostUnavailable as error:
                raise ClusterNotReady(f"an embedder did not start: {error}") from error

    def pids(self) -> list[int]:
        """Process ids; HostUnavailable."""
        return [actor.call("health", group=HEALTH, timeout_s=START_S) for actor in self._actors]


@dataclass(slots=True)
class _Asked:
    actor: Actor
    calls: int = 0
    away_until: float = 0.0


class EmbedderActors:
    """A `FaceSource`: faces found by actors, of which the least busy one is asked."""

    def __init__(self, names: Sequence[ActorName]) -> None:
        """HostUnavailable if one of them was never started."""
        self._actors = [_Asked(Actor.find(name)) for name in names]
        self._lock = threading.Lock()
        self.threads = CALLS_EACH * len(self._actors)

    def begin(self, image: bytes, embedder: str, *, embed_refused: bool) -> Future[Faces]:
        """Ask an actor, another one if that dies, and wait for the answer.

        Raises InvalidImage; HostUnavailable if no actor answers; and what loading the pipeline raises there.
        """
        done: Future[Faces] = Future()
        tried: list[_Asked] = []
        while True:
            asked = self._least_busy(tried)
            try:
                found = asked.actor.call("faces", image, embedder, embed_refused, timeout_s=CALL_S)
                break
            except HostUnavailable as error:
                asked.away_until = time.monotonic() + AWAY_S
                tried.append(asked)
                if len(tried) == min(ATTEMPTS, len(self._actors)):
                    raise
                _LOG.warning("%s; another embedder is asked", error)
            finally:
                with self._lock:
                    asked.calls -= 1
        if isinstance(found, _Refused):
            raise InvalidImage(found.message, reason=found.reason)
        done.set_result(found)
        return done

    def close(self) -> None:
        """The actors are their starter's to end."""

    def _least_busy(self, tried: Sequence[_Asked]) -> _Asked:
        """The actor with the fewest calls of this gateway, rather one that was not away just now; counts the call."""
        now = time.monotonic()
        with self._lock:
            left = [one for one in self._actors if not any(one is before for before in tried)]
            chosen = min(left, key=lambda one: (one.away_until > now, one.calls))
            chosen.calls += 1
            return chosen
