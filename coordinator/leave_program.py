"""What the programs have in common that a node runs before it stops: options, a session, one line of JSON.

A node that stops has little time, so this imports little, and nothing of the home.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping

from coordinator.actor_names import NAMESPACE_PREFIX
from coordinator.actors import RaySession
from shard.errors import FacegridError

TIMEOUT_S = 60.0
ANSWER_S = 5.0
"""How long the Ray cluster, or an actor that is asked something, may take to answer."""


def options_of(module: str, description: str) -> argparse.ArgumentParser:
    """The options that all of them have: the Ray cluster, and how long it may take."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--address", required=True, help="host:port of the Ray cluster")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="the longest to take, in seconds")
    return parser


def session_of(address: str, timeout_s: float) -> RaySession:
    """A session of no home's. ClusterNotReady if no Ray cluster answers at `address`, host:port."""
    return RaySession.join(address, f"{NAMESPACE_PREFIX}leaving", timeout_s=min(ANSWER_S, timeout_s))


def run(leave: Callable[[], Mapping[str, object]]) -> int:
    """Print what it gives, or its FacegridError, as one line of JSON; the exit code."""
    try:
        left = leave()
    except FacegridError as error:
        print(json.dumps({"error": {"code": error.code, "message": str(error)}}), flush=True)
        return 1
    print(json.dumps(left), flush=True)
    return 0
