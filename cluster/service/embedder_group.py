"""The embedder actors of an open home: as many as the images that wait ask for, between a fewest and a most.

Where they follow the nodes, each takes one `facegrid_embedder` of a node that offers it, and waits for a node until
there is one: an autoscaler of Ray sees that, and starts nodes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.api import Cluster
from cluster.config import kept_settings
from cluster.service.embedder_plan import Demand
from cluster.service.embedders import CALLS, EmbedderProcess, EmbedderState
from coordinator.actor_names import EMBEDDER, EMBEDDER_RESOURCE, numbered_title
from coordinator.actors import HEALTH, Actor, ActorName, Pending, numbered
from coordinator.kept import installed_version, revision_of
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter

SCAN_S = 2.0
ANSWER_S = 2.0
"""How long embedders may take to say how they are."""
START_S = 60.0
CLOSE_S = 30.0
"""How long one that ends may take over what it has begun."""
_LOG = logging.getLogger("facegrid.actors")


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """fewest are there always, up to `most` while images wait. gpus: of each, a part of one if below 1.

    follows_nodes: each takes one `facegrid_embedder` of a node, and there may be no such node yet.
    """

    fewest: int
    most: int
    gpus: float = 0.0
    follows_nodes: bool = False


def offers_embedders(cluster: Cluster) -> bool:
    """Whether a node of the cluster's Ray offers to run embedders."""
    return cluster.ray is not None and any(EMBEDDER_RESOURCE in node.resources for node in cluster.ray.nodes())


