"""A shard against a dict, and a replica of it: random operations in random order, every answer compared.

The replica is told what the shard commits, late or not at all, and then takes over what the shard has by then; whatever
it was told, it ends alike. Writes meet a disk that fails once at a random step.

Hypothesis prints the failing steps as a program. FACEGRID_TORTURE makes it 15 times as many runs of longer programs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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

from shard import catchup, compaction, failpoints, tail
from shard.catchup import changes_after
from shard.check import check_shard
from shard.compaction import compact
from shard.errors import DuplicateTemplate, StorageError, UnknownModel, WriteFailed
from shard.keys import template_keys
from shard.log import Entry
from shard.model import SearchModel
from shard.rollout import StagedIndex
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import CandidateBatch, EnrollBatch, FloatArray, SearchParams
from tests.faces_like import assert_exact, unit_rows
from tests.replicas import assert_alike, catch_up

DIM, SEGMENT_ROWS = 64, 16
IS_LONG = "FACEGRID_TORTURE" in os.environ
MODELS: dict[str, SearchModel] = {}
# Few ids and people, so that programs meet them again; "ü" and "z" because identities page in byte order of UTF-8.
IDS = st.integers(0, 79).map(lambda i: f"t{i}")
PEOPLE = st.sampled_from([None, "ann", "bob", "z", "ü", "𝄞", "ann b"])
SEEDS = st.integers(0, 2**16)
OPERATIONS = st.sampled_from([b"", *(b"operation-%d" % i for i in range(8))])
GROUP_DEADLINE_S = 60.0
Outcome = tuple[int, int, int]
"""Templates done, templates left out, LSN."""


@dataclass(frozen=True)
class Enrolling:
    """An enrollment: labels are (template id, identity)."""

    labels: list[tuple[str, str | None]]
    seed: int
    skip: bool
    operation: bytes

    def batch(self) -> EnrollBatch:
        n = len(self.labels)
        rows = unit_rows(n, DIM, self.seed)
        rows[n // 2 :] = rows[: n - n // 2]  # ties
        metadata = tuple(b'{"n":%d}' % self.seed if i % 3 else None for i in range(n))
        return EnrollBatch(rows, tuple(i for i, _ in self.labels), tuple(p for _, p in self.labels), metadata)

    def send(self, shard: Shard) -> Outcome:
        receipt = shard.enroll(self.batch(), skip_existing=self.skip, operation=self.operation)
        return receipt.enrolled, receipt.skipped, receipt.lsn


@dataclass(frozen=True)
class Deleting:
    """A deletion by ids and identities."""

    ids: list[str]
    people: list[str]
    operation: bytes

    def send(self, shard: Shard) -> Outcome:
        """The LSN is not told."""
        return shard.delete(template_ids=self.ids, identities=self.people, operation=self.operation), 0, 0


@dataclass(frozen=True)
class Amending:
    """Other metadata for ids; those in `cleared` lose theirs."""

    ids: list[str]
    cleared: set[str]
    seed: int
    operation: bytes

    def metadata(self, template_id: str) -> bytes | None:
        return None if template_id in self.cleared else b'{"amended":%d}' % self.seed

    def send(self, shard: Shard) -> Outcome:
        """The LSN is not told."""
        return shard.amend(self.ids, [self.metadata(i) for i in self.ids], operation=self.operation), 0, 0


@dataclass(frozen=True)
class Renaming:
    """Templates of an identity that get another one; all of them."""

    old: str
    new: str
    operation: bytes

    def send(self, shard: Shard) -> Outcome:
        """The LSN is not told."""
        return shard.rename(self.old, self.new, operation=self.operation), 0, 0


Writing = Enrolling | Deleting | Amending | Renaming


def enrollings(most: int) -> st.SearchStrategy[Enrolling]:
    labels = st.lists(st.tuples(IDS, PEOPLE), min_size=1, max_size=most, unique_by=lambda pair: pair[0])
    return st.builds(Enrolling, labels, SEEDS, st.booleans(), OPERATIONS)


DELETINGS = st.builds(
    Deleting, st.lists(IDS, max_size=12), st.lists(PEOPLE.filter(bool), max_size=2), OPERATIONS
)  # fmt: skip
CHANGES = st.one_of(
    st.builds(
        Amending, st.lists(IDS, max_size=12, unique=True), st.sets(IDS, max_size=4), st.integers(0, 3), OPERATIONS
    ),
    st.builds(Renaming, PEOPLE.filter(bool), PEOPLE.filter(bool), OPERATIONS),
)
FAULTS = st.tuples(
    st.sampled_from(failpoints.POINTS), st.sampled_from(["eio", "enospc"]), st.integers(1, 3)
)  # fmt: skip
"""Failpoint, error, and at which hit of it."""


def load_model(model_id: str) -> SearchModel:
    try:
        return MODELS[model_id]
    except KeyError:
        raise UnknownModel(model_id) from None


class ShardMachine(RuleBasedStateMachine):
    """Every rule does the same to a `Shard` and to `self.kept`: template id to (floats, identity, metadata).

    `self.backup` follows the shard while `self.follows`: it has carried out everything but `self.sent`.
    """

    models: tuple[SearchModel, SearchModel]
    key: bytes | None = None
    """What both are encrypted with, each with a cipher of its own."""
    steps = 0
    """Rules carried out, by all machines."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="facegrid-stateful-"))
        self.kept: dict[str, tuple[FloatArray, str | None, bytes | None]] = {}
        self.done: dict[bytes, Outcome] = {}
        self.model: SearchModel | None = None
        self.staged: StagedIndex | None = None
        self.sent: list[Entry] = []
        self.follows = True

    @initialize()
    def create(self) -> None:
        ShardMachine.steps -= 1  # the invariant counts this too
        self.shard = Shard.create(self.directory / "shard", dim=DIM, load_model=load_model, key=self.key)
        self.shard.on_commit = self.sent.extend
        self.backup = Shard.create(self.directory / "backup", dim=DIM, load_model=load_model, key=self.key)

    @rule(writing=enrollings(40))
    def enroll(self, writing: Enrolling) -> None:
        self._write(writing)

    @rule(writing=DELETINGS)
    def delete(self, writing: Deleting) -> None:
        self._write(writing)

    @rule(writing=CHANGES)
    def amend(self, writing: Amending | Renaming) -> None:
        self._write(writing)

    def _write(self, writing: Writing) -> None:
        expected = self._expected(writing, self.shard.lsn)
        if expected is None:
            with pytest.raises(DuplicateTemplate):
                writing.send(self.shard)
        else:
            assert_told(writing, writing.send(self.shard), expected)

    def _expected(self, writing: Writing, lsn: int) -> Outcome | None:
        """Do it to the dict, when `lsn` was the last; returns what has to be told, None for DuplicateTemplate."""
        if writing.operation in self.done:
            return self.done[writing.operation]
        if isinstance(writing, Enrolling):
            batch = writing.batch()
            known = self.kept.keys() & set(batch.template_ids)
            if known and not writing.skip:
                return None
            templates = zip(batch.template_ids, batch.embeddings, batch.identities, batch.metadata, strict=True)
            fresh = {i: kept for i, *kept in templates if i not in known}
            self.kept.update({i: (row, person, data) for i, (row, person, data) in fresh.items()})
            count, left_out = len(fresh), len(known)
        elif isinstance(writing, Amending | Renaming):
            return self._amended(writing, lsn)
        else:
            doomed = [i for i, (_, p, _) in self.kept.items() if i in writing.ids or p in writing.people]
            for template_id in doomed:
                del self.kept[template_id]
            count, left_out = len(doomed), 0
        outcome = count, left_out, lsn + (count > 0)
        if count and writing.operation:
            self.done[writing.operation] = outcome
        return outcome

    def _amended(self, writing: Amending | Renaming, lsn: int) -> Outcome:
        """What is as it is to be already is told and not written."""
        if isinstance(writing, Amending):
            after = {i: (*self.kept[i][:2], writing.metadata(i)) for i in writing.ids if i in self.kept}
        else:
            after = {i: (row, writing.new, data) for i, (row, p, data) in self.kept.items() if p == writing.old}
        is_written = any(self.kept[i][1:] != new[1:] for i, new in after.items())
        self.kept.update(after)
        outcome = len(after), 0, lsn + is_written
        if is_written and writing.operation:
            self.done[writing.operation] = outcome
        return outcome

    @rule(writings=st.lists(st.one_of(enrollings(10), enrollings(10), DELETINGS, CHANGES), min_size=2, max_size=5))
    def write_together(self, writings: list[Writing]) -> None:
        """Threads that wait for the same commit: as if one wrote after another, in the order they came."""
        told: dict[int, Outcome | Exception] = {}

        def send(number: int, writing: Writing) -> None:
            try:
                told[number] = writing.send(self.shard)
            except Exception as error:  # noqa: BLE001  (looked at below)
                told[number] = error

        threads = [threading.Thread(target=send, args=pair) for pair in enumerate(writings)]
        lsn = self.shard.lsn
        with self.shard.frozen():
            for waiting, thread in enumerate(threads, start=1):
                thread.start()
                wait_until(lambda waiting=waiting: len(self.shard._waiting._tickets) == waiting)
        for thread in threads:
            thread.join(GROUP_DEADLINE_S)
        for number, writing in enumerate(writings):
            expected, found = self._expected(writing, lsn), told[number]
            if expected is None:
                assert isinstance(found, DuplicateTemplate)
            else:
                assert isinstance(found, tuple), found
                assert_told(writing, found, expected)
                lsn = max(lsn, expected[2])
        assert self.shard.lsn == lsn

    @rule(writing=st.one_of(enrollings(40), DELETINGS, CHANGES), fault=FAULTS)
    def write_while_the_disk_fails(self, writing: Writing, fault: tuple[str, failpoints.Action, int]) -> None:
        """A write that failed was done or was not; repeated, it was done once."""
        number = len(self.done)
        writing = type(writing)(**{**vars(writing), "operation": b"unique-%d" % number})
        known = {i: kept[1:] for i, kept in self.kept.items()}
        lsn = self.shard.lsn
        expected = self._expected(writing, lsn)
        with failing(fault):
            try:
                told = writing.send(self.shard)
            except DuplicateTemplate:
                assert expected is None
                return
            except StorageError:
                told = None
                assert self.shard.write_error is not None
        assert expected is not None
        if self.shard.write_error is not None:
            self._recover()
        if told is None:
            after = {i: kept[1:] for i, kept in self.kept.items()}
            touched = {i for i in known.keys() | after.keys() if known.get(i) != after.get(i)}
            found = {r.template_id: (r.identity, r.metadata) for r in self.shard.records(sorted(touched))}
            expected_either = [{i: side[i] for i in touched & side.keys()} for side in (known, after)]
            assert found in expected_either, "a write is there in part"
            told = writing.send(self.shard)
        assert_told(writing, told, expected)

    @rule(fault=FAULTS, least_dead=st.sampled_from([0.0, 0.3]), flush=st.booleans())
    def tidy_while_the_disk_fails(
        self, fault: tuple[str, failpoints.Action, int], least_dead: float, flush: bool
    ) -> None:
        """Sealing and compaction change nothing that a reader sees, wherever they stop."""
        with failing(fault), contextlib.suppress(StorageError):
            if flush:
                self.shard.flush()
            else:
                compact(self.shard, least_dead=least_dead)
        if self.shard.write_error is not None:
            self._recover()

    def _recover(self) -> None:
        with pytest.raises(WriteFailed):
            self.shard.flush()
        self.shard.recover()
        # What was committed and failed then was not told to the replica.
        self.follows = False

    @rule(least_dead=st.sampled_from([0.0, 0.2, 0.7]))
    def compact(self, least_dead: float) -> None:
        compact(self.shard, least_dead=least_dead)
        state = self.shard.erasure()
        assert not state.needs_scrub
        if not least_dead:
            assert state.dead_rows == self.shard.stats().deleted == 0

    @rule()
    def begin_epoch(self) -> None:
        self.shard.take_epoch(self.shard.configured_epoch + 1, decides=True)

    # The replica

    @precondition(lambda self: self.follows)
    @rule()
    def deliver(self) -> None:
        self.backup.apply(self.sent)
        self.sent.clear()
        assert_alike(self.shard, self.backup)

    @rule()
    def cut_off(self) -> None:
        self.follows = False

    @precondition(lambda self: not self.follows)
    @rule(pieces=st.integers(1, 6))
    def catch_up(self, pieces: int) -> None:
        """A few pieces; it follows again once it has the last one."""
        for _ in range(pieces):
            changes = changes_after(self.shard, *self.backup.progress())
            self.backup.absorb(changes)
            if changes.is_last:
                self.sent.clear()
                self.follows = True
                assert_alike(self.shard, self.backup)
                return

    @rule()
    def reopen_backup(self) -> None:
        self.backup.close()
        self.backup = Shard(self.directory / "backup", load_model, key=self.key)

    def _compare_replicas(self) -> None:
        if self.follows:
            self.backup.apply(self.sent)
        else:
            catch_up(self.backup, self.shard)
        assert_alike(self.shard, self.backup)
        assert check_shard(self.backup) == []
        probes = self._probes(seed=7)
        for params in (SearchParams(k=9, exact=True), SearchParams(k=9)):
            ours, theirs = (search_shards([shard], probes, params) for shard in (self.shard, self.backup))
            assert ours.template_ids == theirs.template_ids
            np.testing.assert_array_equal(ours.scores, theirs.scores)

    # The rest

    @rule()
    def flush(self) -> None:
        self.shard.flush()

    @rule(which=st.sampled_from([0, 1]))
    def activate(self, which: int) -> None:
        self.model = self.models[which]
        self.shard.activate(self.model)
        self.staged = None
        self.backup.activate(self.model)

    @rule(which=st.sampled_from([0, 1]))
    def prepare(self, which: int) -> None:
        self.shard.prepare(self.models[which])

    @rule(which=st.sampled_from([0, 1, None]))
    def stage(self, which: int | None) -> None:
        self.staged = self.shard.stage(None if which is None else self.models[which])

    @precondition(lambda self: self.staged is not None)
    @rule()
    def switch(self) -> None:
        """To what was staged before any number of other operations."""
        assert self.staged is not None
        self.model, staged, self.staged = self.staged.model, self.staged, None
        self.shard.switch(staged)

    @rule(keep=st.sets(st.sampled_from([0, 1])))
    def discard(self, keep: set[int]) -> None:
        self.shard.discard([self.models[i].model_id for i in keep])
        active = {self.model.model_id} if self.model else set()
        assert active <= self.shard.model_ids() <= active | {self.models[i].model_id for i in keep}

    @rule()
    def reopen(self) -> None:
        self.shard.close()
        self.staged = None
        self.shard = Shard(self.directory / "shard", load_model, key=self.key)
        self.shard.on_commit = self.sent.extend
        assert check_shard(self.shard) == []

    @rule(seed=SEEDS, k=st.integers(1, 50))
    def search_exactly(self, seed: int, k: int) -> None:
        probes = self._probes(seed)
        rows = np.array([floats for floats, _, _ in self.kept.values()], np.float32).reshape(-1, DIM)
        found = search_shards([self.shard], probes, SearchParams(k=k, exact=True))
        assert_exact(found.template_ids, list(self.kept), rows, probes, k)
        self._check_candidates(found, probes, k)

    @rule(seed=SEEDS, k=st.integers(1, 20), recall=st.sampled_from([0.5, 0.9, 0.999]))
    def search_approximately(self, seed: int, k: int, recall: float) -> None:
        probes = self._probes(seed)
        found = search_shards([self.shard], probes, SearchParams(k=k, recall=recall))
        self._check_candidates(found, probes, k)
        own = [ids for ids, probe in zip(found.template_ids, probes, strict=True) if self._bearers(probe)]
        bearers = [self._bearers(probe) for probe in probes if self._bearers(probe)]
        # A template's code is its probe's, up to rounding, so whatever survives, one that is the probe does.
        assert all(ids[0] in same for ids, same in zip(own, bearers, strict=True))

    @precondition(lambda self: self.kept)
    @rule(rows=st.integers(1, 60), seed=SEEDS)
    def sample(self, rows: int, seed: int) -> None:
        sample = self.shard.sample(rows, seed)
        assert len(sample) == min(rows, len(self.kept))
        left = sorted(floats.tobytes() for floats, _, _ in self.kept.values())
        for row in sample:
            left.remove(row.tobytes())  # ValueError for a row that is not live, or drawn twice

    @rule(page=st.integers(1, 4))
    def page_identities(self, page: int) -> None:
        counts: dict[str, int] = {}
        for _, person, _ in self.kept.values():
            if person is not None:
                counts[person] = counts.get(person, 0) + 1
        found, start = [], ""
        while entries := self.shard.identities(start, page):
            assert len(entries) <= page
            found += [(entry.identity, entry.templates) for entry in entries]
            start = found[-1][0] + "\0"
        assert found == sorted(counts.items(), key=lambda pair: pair[0].encode())

    @rule(ids=st.lists(IDS, max_size=10, unique=True))
    def read_records(self, ids: list[str]) -> None:
        found = {r.template_id: (r.identity, r.metadata) for r in self.shard.records(ids)}
        assert found == {i: self.kept[i][1:] for i in ids if i in self.kept}
        assert self.shard.existing(ids) == found.keys()

    @invariant()
    def sizes_agree(self) -> None:
        if hasattr(self, "shard"):
            ShardMachine.steps += 1
            stats = self.shard.stats()
            assert len(self.shard) == stats.templates == len(self.kept)
            assert stats.model_id == (self.model.model_id if self.model else None)

    def teardown(self) -> None:
        try:
            if hasattr(self, "backup"):
                self._compare_replicas()
        finally:
            if hasattr(self, "backup"):
                self.shard.close()
                self.backup.close()
            shutil.rmtree(self.directory)

    def _probes(self, seed: int) -> FloatArray:
        """Strangers, and templates that are or were there."""
        stored = [floats for floats, _, _ in self.kept.values()][:: max(1, len(self.kept) // 6)]
        return np.ascontiguousarray(np.stack([*unit_rows(3, DIM, seed), *stored]))

    def _scores(self, probes: FloatArray) -> tuple[list[str], FloatArray]:
        rows = np.array([floats for floats, _, _ in self.kept.values()], np.float32).reshape(-1, DIM)
        return list(self.kept), probes.astype(np.float64) @ rows.T.astype(np.float64)

    def _bearers(self, probe: FloatArray) -> set[str]:
        return {i for i, (floats, _, _) in self.kept.items() if np.array_equal(floats, probe)}

    def _check_candidates(self, found: CandidateBatch, probes: FloatArray, k: int) -> None:
        """Live templates, each once, with their true score, key and identity, by (score, key), NaN and 0 padded."""
        ids, true = self._scores(probes)
        at = {template_id: i for i, template_id in enumerate(ids)}
        for p, names in enumerate(found.template_ids):
            n = len(names)
            assert n == len(set(names)) == min(k, len(self.kept))
            np.testing.assert_allclose(found.scores[p, :n], true[p, [at[name] for name in names]], atol=2e-6)
            assert found.keys[p, :n].tolist() == template_keys(names).tolist()
            assert found.identities[p] == tuple(self.kept[name][1] for name in names)
            order = list(zip((-found.scores[p, :n]).tolist(), found.keys[p, :n].tolist(), strict=True))
            assert order == sorted(order)
            assert np.isnan(found.scores[p, n:]).all()
            assert not found.keys[p, n:].any()


def assert_told(writing: Writing, told: Outcome, expected: Outcome) -> None:
    if isinstance(writing, Enrolling):
        assert told == expected
    else:
        assert told[0] == expected[0]


@contextlib.contextmanager
def failing(fault: tuple[str, failpoints.Action, int]) -> Iterator[None]:
    failpoints.arm(*fault)
    try:
        yield
    finally:
        failpoints.disarm()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + GROUP_DEADLINE_S
    while not is_so():
        assert time.monotonic() < until, "a thread did not come"
        time.sleep(0)


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["clear", "encrypted"])
def test_a_shard_answers_as_a_dict_does(monkeypatch: pytest.MonkeyPatch, is_encrypted: bool) -> None:
    monkeypatch.setattr(ShardMachine, "steps", 0)
    monkeypatch.setattr(ShardMachine, "key", bytes(range(32)) if is_encrypted else None)
    monkeypatch.setattr(tail, "segment_capacity", lambda _dim: SEGMENT_ROWS)
    monkeypatch.setattr(compaction, "MOVE_ROWS", 5)
    monkeypatch.setattr(catchup, "PIECE_BYTES", 7 * DIM * 4)
    ShardMachine.models = (
        train(unit_rows(1_200, DIM, seed=1), code_bits=256),
        train(unit_rows(1_200, DIM, seed=2), code_bits=128),
    )
    MODELS.update({model.model_id: model for model in ShardMachine.models})
    run_state_machine_as_test(
        ShardMachine,
        settings=settings(
            max_examples=300 if IS_LONG else 20,
            stateful_step_count=80 if IS_LONG else 40,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{ShardMachine.steps:,} steps")
    assert ShardMachine.steps > (10_000 if IS_LONG else 100)
