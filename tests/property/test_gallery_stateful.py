"""A replicated gallery against a dict: random operations of a user and of an operator, every answer compared.

A home of three hosts in this process, three shards, two replicas of each: enrolled, deleted, searched, erased, trained,
reopened, with hosts drained meanwhile. `assert_gallery_is` holds any gallery against the dict, floats and replicas too.

Hypothesis prints the failing steps as a program. FACEGRID_TORTURE makes it 30 times as many runs of longer programs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster import Cluster
from cluster.gallery import Gallery
from cluster.results import EnrollResult, Template
from coordinator.coordinator import Coordinator
from coordinator.placement import shards_of
from coordinator.runtime import LocalRuntime
from coordinator.types import ReplicaErasure
from shard import compaction, tail
from shard.check import check_shard
from shard.errors import AlreadyExists, DuplicateTemplate, InvalidParameter, UnknownIdentity, UnknownTemplate
from shard.keys import in_listing_order
from shard.shard import Shard
from shard.training import MIN_TRAIN
from shard.types import FloatArray
from shard.validate import normalised
from tests.faces_like import assert_exact, unit_rows
from tests.replicas import assert_alike, content

DIM, SEGMENT_ROWS, K = 64, 64, 7
HOSTS, SHARDS, REPLICAS = 3, 3, 2
HOST_NAMES = [f"host-{i}" for i in range(HOSTS)]
NAME = "acme/staff"
IS_LONG = "FACEGRID_TORTURE" in os.environ
SOON_S = 60.0
"""Far longer than emptying a host takes, however slow the machine."""
# Few ids and people, so that programs meet them again.
IDS = st.integers(0, 99).map(lambda i: f"t{i}")
PEOPLE = st.sampled_from([None, "ann", "bob", "z", "ü", "𝄞"])
LABELS = st.lists(st.tuples(IDS, PEOPLE), min_size=1, max_size=60, unique_by=lambda pair: pair[0])
SEEDS = st.integers(0, 2**16)
Labels = list[tuple[str, str | None]]
IfExists = Literal["error", "skip"]


class Kept(NamedTuple):
    """One template of the dict, its floats as they are stored."""

    floats: FloatArray
    identity: str | None
    metadata: dict[str, int] | None


class GalleryMachine(RuleBasedStateMachine):
    """Every rule does the same to a `Gallery` and to `self.kept`, template id to what is stored."""

    steps = 0
    """Rules carried out, by all machines."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="facegrid-stateful-"))
        self.kept: dict[str, Kept] = {}
        self.draining: str | None = None

    @initialize(is_large=st.booleans())
    def create(self, is_large: bool) -> None:
        """A large gallery is one that can be trained, and is, in the background."""
        GalleryMachine.steps -= 1  # the invariant counts this too
        self.grid = Cluster.open(self.directory / "home", shard_hosts=HOSTS)
        self.gallery = self.grid.gallery(NAME, create=True, shards=SHARDS, replicas=REPLICAS, dim=DIM, code_bits=256)
        if is_large:
            self._enroll([(f"base{i}", f"p{i % 400}" if i % 3 else None) for i in range(MIN_TRAIN + 100)], 1, "error")

    @rule(labels=LABELS, seed=SEEDS, skip=st.booleans())
    def enroll(self, labels: Labels, seed: int, skip: bool) -> None:
        if not skip and any(template_id in self.kept for template_id, _ in labels):
            with pytest.raises(DuplicateTemplate):
                self._send(labels, seed, "error")
        else:
            self._enroll(labels, seed, "skip" if skip else "error")

    def _enroll(self, labels: Labels, seed: int, if_exists: IfExists) -> None:
        stored, result = self._send(labels, seed, if_exists)
        fresh = {i: kept for i, kept in stored.items() if i not in self.kept}
        assert (result.enrolled, result.skipped) == (len(fresh), len(labels) - len(fresh))
        self.kept.update(fresh)

    def _send(self, labels: Labels, seed: int, if_exists: IfExists) -> tuple[dict[str, Kept], EnrollResult]:
        """What it would store, and what came of it."""
        n = len(labels)
        rows = unit_rows(n, DIM, seed)
        rows[n // 2 :] = rows[: n - n // 2]  # ties, over shards too
        ids, people = [i for i, _ in labels], [person for _, person in labels]
        metadata = [{"n": seed} if i % 3 else None for i in range(n)]
        result = self.gallery.enroll(rows, template_ids=ids, identities=people, metadata=metadata, if_exists=if_exists)
        return dict(zip(ids, map(Kept, normalised(rows), people, metadata), strict=True)), result

    @rule(ids=st.lists(IDS, min_size=1, max_size=15), people=st.lists(PEOPLE.filter(bool), max_size=2))
    def delete(self, ids: list[str], people: list[str]) -> None:
        doomed = {i for i, kept in self.kept.items() if i in ids or kept.identity in people}
        assert self.gallery.delete(template_ids=ids, identities=people) == len(doomed)
        for template_id in doomed:
            del self.kept[template_id]

    @rule(template_id=IDS, n=st.none() | st.integers(0, 3))
    def update(self, template_id: str, n: int | None) -> None:
        metadata = None if n is None else {"updated": n}
        if template_id not in self.kept:
            with pytest.raises(UnknownTemplate):
                self.gallery.update(template_id, metadata)
            return
        kept = self.kept[template_id] = self.kept[template_id]._replace(metadata=metadata)
        assert self.gallery.update(template_id, metadata) == Template(template_id, kept.identity, metadata)

    @rule(old=PEOPLE.filter(bool), new=PEOPLE.filter(bool))
    def rename_identity(self, old: str, new: str) -> None:
        count = Counter(kept.identity for kept in self.kept.values())
        expected = InvalidParameter if old == new else AlreadyExists if count[new] else None
        expected = UnknownIdentity if old != new and not count[old] else expected
        if expected is not None:
            with pytest.raises(expected):
                self.gallery.rename_identity(old, new)
        else:
            assert self.gallery.rename_identity(old, new) == count[old]
            self._rename({old}, new)

    @rule(people=st.sets(PEOPLE.filter(bool), min_size=1, max_size=3), into=PEOPLE.filter(bool))
    def merge_identities(self, people: set[str], into: str) -> None:
        count = Counter(kept.identity for kept in self.kept.values())
        sources = people - {into}
        if not sources or not all(count[person] for person in sources):
            with pytest.raises((UnknownIdentity, InvalidParameter)):
                self.gallery.merge_identities(sorted(people), into)
        else:
            assert self.gallery.merge_identities(sorted(people), into) == sum(count[person] for person in sources)
            self._rename(sources, into)

    def _rename(self, sources: set[str], new: str) -> None:
        self.kept.update({i: kept._replace(identity=new) for i, kept in self.kept.items() if kept.identity in sources})

    @rule()
    def erase(self) -> None:
        self.gallery.erase()
        for replica in self.gallery_erasures():
            assert replica.is_known
            assert (replica.dead_rows, replica.holds_labels) == (0, False)

    def gallery_erasures(self) -> list[ReplicaErasure]:
        told = self.gallery.erasure_report()
        assert len(told) >= SHARDS * REPLICAS
        return told

    @rule()
    def flush(self) -> None:
        self.gallery.flush()

    @precondition(lambda self: len(self.kept) >= MIN_TRAIN)
    @rule()
    def train(self) -> None:
        assert self.gallery.train().model_id == self.gallery.stats().model_id

    @rule()
    def reopen(self) -> None:
        self.grid.close()
        self.grid = Cluster.open(self.directory / "home", shard_hosts=HOSTS)
        self.gallery = self.grid.gallery(NAME)

    # Hosts

    @precondition(lambda self: self.draining is None)
    @rule(host=st.sampled_from(HOST_NAMES))
    def drain(self, host: str) -> None:
        """Begin to empty a host; what follows meets it half done."""
        self.grid.coordinator.drain(host)
        self.draining = host

    @rule()
    def look_after_replicas(self) -> None:
        self._tick()

    @precondition(lambda self: self.draining is not None)
    @rule()
    def wait_and_undrain(self) -> None:
        assert self.draining is not None
        until = time.monotonic() + SOON_S
        while self.grid.coordinator.replicas_left(self.draining) or not self._is_whole():
            configs = self.grid.coordinator.shard_configs()
            assert time.monotonic() < until, f"{self.draining} is not empty: {configs}"
            self._tick()
        left = (self.directory / "home" / "hosts" / self.draining).glob("tenants/*/*/shard-*")
        assert not list(left)
        self.grid.coordinator.undrain(self.draining)
        self.draining = None

    def _tick(self) -> None:
        assert isinstance(self.grid.coordinator, Coordinator)
        self.grid.coordinator.replication.tick()

    def _is_whole(self) -> bool:
        return all(len(c.in_sync) == REPLICAS and not c.joining for c in self.grid.coordinator.shard_configs())

    # Reading

    @rule(seed=SEEDS, k=st.integers(1, 30))
    def search_exactly(self, seed: int, k: int) -> None:
        ids, rows, probes = *arrays(self.kept), self._probes(seed)
        found = self.gallery.search(probes, k=k, exact=True)
        assert_exact(found.template_ids, ids, rows, probes, k)
        for names, people in zip(found.template_ids, found.identities, strict=True):
            assert people == tuple(self.kept[name].identity for name in names)

    @rule(seed=SEEDS, k=st.integers(1, 12), recall=st.sampled_from([0.5, 0.9, 0.999]))
    def search_approximately(self, seed: int, k: int, recall: float) -> None:
        """Live templates, each once, with true scores; a template is found by itself, or by one of the same floats."""
        ids, rows, probes = *arrays(self.kept), self._probes(seed)
        at = {template_id: row for row, template_id in enumerate(ids)}
        found = self.gallery.search(probes, k=k, recall=recall)
        for probe, names, scores in zip(probes, found.template_ids, found.scores, strict=True):
            assert len(names) == len(set(names)) == min(k, len(ids))
            true = rows.astype(np.float64) @ probe.astype(np.float64)
            np.testing.assert_allclose(scores[: len(names)], true[[at[name] for name in names]], atol=1e-5)
            if len(ids) and true.max() > 1 - 1e-6:
                assert true[at[names[0]]] > 1 - 1e-6

    @rule(seed=SEEDS, people=st.lists(PEOPLE.filter(bool), min_size=1, max_size=3))
    def search_among(self, seed: int, people: list[str]) -> None:
        ids, rows = arrays({i: kept for i, kept in self.kept.items() if kept.identity in people})
        probes = self._probes(seed)
        found = self.gallery.search(probes, k=K, exact=True, identities=people)
        assert_exact(found.template_ids, ids, rows, probes, K)

    @rule(seed=SEEDS, n=st.integers(0, 3))
    def search_where(self, seed: int, n: int) -> None:
        ids, rows = arrays({i: kept for i, kept in self.kept.items() if (kept.metadata or {}).get("updated", 9) <= n})
        probes = self._probes(seed)
        found = self.gallery.search(probes, k=K, exact=True, where={"updated": {"lte": n}})
        assert_exact(found.template_ids, ids, rows, probes, K)

    @rule(limit=st.integers(1, 50), person=PEOPLE)
    def list_pages(self, limit: int, person: str | None) -> None:
        found, cursor = [], None
        while True:
            page = self.gallery.list(cursor=cursor, limit=max(limit, len(self.kept) // 8), identity=person)
            found += page.templates
            cursor = page.cursor
            if cursor is None:
                break
        expected = [i for i, kept in self.kept.items() if person in (None, kept.identity)]
        assert [t.template_id for t in found] == in_listing_order(expected)
        assert all((t.identity, t.metadata) == self.kept[t.template_id][1:] for t in found)

    @rule()
    def compare(self) -> None:
        assert_gallery_is(self.grid, self.gallery, self.kept)

    @invariant()
    def sizes_agree(self) -> None:
        if hasattr(self, "gallery"):
            GalleryMachine.steps += 1
            assert len(self.gallery) == len(self.kept)

    def teardown(self) -> None:
        try:
            if hasattr(self, "gallery"):
                self.compare()
        finally:
            if hasattr(self, "grid"):
                self.grid.close()
            shutil.rmtree(self.directory)

    def _probes(self, seed: int) -> FloatArray:
        """Strangers, and templates that are there."""
        stored = [kept.floats for kept in self.kept.values()][:: max(1, len(self.kept) // 5)]
        return np.stack([*unit_rows(3, DIM, seed), *stored])


def arrays(kept: dict[str, Kept]) -> tuple[list[str], FloatArray]:
    """Ids and rows (n, dim)."""
    return list(kept), np.array([one.floats for one in kept.values()], np.float32).reshape(-1, DIM)


def replicas_of(grid: Cluster, gallery: Gallery) -> list[list[Shard]]:
    """The replicas in sync of each shard of a local home's gallery, the primary first."""
    assert isinstance(grid.runtime, LocalRuntime)
    route = grid.coordinator.gallery(gallery.name)
    configs = [config for config in grid.coordinator.shard_configs() if config.gallery_id == route.gallery_id]
    return [
        [
            grid.runtime._host(host).replica(route.gallery_id, config.shard).shard
            for host in sorted(config.in_sync, key=lambda host: host != config.primary)
        ]
        for config in sorted(configs, key=lambda config: config.shard)
    ]


def assert_gallery_is(grid: Cluster, gallery: Gallery, kept: dict[str, Kept]) -> None:
    """Any gallery of a local home, of however many shards and replicas, holds exactly the templates of the dict.

    Floats to the bit, labels, metadata, identities and exact searches; each template in the shard where its identity
    is looked for; every replica like its primary.
    """
    shards = replicas_of(grid, gallery)
    where = shards_of([one.identity for one in kept.values()], list(kept), len(shards)).tolist() if kept else []
    expected = {
        i: (shard, one.floats.tobytes(), one.identity) for (i, one), shard in zip(kept.items(), where, strict=True)
    }
    found = {
        template_id: (number, floats, identity)
        for number, (primary, *_) in enumerate(shards)
        for template_id, (_, floats, identity, *_) in content(primary).items()
    }
    assert found == expected
    for primary, *others in shards:
        assert check_shard(primary) == []
        for other in others:
            assert check_shard(other) == []
            assert_alike(primary, other)
    assert len(gallery) == len(kept)
    told = {t.template_id: (t.identity, t.metadata) for t in gallery.templates(list(kept))}
    assert told == {i: (one.identity, one.metadata) for i, one in kept.items()}
    counts = Counter(one.identity for one in kept.values() if one.identity is not None)
    listed = [(entry.identity, entry.templates) for entry in gallery.identities()]
    assert listed == sorted(counts.items(), key=lambda pair: pair[0].encode())
    ids, rows = arrays(kept)
    probes = np.stack([*unit_rows(3, DIM, seed=5), *rows[:: max(1, len(rows) // 5)]])
    assert_exact(gallery.search(probes, k=K, exact=True).template_ids, ids, rows, probes, K)


def test_a_gallery_answers_as_a_dict_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "segment_capacity", lambda _dim: SEGMENT_ROWS)
    monkeypatch.setattr(compaction, "MOVE_ROWS", 20)
    run_state_machine_as_test(
        GalleryMachine,
        settings=settings(
            max_examples=150 if IS_LONG else 5,
            stateful_step_count=60 if IS_LONG else 25,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{GalleryMachine.steps:,} steps")
    assert GalleryMachine.steps > (2_000 if IS_LONG else 20)
