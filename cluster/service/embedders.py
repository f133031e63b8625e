"""Embedder actors: processes that find faces for the gateways, on any node, on the CPU or on a GPU.

They hold no state but the networks: one that dies is started again by Ray, and what it had under way is asked of
another. Images reach them as bytes in a call; nothing is written. Gateways know them by their titles, and look every
few seconds which there are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.config import pipeline_options, settings_of
from cluster.faces import FacePipeline, require_device
from cluster.service.face_pool import Faces, OwnFaces
from coordinator.actors import Actor, ActorName, Pending, node_here
from coordinator.kept import installed_version, kept
from coordinator.outcome import Outcome, outcome_of
from coordinator.threads import attempt
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidImage

CALLS = 64
"""Images that an actor has under way; more wait in its queue."""
CALLS_EACH = 16
"""Images that a gateway has under way at one actor: one batch. The others wait where tenants take turns."""
CALL_S = 120.0
"""How long an image may take, with the loading of a network that was not used before."""
LOOK_S = 2.0
"""Pause between two looks which actors there are."""
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


@kept
@dataclass(frozen=True, slots=True)
class EmbedderState:
    """What an embedder says of itself, maybe to another version. images: begun and not answered.

    revision: of what it was started with. is_closed: it takes no more images, and is to be ended.
    """

    pid: int
    node_id: str
    version: str
    revision: str
    images: int
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class _Ended:
    """Instead of faces: the actor is about to end, and takes no more images."""


class EmbedderProcess:
    """What runs inside an embedder's actor: pipelines, each loaded when it is first needed."""

    def __init__(self, settings: Mapping[str, Any], device: Literal["cpu", "cuda"], revision: str = "") -> None:
        """settings: `kept_settings`, of which the pipelines are made, but for the embedder, which each call names.

        revision: of settings and device, by which another process that opens the home tells whether it is as it would
        be. These are kept: see coordinator/kept.py before you change them.
        """
        logging.basicConfig(level=logging.INFO)
        self._revision = revision
        self._lock = threading.Lock()
        self._images = 0
        options = replace(pipeline_options(settings_of(settings)), device=device)
        threads = options.threads or len(os.sched_getaffinity(0))
        self._device = options.device
        self._faces = OwnFaces(
            lambda embedder: FacePipeline(replace(options, embedder=embedder), announce=_LOG.warning), threads
        )
        self._finding = threading.Semaphore(threads)
        self._is_closed = False

    def open(self) -> Outcome:
        """Whether onnxruntime is here, with the device; MissingExtra, InvalidParameter."""
        return outcome_of(lambda: require_device(self._device), "the embedder")

    def faces(self, image: bytes, embedder: str, embed_refused: bool) -> Outcome:
        """Every face of an image, largest first, embedded in a batch with those of other calls; or a _Refused."""

        def find() -> Faces | _Refused | _Ended:
            try:
                with self._counted(), self._finding:
                    if self._is_closed:
                        return _Ended()
                    done = self._faces.begin(image, embedder, embed_refused=embed_refused)
                return done.result()
            except InvalidImage as error:
                return _Refused(error.reason, str(error))

        return outcome_of(find, "the embedder")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._images += 1
        try:
            yield
        finally:
            with self._lock:
                self._images -= 1

    def health(self) -> Outcome:
        """Process id."""
        return Outcome(os.getpid())

    def state(self) -> Outcome:
        """An EmbedderState. Blocks on nothing."""
        return Outcome(
            EmbedderState(os.getpid(), node_here(), installed_version(), self._revision, self._images, self._is_closed)
        )

    def close(self) -> Outcome:
        """Embed what was begun, and take no more. Idempotent."""
        self._is_closed = True
        return outcome_of(self._faces.close, "the embedder")


@dataclass(slots=True)
class _Asked:
    actor: Actor
    calls: int = 0
    away_until: float = 0.0


class EmbedderActors:
    """A `FaceSource`: faces found by actors that come and go, of which the least busy one is asked."""

    def __init__(self, find: Callable[[], Sequence[ActorName]], *, look_s: float = LOOK_S) -> None:
        """find: those that there are now, ready or not; asked every look_s seconds. FacegridError means: as before."""
        self._find, self._look_s = find, look_s
        self._ready: dict[ActorName, _Asked] = {}
        self._coming: dict[ActorName, tuple[Actor, Pending]] = {}
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look_on, name="facegrid-embedders", daemon=True)
        self._looking.start()

    @property
    def threads(self) -> int:
        """Images under way at once. Where there is no actor, a few wait for one, and the others behind them."""
        return CALLS_EACH * max(1, len(self._ready))

    def begin(self, image: bytes, embedder: str, *, embed_refused: bool, until: float) -> Future[Faces]:
        """Ask an actor, another one if that dies, and wait for the answer.

        Raises InvalidImage; ClusterNotReady if there is no actor at `until`; HostUnavailable if none answers; and what
        loading the pipeline raises there.
        """
        done: Future[Faces] = Future()
        tried: list[_Asked] = []
        while True:
            asked = self._least_busy(tried, until)
            try:
                found = asked.actor.call("faces", image, embedder, embed_refused, timeout_s=CALL_S)
            except HostUnavailable as error:
                asked.away_until = time.monotonic() + AWAY_S
                tried.append(asked)
                if len(tried) >= min(ATTEMPTS, len(self._ready)):
                    raise
                _LOG.warning("%s; another embedder is asked", error)
                continue
            finally:
                with self._changed:
                    asked.calls -= 1
            if not isinstance(found, _Ended):
                break
            self._forget(asked)
        if isinstance(found, _Refused):
            raise InvalidImage(found.message, reason=found.reason)
        done.set_result(found)
        return done

    def close(self) -> None:
        """Look no more; the actors are their starter's to end. Idempotent."""
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        self._looking.join()

    def _least_busy(self, tried: Sequence[_Asked], until: float) -> _Asked:
        """The actor with the fewest calls of this gateway, rather one that was not away just now; counts the call."""
        with self._changed:
            while not (left := [one for one in self._ready.values() if not any(one is before for before in tried)]):
                wait_s = until - time.monotonic()
                if wait_s <= 0 or self._ended.is_set():
                    raise ClusterNotReady("no embedder is ready to find the faces of a photo")
                self._changed.wait(wait_s)
            now = time.monotonic()
            chosen = min(left, key=lambda one: (one.away_until > now, one.calls))
            chosen.calls += 1
            return chosen

    def _forget(self, asked: _Asked) -> None:
        with self._changed:
            self._ready.pop(asked.actor.where, None)

    def _look_on(self) -> None:
        while not self._ended.is_set():
            attempt(self._look, "embedders could not be looked for", _LOG, logging.INFO)
            self._ended.wait(self._look_s)

    def _look(self) -> None:
        """Have those that are new open, and count them as ready when they have; forget those that are gone."""
        there = set(self._find())
        with self._changed:
            for where in self._ready.keys() - there:
                del self._ready[where]
        for where in self._coming.keys() - there:
            del self._coming[where]
        for where in there - self._ready.keys() - self._coming.keys():
            actor = Actor.find(where)
            self._coming[where] = actor, actor.begin("open")
        for where, (actor, opening) in list(self._coming.items()):
            if not opening.has_ended(0.0):
                continue
            del self._coming[where]
            try:
                opening.result()
            except FacegridError as error:
                _LOG.warning("%s does not work: %s", actor.title, error)
                continue
            with self._changed:
                self._ready[where] = _Asked(actor)
                self._changed.notify_all()
