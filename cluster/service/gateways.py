"""The service on Ray: gateway actors beside the shard hosts of a home that this process has open.

Where nodes offer the resource `facegrid_gateway`, there is an actor for each of it, which takes it; nodes may come and
go. Otherwise there are as many as were asked for, on nodes that are chosen once, which share a port.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from dataclasses import dataclass, replace

from cluster.api import Cluster
from cluster.config import kept_settings
from cluster.service.gateway_plan import SeenGateway, plan_gateways
from cluster.service.process import START_S, GatewayOptions, GatewayProcess, GatewayState
from coordinator.actor_names import GATEWAY, GATEWAY_RESOURCE, numbered_title
from coordinator.actors import HEALTH, Actor, Pending, numbered
from coordinator.kept import installed_version, revision_of
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter

SCAN_S = 2.0
"""Pause between two looks at nodes and gateways."""
ANSWER_S = 2.0
"""How long gateways may take to say how they are."""
FIRST_S = 30.0
"""How long gateways that follow nodes are waited for at the start."""
QUIET_S, LEAVE_S = 2.0, 60.0
"""A gateway that is replaced leaves when nobody has asked it for so long; at the latest after the other."""
log = logging.getLogger(__name__)


def offers_gateways(cluster: Cluster) -> bool:
    """Whether a node of the cluster's Ray offers to run gateways."""
    return cluster.ray is not None and any(GATEWAY_RESOURCE in node.resources for node in cluster.ray.nodes())


@dataclass(slots=True)
class _Known:
    """An actor of this home's. state: what it said last; silent_since: monotonic, None while it answers."""

    actor: Actor
    silent_since: float | None
    state: GatewayState | None = None


