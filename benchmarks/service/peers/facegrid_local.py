"""Facegrid as a library in this process: `Cluster.open`, default recall, four shards; what the in-process peers are to
be compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.service.side import found_rows, measured, task, tell
from benchmarks.service.workload import row_of, template_id
from cluster import Cluster

_ENROLL = 10_000


def main() -> None:
    """Enroll, train, search one by one and in batches."""
    given, result = task()
    with Cluster.open(given.folder / "facegrid") as grid:
        gallery = grid.gallery("bench/faces", create=True, shards=4, dim=given.rows.shape[1])
        begin = time.perf_counter()
        for first in range(0, len(given.rows), _ENROLL):
            rows = range(first, min(first + _ENROLL, len(given.rows)))
            people = [f"person-{int(given.people[row]):07d}" for row in rows]
            ids = [template_id(row) for row in rows]
            gallery.enroll(given.rows[first : first + _ENROLL], template_ids=ids, identities=people)
        grid.wait_until_idle()
        gallery.train()
        gallery.flush()
        build_s = time.perf_counter() - begin

        def many(probes: Any) -> Sequence[Sequence[int]]:
            return [[row_of(name) for name in names] for names in gallery.search(probes, k=given.k).template_ids]

        def one(probe: Any) -> Sequence[int]:
            return many(probe[None])[0]

        found = found_rows(one, given)
        tell(result, build_s=build_s, found=found, figures=measured(given, one, many), packages=["numpy"])


if __name__ == "__main__":
    main()