class Embedders:
    """Embedder actors beside an open home. They end when its cluster is closed, unless they are detached."""

    def __init__(self, cluster: Cluster, options: EmbedderOptions, *, scan_s: float = SCAN_S) -> None:
        """Start the fewest, spread over the nodes, and wait for them, but not where they follow nodes.

        Those that another process has left running are taken over.

        Raises InvalidParameter for a cluster that is not on Ray or has fewer GPUs, or where an actor's onnxruntime
        has no CUDA; MissingExtra where it has no onnxruntime; ClusterNotReady if one does not start.
        """
        if cluster.ray is None:
            raise InvalidParameter("embedders run on Ray: open the home with runtime='ray'")
        self._cluster, self._ray, self._options = cluster, cluster.ray, options
        self._check()
        self._scan_s = scan_s
        self._actors = self._left_running()
        self._revision = revision_of(
            sorted(kept_settings(cluster.settings).items()), options.gpus, options.follows_nodes
        )
        self._made: set[int] = set()
        self._closing: dict[int, tuple[Actor, Pending, float]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._demand = Demand(options.fewest, options.most, now=time.monotonic(), current=len(self._actors))
        self.scan(0)
        if not options.follows_nodes:
            self._wait_open()

    @property
    def actors(self) -> list[Actor]:
        """Those there are, oldest first, some of which may wait for a node."""
        return [self._actors[number] for number in sorted(self._actors)]

    @property
    def names(self) -> tuple[ActorName, ...]:
        """By which gateways find them."""
        return tuple(actor.where for actor in self.actors)

    def pids(self) -> list[int]:
        """Process ids; HostUnavailable."""
        return [actor.call("health", group=HEALTH, timeout_s=START_S) for actor in self.actors]

    def follow(self, images: Callable[[], int]) -> None:
        """Start and end actors by how many images wait or are under way, from now on."""
        self._thread = threading.Thread(target=self._scan_on, args=(images,), name="facegrid-embedders", daemon=True)
        self._thread.start()
        self._ray.before_close(self.close)

    def close(self) -> None:
        """Look after them no more; they go on. Idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def scan(self, images: int) -> None:
        """Look at actors and demand once, with so many images waiting or under way; start and end some."""
        now = time.monotonic()
        wanted = self._demand.wanted(images, now)
        for number, (actor, closing, until) in list(self._closing.items()):
            if closing.has_ended(0.0) or now > until:
                del self._closing[number]
                self._ray.end(actor)
        states = self._states()
        surplus = len(self._actors) - wanted
        if surplus > 0:
            for number in sorted(self._actors, key=lambda number: (states[number] is not None, -number))[:surplus]:
                _LOG.info("%s is not needed any more", self._actors[number].title)
                self._begin_close(number)
        elif not self._closing:
            self._replace_one(states)
        for _ in range(wanted - len(self._actors)):
            self._spawn()

    def _states(self) -> dict[int, EmbedderState | None]:
        """What each says of itself; None for one that has no node, or does not answer."""
        asked = {number: actor.begin("state", group=HEALTH) for number, actor in self._actors.items()}
        until = time.monotonic() + ANSWER_S
        found: dict[int, EmbedderState | None] = {}
        for number, pending in asked.items():
            try:
                found[number] = pending.result(max(0.0, until - time.monotonic()))
            except FacegridError:
                found[number] = None
        return found

    def _replace_one(self, states: Mapping[int, EmbedderState | None]) -> None:
        """End an actor of another version or other settings that was taken over: one while all others answer."""
        for number, state in states.items():
            if state is None or number in self._made:
                continue
            if (state.version, state.revision) != (installed_version(), self._revision) and None not in states.values():
                _LOG.warning(
                    "%s is of another version, or has other settings: it is replaced", numbered_title(EMBEDDER, number)
                )
                self._begin_close(number)
                return

    def _begin_close(self, number: int) -> None:
        actor = self._actors.pop(number)
        self._closing[number] = actor, actor.begin("close"), time.monotonic() + CLOSE_S

    def _left_running(self) -> dict[int, Actor]:
        """Those of a process that had the home open before, which are taken over."""
        found = {}
        for number, where in numbered(self._ray.running(), EMBEDDER):
            with contextlib.suppress(HostUnavailable):
                found[number] = Actor.find(where)
        return found

    def _check(self) -> None:
        given = self._options
        if given.fewest < 0 or given.most < given.fewest:
            raise InvalidParameter(f"embedders: expected from 0 to as many or more, got {given.fewest} to {given.most}")
        if given.gpus < 0 or (given.gpus > 1 and given.gpus != int(given.gpus)):
            raise InvalidParameter(
                f"embedders: expected a part of a GPU or whole ones for each, got {given.fewest} with {given.gpus:g}"
            )
        offered = sum(node.resources.get("GPU", 0.0) for node in self._ray.nodes())
        if given.fewest * given.gpus > offered and not given.follows_nodes:
            raise InvalidParameter(
                f"{given.fewest} embedders with {given.gpus:g} GPUs each: the Ray cluster offers {offered:g} GPUs"
            )

    def _spawn(self) -> None:
        number = next(free for free in itertools.count() if free not in self._actors and free not in self._closing)
        given = self._options
        self._actors[number] = self._ray.spawn(
            EmbedderProcess,
            (kept_settings(self._cluster.settings), "cuda" if given.gpus else "cpu", self._revision),
            title=numbered_title(EMBEDDER, number),
            resources={EMBEDDER_RESOURCE: 1.0} if given.follows_nodes else None,
            gpus=given.gpus,
            calls=CALLS,
            is_spread=not given.follows_nodes,
        )
        self._made.add(number)
        _LOG.info("%s is started", numbered_title(EMBEDDER, number))

    def _wait_open(self) -> None:
        for pending in [actor.begin("open") for actor in self.actors]:
            try:
                pending.result(START_S)
            except HostUnavailable as error:
                raise ClusterNotReady(f"an embedder did not start: {error}") from error

    def _scan_on(self, images: Callable[[], int]) -> None:
        while not self._ended.wait(self._scan_s):
            try:
                self.scan(images())
            except FacegridError as error:
                _LOG.warning("embedders could not be looked after: %s", error)
            except Exception:  # noqa: BLE001 - a thread that has to go on: Ray raises anything while its store is away
                _LOG.exception("embedders could not be looked after")
