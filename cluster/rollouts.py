"""A training that tells how far it is: the coordinator works in a thread, and this one asks it."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

from cluster.progress import Tell
from coordinator.types import TrainReport

if TYPE_CHECKING:
    from cluster.api import Cluster

_ASK_EVERY_S = 0.2


def train(cluster: Cluster, name: str, tell: Tell | None) -> TrainReport:
    """Train a gallery; tells replicas prepared and activated, of twice the replicas there are. Raises as `train` does.

    Sampling and fitting come before that, and take a few seconds in which there is nothing to tell.
    """
    if tell is None:
        return cluster.coordinator.train(name)
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="facegrid-train") as pool:
        training = pool.submit(cluster.coordinator.train, name)
        while not concurrent.futures.wait([training], timeout=_ASK_EVERY_S).done:
            for status in cluster.coordinator.rollouts():
                if status.gallery == name and status.state in ("preparing", "activating"):
                    tell(status.prepared + status.activated, 2 * status.replicas)
        return training.result()
