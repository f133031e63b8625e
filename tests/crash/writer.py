"""The process that is killed: carries out a seeded plan on a real home, and says on a pipe what it begins and has done.

Its task comes as JSON on stdin: home, seed, number of the first operation, and the history so far. Each line on
stdout is `begin <operation>` or `done`; `done` is written after the call returned, so what it follows is acknowledged.
Segments are small, so that they fill and are sealed all the time.
"""

from __future__ import annotations

import json
import os
import sys

import shard.tail
from cluster import Cluster
from tests.crash.history import CODE_BITS, DIM, GALLERY, SEGMENT_ROWS, SHARDS, History, Kept, Operation, Plan


def main() -> None:
    shard.tail.segment_capacity = lambda _dim: SEGMENT_ROWS  # stored in the manifest with each segment
    task = json.load(sys.stdin)
    templates = {i: Kept(b"", identity, None) for i, identity in task["templates"].items()}
    history = History(templates, set(task["galleries"]))
    plan = Plan(task["seed"], task["first"])
    with Cluster.open(task["home"]) as grid:
        while True:
            operation = plan.next(history)
            _say(f"begin {operation.to_line()}")
            carry_out(grid, operation)
            _say("done")
            history.apply(operation)


def carry_out(grid: Cluster, operation: Operation) -> None:
    """Call what a user would call."""
    if operation.verb == "create":
        grid.gallery(operation.names[0], create=True, shards=SHARDS, dim=DIM, code_bits=CODE_BITS)
        return
    if operation.verb == "drop":
        for name in operation.names:
            grid.drop(name)
        return
    gallery = grid.gallery(GALLERY)
    if operation.verb == "enroll":
        ids, people = operation.names, operation.identities
        gallery.enroll(operation.rows(), template_ids=ids, identities=people, metadata=operation.metadata())
    elif operation.verb == "delete":
        gallery.delete(template_ids=operation.names)
    elif operation.verb == "forget":
        gallery.delete(identities=operation.names)
    elif operation.verb == "flush":
        gallery.flush()
    elif operation.verb == "erase":
        gallery.erase()
    else:
        gallery.train()


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()
