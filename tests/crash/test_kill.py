"""A writer killed with SIGKILL at random moments: what it was told is done is there, what it was not told is whole.

Seeded; a failure prints the seed and how to replay it. FACEGRID_TORTURE=n makes it n kills (`make torture`), and
FACEGRID_CRASH_SEED another seed than 1. The moment of a kill is drawn from the seed, but where the child is by then is
the machine's business, so a replay repeats the operations exactly and the moment about.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster
from coordinator.directories import gallery_directories
from coordinator.host import ShardHost
from coordinator.runtime import LocalRuntime
from shard.check import check_shard
from tests.crash.history import DIM, GALLERY, SHARDS, History, Operation, by_shard
from tests.faces_like import assert_exact, unit_rows

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("FACEGRID_TORTURE", "7"))
SEED = int(os.environ.get("FACEGRID_CRASH_SEED", "1"))
K = 5
MOST_LINES = 400
"""Lines to wait for an operation of some verb, which one in fifteen or so is."""


def test_what_is_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    print(f"replay: FACEGRID_TORTURE={KILLS} FACEGRID_CRASH_SEED={SEED} python -m pytest {Path(__file__).name}")
    home, history = tmp_path / "home", History()
    rng = np.random.default_rng(SEED)
    acknowledged, in_flight = 0, Counter[str]()
    overwritten = 0
    with contextlib.ExitStack() as undo:
        following = undo.enter_context(Writer())
        for kill in range(KILLS):
            # The next one imports what it needs while this one works.
            writer, following = following, undo.enter_context(Writer())
            # A burst of operations, then a moment within the next one; now and then none, while the home opens.
            lines = 0 if kill % 6 == 5 else int(rng.integers(1, 60))
            spin_s = float(rng.random() ** 2) * (0.1 if lines else 0.8)
            # A third of them within a compaction.
            verb = "erase" if kill % 3 == 1 else ""
            done, pending = writer.run_and_kill(
                home, history, first=kill * 10_000, lines=lines, verb=verb, spin_s=spin_s
            )
            for operation in done:
                overwritten += operation.verb == "enroll" and not operation.names[0].startswith(f"t{operation.seed}-")
                history.apply(operation)
            acknowledged += len(done)
            in_flight.update([pending.verb] if pending else [])
            print(f"kill {kill}: {len(done)} done, begun: {pending.to_line()[:100] if pending else 'nothing'}")
            check_home(home, history, pending)
    print(f"{acknowledged} operations acknowledged, {overwritten} of them over ids that had been deleted;")
    print(f"{len(history.templates)} templates; kills within {dict(in_flight)}")
    assert acknowledged > KILLS
    assert overwritten > 0
    assert len(history.templates) > 100


class Writer:
    """A process of `tests.crash.writer`, started ahead; it waits for its task on stdin."""

    def __init__(self) -> None:
        # One BLAS thread: many small products on two cores wait for each other otherwise.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.crash.writer"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def run_and_kill(
        self, home: Path, history: History, *, first: int, lines: int, verb: str, spin_s: float
    ) -> tuple[list[Operation], Operation | None]:
        """Let it say `lines` lines and, with a verb, begin such an operation; spin, kill it.

        Returns what it had done and what it had begun.
        """
        child = self._process
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        known = {i: kept.identity for i, kept in history.templates.items()}
        task = {"home": str(home), "seed": SEED, "first": first, "templates": known}
        child.stdin.write(json.dumps({**task, "galleries": sorted(history.galleries)}))
        child.stdin.close()
        said = [child.stdout.readline() for _ in range(lines)]
        for _ in range(MOST_LINES if verb else 0):
            said.append(child.stdout.readline())
            if said[-1].startswith("begin ") and Operation.from_line(said[-1][6:]).verb == verb:
                break
        until = time.perf_counter() + spin_s
        while time.perf_counter() < until:
            pass
        alive = child.poll() is None
        child.kill()
        said += child.stdout.readlines()
        assert alive, f"the writer ended by itself: {child.stderr.read()}"
        child.wait()
        return parse(said)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(ValueError):  # communicate after stdin was closed by hand
            self._process.communicate()


def parse(said: list[str]) -> tuple[list[Operation], Operation | None]:
    """Acknowledged operations, and the one that was begun and not acknowledged."""
    begun = [Operation.from_line(line[6:]) for line in said if line.startswith("begin ") and line.endswith("\n")]
    done = sum(line == "done\n" for line in said)
    assert len(begun) - done in (0, 1)
    return begun[:done], begun[done] if len(begun) > done else None


def check_home(home: Path, history: History, pending: Operation | None) -> None:
    """Reopen as a user would, take over what was in flight, and compare everything with the history."""
    with Cluster.open(home) as grid:
        check_galleries(home, grid, history, pending)
        if GALLERY not in history.galleries:
            return
        gallery = grid.gallery(GALLERY)
        stored = read_shards(grid, gallery._route.gallery_id)
        if pending is not None:
            history.adopt(pending, set(stored))
        check_templates(stored, history)
        assert len(gallery) == len(history.templates)
        if history.is_erased:
            held = [(r.shard, r.dead_rows) for r in gallery.erasure_report() if r.dead_rows or r.holds_labels]
            assert not held, f"after an erasure, shards and deleted rows that are in their files: {held}"
        names = list(history.templates)[:: max(1, len(history.templates) // 300)]
        found = {t.template_id: (t.identity, t.metadata) for t in gallery.templates(names)}
        assert found == {i: history.templates[i][1:] for i in names}
        if history.templates:
            check_searches(grid, history)


def check_galleries(home: Path, grid: Cluster, history: History, pending: Operation | None) -> None:
    """The galleries are those acknowledged, give or take the one in flight; no directory is left of another."""
    galleries = {gallery.name: gallery._route.gallery_id for gallery in grid.galleries()}
    doubt = set(pending.names) if pending and pending.verb in ("create", "drop") else set()
    assert set(galleries) - doubt == history.galleries - doubt
    history.galleries = set(galleries)
    assert set(gallery_directories(home / "hosts" / "host-0")) == set(galleries.values())


def host_of(grid: Cluster) -> ShardHost:
    """The one host of a local home."""
    assert isinstance(grid.runtime, LocalRuntime)
    return grid.runtime._host("host-0")


def read_shards(grid: Cluster, gallery_id: str) -> dict[str, tuple[int, bytes, str | None]]:
    """Template id to its shard, its float bytes and its identity, as the files have them."""
    stored: dict[str, tuple[int, bytes, str | None]] = {}
    for number, shard in enumerate(replica.shard for replica in host_of(grid).replicas(gallery_id, range(SHARDS))):
        assert check_shard(shard) == []
        labels = shard.labels(range(shard.index.rows))
        floats = shard.index.gather(np.array(list(labels), dtype=np.int64))
        for (template_id, identity), row in zip(labels.values(), floats, strict=True):
            assert template_id not in stored, f"{template_id} is in shards {stored[template_id][0]} and {number}"
            stored[template_id] = (number, row.tobytes(), identity)
    return stored


def check_templates(stored: dict[str, tuple[int, bytes, str | None]], history: History) -> None:
    lost, extra = history.templates.keys() - stored.keys(), stored.keys() - history.templates.keys()
    assert not lost, f"{len(lost)} acknowledged templates are lost, such as {min(lost)}"
    assert not extra, f"{len(extra)} templates are there that should not be, such as {min(extra)}"
    for shard, ids in by_shard(history.templates).items():
        for template_id in ids:
            kept = history.templates[template_id]
            assert stored[template_id] == (shard, kept.floats, kept.identity), template_id


def check_searches(grid: Cluster, history: History) -> None:
    """Exact lists equal the oracle's; approximate ones hold true scores, and find a template by itself."""
    ids = list(history.templates)
    rows = np.frombuffer(b"".join(kept.floats for kept in history.templates.values()), np.float32).reshape(-1, DIM)
    own = np.arange(0, len(ids), max(1, len(ids) // 40))
    probes = np.concatenate([unit_rows(20, DIM, seed=len(ids)), rows[own]])
    exact = grid.gallery(GALLERY).search(probes, k=K, exact=True)
    assert_exact(exact.template_ids, ids, rows, probes, K)
    fast = grid.gallery(GALLERY).search(probes, k=K)
    at = {template_id: row for row, template_id in enumerate(ids)}
    for probe, names, scores in zip(probes, fast.template_ids, fast.scores, strict=True):
        true = rows[[at[name] for name in names]].astype(np.float64) @ probe.astype(np.float64)
        np.testing.assert_allclose(scores[: len(names)], true, atol=1e-5)
    assert [names[0] for names in fast.template_ids[20:]] == [ids[i] for i in own]


@pytest.mark.parametrize(
    ("said", "done", "pending"),
    [
        ([], 0, None),
        (['begin {"verb":"flush","names":[],"identities":[],"seed":0}\n'], 0, "flush"),
        (['begin {"verb":"flush","names":[],"identities":[],"seed":0}\n', "done\n"], 1, None),
        (['begin {"verb":"flush","names":[],"identities":[],"seed":0}\n', "don"], 0, "flush"),
    ],
)
def test_lines_of_a_killed_writer(said: list[str], done: int, pending: str | None) -> None:
    acknowledged, begun = parse(said)
    assert (len(acknowledged), begun.verb if begun else None) == (done, pending)
