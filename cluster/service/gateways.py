"""The service on Ray: gateway actors beside the shard hosts of a home that this process has open."""

from __future__ import annotations

from cluster.api import Cluster
from cluster.service.process import START_S, GatewayOptions, GatewayProcess
from coordinator.actors import Actor
from shard.errors import ClusterNotReady, FacegridError, InvalidParameter

RESOURCE = "facegrid_gateway"
"""Nodes that offer this resource get the gateways; all nodes do where none offers it."""


class Gateways:
    """Gateway actors of an open home. They end when its cluster is closed."""

    def __init__(self, cluster: Cluster, options: GatewayOptions) -> None:
        """Start `options.gateways` of them, spread over the nodes, and wait until each listens.

        Raises InvalidParameter for a cluster that is not on Ray, or port 0 for several gateways; ClusterNotReady if
        one does not start.
        """
        if cluster.ray is None:
            raise InvalidParameter("gateways run on Ray: open the home with runtime='ray'")
        if options.gateways > 1 and options.listen.port == 0:
            raise InvalidParameter("port: expected one that the gateways share, got 0")
        nodes = cluster.ray.nodes()
        chosen = [node for node in nodes if RESOURCE in node.resources] or nodes
        attachment = cluster.attachment()
        self._actors: list[Actor] = [
            cluster.ray.spawn(
                GatewayProcess,
                (cluster.settings, attachment, options),
                title=f"gateway {number}",
                node_id=chosen[number % len(chosen)].node_id,
            )
            for number in range(options.gateways)
        ]
        self.addresses = [self._opened(actor) for actor in self._actors]
        """(address, port) of each."""

    def _opened(self, actor: Actor) -> tuple[str, int]:
        try:
            address: tuple[str, int] = actor.call("open", timeout_s=2 * START_S)
        except FacegridError as error:
            raise ClusterNotReady(f"{actor.title} did not start: {error}") from error
        return address
