"""The service on Ray: gateway actors beside the shard hosts of a home that this process has open.

Where nodes offer the resource `facegrid_gateway`, there is an actor for each of it, which takes it; nodes may come and
go. Otherwise there are as many as were asked for, on nodes that are chosen once, which share a port.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace

from cluster.api import Cluster
from cluster.config import kept_settings
from cluster.service.actor_group import SCAN_S, ActorGroup, Member
from cluster.service.gateway_plan import SeenGateway, plan_gateways
from cluster.service.process import START_S, GatewayOptions, GatewayProcess, GatewayState
from coordinator.actor_names import GATEWAY, GATEWAY_RESOURCE
from coordinator.actors import HEALTH, Actor
from coordinator.kept import revision_of
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter

FIRST_S = 30.0
"""How long gateways that follow nodes are waited for at the start."""
QUIET_S, LEAVE_S = 2.0, 60.0
"""A gateway that is replaced leaves when nobody has asked it for so long; at the latest after the other."""
log = logging.getLogger(__name__)


def offers_gateways(cluster: Cluster) -> bool:
    """Whether a node of the cluster's Ray offers to run gateways."""
    return cluster.ray is not None and any(GATEWAY_RESOURCE in node.resources for node in cluster.ray.nodes())


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
        self._group: ActorGroup[GatewayState] = ActorGroup(cluster.ray, GATEWAY, self._options.revision)
        self._ask()
        if options.gateways is None:
            self.scan()
        else:
            self._start_fixed(options.gateways)
        self._wait_listening()
        self._group.look_after(self.scan, scan_s)

    @property
    def actors(self) -> list[Actor]:
        """Those there are, oldest first."""
        return [one.actor for one in self._group.members]

    def states(self) -> list[GatewayState]:
        """What each said last, of those that answer."""
        return [said for one in self._group.members if (said := one.says) is not None]

    @property
    def urls(self) -> list[str]:
        """Where they serve."""
        return sorted({state.url for state in self.states() if state.url is not None and not state.is_leaving})

    def photos(self) -> int:
        """Images that wait for their faces, or are under way, at all of them."""
        return sum(state.photos for state in self.states())

    def close(self) -> None:
        """Look after them no more; they go on. Idempotent."""
        self._group.close()

    def scan(self) -> None:
        """Look at nodes and gateways once, and do what is to be done. FacegridError if the control store is away."""
        self._ask()
        members = {one.number: one for one in self._group.members}
        seats = len(members)
        if self._options.gateways is None:
            seats = sum(int(node.resources.get(GATEWAY_RESOURCE, 0)) for node in self._ray.nodes())
        plan = plan_gateways(seats, [self._seen(one) for one in members.values()])
        for number in plan.end:
            log.warning("%s has no node any more", members[number].actor.title)
            self._group.end(members[number])
        self._replace(None if plan.replace is None else members[plan.replace])
        for _ in range(plan.start):
            self._spawn(None)
        for one in self._group.members:
            if one.says is not None:
                one.actor.begin("share_rates", plan.serving, group=HEALTH)

    def _start_fixed(self, count: int) -> None:
        nodes = self._ray.nodes()
        chosen = [node for node in nodes if GATEWAY_RESOURCE in node.resources] or nodes
        for one in self._group.members:
            if one.number >= count or (one.says is not None and one.says.is_replaced):
                with contextlib.suppress(HostUnavailable):
                    one.actor.call("close", timeout_s=START_S)
                self._group.end(one)
        for number in sorted(set(range(count)) - {one.number for one in self._group.members}):
            self._spawn(chosen[number % len(chosen)].node_id)

    def _spawn(self, node_id: str | None) -> None:
        """On a node that was chosen, or on any that offers to run one."""
        args = (kept_settings(self._cluster.settings), self._cluster.attachment(), self._options)
        resources = {GATEWAY_RESOURCE: 1.0} if node_id is None else None
        self._group.start(
            lambda title: self._ray.spawn(GatewayProcess, args, title=title, resources=resources, node_id=node_id)
        )

    def _ask(self) -> None:
        before = {one.number: one.said.error for one in self._group.members if one.said is not None}
        self._group.ask()
        for one in self._group.members:
            if one.says is not None and one.says.error not in (None, before.get(one.number)):
                log.warning("%s does not serve: %s", one.actor.title, one.says.error)

    def _seen(self, one: Member[GatewayState]) -> SeenGateway:
        silent_s = 0.0 if one.silent_since is None else max(1e-9, time.monotonic() - one.silent_since)
        return SeenGateway(
            one.number,
            silent_s,
            is_ready=one.says is not None and one.says.is_ready,
            is_leaving=one.says is not None and one.says.is_leaving,
            is_current=not self._group.is_outdated(one),
            is_replaced=one.said is not None and one.said.is_replaced,
        )

    def _replace(self, outdated: Member[GatewayState] | None) -> None:
        """Begin to replace one, or go on with it: when it has left, it ends, and another one has its place."""
        if any(one.going is not None for one in self._group.members):
            for gone in self._group.end_gone():
                assert gone.said is not None, "it said that it is another"
                self._spawn(None if self._options.gateways is None else gone.said.node_id)
        elif outdated is not None:
            self._group.replace(outdated, "leave", QUIET_S, LEAVE_S, True, limit_s=LEAVE_S + START_S)

    def _wait_listening(self) -> None:
        """Wait until each listens. ClusterNotReady with what keeps one from it, where they do not follow nodes."""
        is_fixed = self._options.gateways is not None
        until = time.monotonic() + (2 * START_S if is_fixed else FIRST_S)
        opening = [actor.begin("open") for actor in self.actors]
        for pending in opening:
            try:
                pending.result(max(0.0, until - time.monotonic()))
            except FacegridError as error:
                if is_fixed:
                    raise ClusterNotReady(f"a gateway did not start: {error}") from error
                log.warning("a gateway does not serve yet: %s", error)
        self._ask()


def _revision(cluster: Cluster, options: GatewayOptions) -> str:
    """A digest of what a gateway is started with, but for the actors that it looks for, and how many it is one of."""
    is_fixed = options.gateways is not None
    options = replace(options, gateways=None, revision="")
    return revision_of(sorted(kept_settings(cluster.settings).items()), options, is_fixed)
