"""The embedder actors of an open home: as many as the images that wait ask for, between a fewest and a most.

Where they follow the nodes, each takes one `facegrid_embedder` of a node that offers it, and waits for a node until
there is one: an autoscaler of Ray sees that, and starts nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.api import Cluster
from cluster.config import kept_settings
from cluster.service.actor_group import SCAN_S, ActorGroup, Member
from cluster.service.embedder_plan import Demand
from cluster.service.embedders import CALLS, EmbedderProcess, EmbedderState
from coordinator.actor_names import EMBEDDER, EMBEDDER_RESOURCE
from coordinator.actors import HEALTH, Actor, ActorName
from coordinator.kept import revision_of
from shard.errors import ClusterNotReady, HostUnavailable, InvalidParameter

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
        revision = revision_of(sorted(kept_settings(cluster.settings).items()), options.gpus, options.follows_nodes)
        self._group: ActorGroup[EmbedderState] = ActorGroup(cluster.ray, EMBEDDER, revision)
        self._demand = Demand(options.fewest, options.most, now=time.monotonic(), current=len(self.actors))
        self.scan(0)
        if not options.follows_nodes:
            self._wait_open()

    @property
    def actors(self) -> list[Actor]:
        """Those there are, oldest first, some of which may wait for a node; without those that are about to end."""
        return [one.actor for one in self._staying()]

    @property
    def names(self) -> tuple[ActorName, ...]:
        """By which gateways find them."""
        return tuple(actor.where for actor in self.actors)

    def pids(self) -> list[int]:
        """Process ids; HostUnavailable."""
        return [actor.call("health", group=HEALTH, timeout_s=START_S) for actor in self.actors]

    def follow(self, images: Callable[[], int]) -> None:
        """Start and end actors by how many images wait or are under way, from now on."""
        self._group.look_after(lambda: self.scan(images()), self._scan_s)

    def close(self) -> None:
        """Look after them no more; they go on. Idempotent."""
        self._group.close()

    def scan(self, images: int) -> None:
        """Look at actors and demand once, with so many images waiting or under way; start and end some."""
        wanted = self._demand.wanted(images, time.monotonic())
        self._group.end_gone()
        self._group.ask()
        for one in self._staying():
            if one.says is not None and one.says.is_closed:  # by a process that did not live to end it
                self._group.end(one)
        staying = self._staying()
        surplus = len(staying) - wanted
        if surplus > 0:
            for one in sorted(staying, key=lambda one: (one.says is not None, -one.number))[:surplus]:
                _LOG.info("%s is not needed any more", one.actor.title)
                self._group.let_go(one, "close", limit_s=CLOSE_S)
        elif len(staying) == len(self._group.members):
            self._replace_one(staying)
        for _ in range(wanted - len(self._staying())):
            self._spawn()

    def _staying(self) -> list[Member[EmbedderState]]:
        return [one for one in self._group.members if one.going is None]

    def _replace_one(self, members: Sequence[Member[EmbedderState]]) -> None:
        """Let an outdated one go: one at a time, and only while all of them answer that do not wait for a node."""
        outdated = [one for one in members if self._group.is_outdated(one)]
        if outdated and all(one.says is not None or _waits(one) for one in members):
            self._group.replace(outdated[0], "close", limit_s=CLOSE_S)

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
        given = self._options
        args = (kept_settings(self._cluster.settings), "cuda" if given.gpus else "cpu", self._group.revision)
        started = self._group.start(
            lambda title: self._ray.spawn(
                EmbedderProcess,
                args,
                title=title,
                resources={EMBEDDER_RESOURCE: 1.0} if given.follows_nodes else None,
                gpus=given.gpus,
                calls=CALLS,
                is_spread=not given.follows_nodes,
            )
        )
        _LOG.info("%s is started", started.actor.title)

    def _wait_open(self) -> None:
        for pending in [actor.begin("open") for actor in self.actors]:
            try:
                pending.result(START_S)
            except HostUnavailable as error:
                raise ClusterNotReady(f"an embedder did not start: {error}") from error


def _waits(one: Member[EmbedderState]) -> bool:
    """Whether it has not begun yet, for so long that it must wait for a node."""
    return one.said is None and one.silent_since is not None and time.monotonic() - one.silent_since > START_S
