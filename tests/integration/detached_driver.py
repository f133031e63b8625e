"""A process that opens a home whose actors outlive it, says who they are, and ends at SIGTERM: a driver to be killed.

python -m tests.integration.detached_driver HOME RAY_ADDRESS
"""

from __future__ import annotations

import json
import signal
import sys
import threading

from cluster.api import Cluster
from coordinator.actors import HEALTH


def main() -> None:
    """Open, print one line of JSON, wait, close."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with Cluster.open(sys.argv[1], runtime="ray", ray_address=sys.argv[2], ray_detached=True) as grid:
        assert grid.ray is not None
        actors = {**grid.ray.actors, "coordinator": grid.ray.coordinator.actor}
        print(json.dumps({name: actor.call("health", group=HEALTH) for name, actor in actors.items()}), flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