class Gateways:
    """Gateway actors of an open home. They end when its cluster is closed, unless they are detached."""

    def __init__(self, cluster: Cluster, options: GatewayOptions, *, scan_s: float = SCAN_S) -> None:
        """Start `options.gateways` of them and wait until each listens; or, if None, keep one on each node that offers
        to run one, and wait a little for those that are there now. There may be none yet. Gateways that another process
        has left running are taken over.

        Raises InvalidParameter for a cluster that is not on Ray, or port 0 for several gateways; ClusterNotReady if
        one does not start.
        """
        if cluster.ray is None:
            raise InvalidParameter("gateways run on Ray: open the home with runtime='ray'")
        if (options.gateways or 0) > 1 and options.listen.port == 0:
            raise InvalidParameter("port: expected one that the gateways share, got 0")
        self._ray, self._cluster = cluster.ray, cluster
        self._options = replace(options, revision=_revision(cluster, options))
        self._scan_s = scan_s
        self._known: dict[int, _Known] = {}
        self._made: set[int] = set()
        self._replacing: tuple[int, Pending, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scan_on, name="facegrid-gateways", daemon=True)
        self._take_over()
        if options.gateways is None:
            self.scan()
        else:
            self._start_fixed(options.gateways)
        self._wait_listening()
        self._thread.start()
        self._ray.before_close(self.close)

    @property
    def actors(self) -> list[Actor]:
        """Those there are, oldest first."""
        return [self._known[number].actor for number in sorted(self._known)]

    def states(self) -> list[GatewayState]:
        """What each said last, of those that answer."""
        known = sorted(self._known.items())
        return [one.state for _, one in known if one.state is not None and one.silent_since is None]

    @property
    def urls(self) -> list[str]:
        """Where they serve."""
        return sorted({state.url for state in self.states() if state.url is not None and not state.is_leaving})

    def photos(self) -> int:
        """Images that wait for their faces, or are under way, at all of them."""
        return sum(state.photos for state in self.states())

    def close(self) -> None:
        """Look after them no more; they go on. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def scan(self) -> None:
        """Look at nodes and gateways once, and do what is to be done. FacegridError if the control store is away."""
        self._ask()
        now = time.monotonic()
        seen = [_seen(number, one, self._options.revision, now) for number, one in self._known.items()]
        seats = len(self._known)
        if self._options.gateways is None:
            seats = sum(int(node.resources.get(GATEWAY_RESOURCE, 0)) for node in self._ray.nodes())
        plan = plan_gateways(seats, seen, self._made)
        for number in plan.end:
            log.warning("%s has no node any more", self._known[number].actor.title)
            self._end(number)
        self._replace(plan.replace)
        for _ in range(plan.start):
            self._spawn(None)
        for one in self._known.values():
            if one.silent_since is None:
                one.actor.begin("share_rates", plan.serving, group=HEALTH)

    def _take_over(self) -> None:
        for number, where in numbered(self._ray.running(), GATEWAY):
            with contextlib.suppress(HostUnavailable):
                self._known[number] = _Known(Actor.find(where), time.monotonic())
        self._ask()

    def _start_fixed(self, count: int) -> None:
        nodes = self._ray.nodes()
        chosen = [node for node in nodes if GATEWAY_RESOURCE in node.resources] or nodes
        for number in [number for number in self._known if number >= count]:
            with contextlib.suppress(HostUnavailable):
                self._known[number].actor.call("close", timeout_s=START_S)
            self._end(number)
        for number in range(count):
            if number not in self._known:
                self._spawn(chosen[number % len(chosen)].node_id)

    def _spawn(self, node_id: str | None) -> None:
        """On a node that was chosen, or on any that offers to run one."""
        number = next(free for free in itertools.count() if free not in self._known)
        actor = self._ray.spawn(
            GatewayProcess,
            (kept_settings(self._cluster.settings), self._cluster.attachment(), self._options),
            title=numbered_title(GATEWAY, number),
            resources={GATEWAY_RESOURCE: 1.0} if node_id is None else None,
            node_id=node_id,
        )
        self._known[number] = _Known(actor, time.monotonic())
        self._made.add(number)

    def _ask(self) -> None:
        """Have each say how it is; what is known of those that do not stays as it was."""
        asked = {number: one.actor.begin("state", group=HEALTH) for number, one in self._known.items()}
        until = time.monotonic() + ANSWER_S
        for number, pending in asked.items():
            one = self._known[number]
            before = one.state
            try:
                one.state = pending.result(max(0.0, until - time.monotonic()))
                one.silent_since = None
                if one.state.error is not None and (before is None or before.error != one.state.error):
                    log.warning("%s does not serve: %s", one.actor.title, one.state.error)
            except FacegridError:
                if one.silent_since is None:
                    one.silent_since = time.monotonic()
                    log.warning("%s does not answer", one.actor.title)

    def _replace(self, number: int | None) -> None:
        """Begin to replace one, or go on with it: when it has left, it ends, and another one has its place."""
        if self._replacing is None:
            if number is not None:
                log.warning(
                    "%s is of another version, or has other settings: it is replaced", numbered_title(GATEWAY, number)
                )
                leaving = self._known[number].actor.begin("leave", QUIET_S, LEAVE_S)
                self._replacing = number, leaving, time.monotonic() + LEAVE_S + START_S
            return
        number, leaving, until = self._replacing
        if number not in self._known:
            self._replacing = None
        elif leaving.has_ended(0.0) or time.monotonic() > until:
            self._replacing = None
            state = self._known[number].state
            assert state is not None, "it said that it is another"
            self._end(number)
            self._spawn(None if self._options.gateways is None else state.node_id)

    def _end(self, number: int) -> None:
        self._ray.end(self._known.pop(number).actor)

    def _wait_listening(self) -> None:
        """Wait until each listens. ClusterNotReady with what keeps one from it, where they do not follow nodes."""
        is_fixed = self._options.gateways is not None
        until = time.monotonic() + (2 * START_S if is_fixed else FIRST_S)
        opening = [one.actor.begin("open") for one in self._known.values()]
        for pending in opening:
            try:
                pending.result(max(0.0, until - time.monotonic()))
            except FacegridError as error:
                if is_fixed:
                    raise ClusterNotReady(f"a gateway did not start: {error}") from error
                log.warning("a gateway does not serve yet: %s", error)
        self._ask()

    def _scan_on(self) -> None:
        while not self._ended.wait(self._scan_s):
            try:
                self.scan()
            except Exception:  # the boundary of a thread that has to go on: Ray raises anything while its store is away
                log.exception("gateways could not be looked after")


def _seen(number: int, one: _Known, revision: str, now: float) -> SeenGateway:
    state = one.state
    silent_s = 0.0 if one.silent_since is None else max(1e-9, now - one.silent_since)
    if state is None:
        return SeenGateway(number, silent_s)
    return SeenGateway(
        number,
        silent_s,
        is_ready=state.is_ready and not silent_s,
        is_leaving=state.is_leaving and not silent_s,
        is_current=(state.version, state.revision) == (installed_version(), revision),
    )


def _revision(cluster: Cluster, options: GatewayOptions) -> str:
    """A digest of what a gateway is started with, but for the actors that it looks for, and how many it is one of."""
    is_fixed = options.gateways is not None
    options = replace(options, gateways=None, revision="")
    return revision_of(sorted(kept_settings(cluster.settings).items()), options, is_fixed)
