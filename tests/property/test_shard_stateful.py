"""A shard against a dict: random operations in random order, every answer compared.

Hypothesis prints the failing steps as a program. FACEGRID_TORTURE makes it 50 times as many runs of longer programs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
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

from shard import tail
from shard.check import check_shard
from shard.errors import DuplicateTemplate, UnknownModel
from shard.keys import template_keys
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import CandidateBatch, EnrollBatch, FloatArray, SearchParams
from tests.faces_like import assert_exact, unit_rows

DIM, SEGMENT_ROWS = 64, 16
IS_LONG = "FACEGRID_TORTURE" in os.environ
MODELS: dict[str, SearchModel] = {}
# Few ids and people, so that programs meet them again; "ü" and "z" because identities page in byte order of UTF-8.
IDS = st.integers(0, 79).map(lambda i: f"t{i}")
PEOPLE = st.sampled_from([None, "ann", "bob", "z", "ü", "𝄞", "ann b"])
BATCHES = st.lists(st.tuples(IDS, PEOPLE), min_size=1, max_size=40, unique_by=lambda pair: pair[0])
SEEDS = st.integers(0, 2**16)


def load_model(model_id: str) -> SearchModel:
    try:
        return MODELS[model_id]
    except KeyError:
        raise UnknownModel(model_id) from None


class ShardMachine(RuleBasedStateMachine):
    """Every rule does the same to a `Shard` and to `self.kept`: template id to (floats, identity, metadata)."""

    models: tuple[SearchModel, SearchModel]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="facegrid-stateful-"))
        self.kept: dict[str, tuple[FloatArray, str | None, bytes | None]] = {}
        self.model: SearchModel | None = None

    @initialize()
    def create(self) -> None:
        self.shard = Shard.create(self.directory / "shard", dim=DIM, load_model=load_model)

    @rule(labels=BATCHES, seed=SEEDS, skip=st.booleans())
    def enroll(self, labels: list[tuple[str, str | None]], seed: int, skip: bool) -> None:
        rows = unit_rows(len(labels), DIM, seed)
        rows[len(rows) // 2 :] = rows[: len(rows) - len(rows) // 2]  # ties
        metadata = tuple(b'{"n":%d}' % seed if i % 3 else None for i in range(len(labels)))
        batch = EnrollBatch(rows, tuple(i for i, _ in labels), tuple(p for _, p in labels), metadata)
        known = {i for i, _ in labels if i in self.kept}
        if known and not skip:
            with pytest.raises(DuplicateTemplate, match=min(known)):
                self.shard.enroll(batch)
            return
        lsn = self.shard.stats().lsn
        receipt = self.shard.enroll(batch, skip_existing=skip)
        assert (receipt.enrolled, receipt.skipped) == (len(labels) - len(known), len(known))
        assert receipt.lsn == lsn + (receipt.enrolled > 0)
        fresh = zip(labels, rows, metadata, strict=True)
        self.kept.update({i: (row, person, data) for (i, person), row, data in fresh if i not in known})

    @rule(ids=st.lists(IDS, max_size=12), people=st.lists(PEOPLE.filter(bool), max_size=2))
    def delete(self, ids: list[str], people: list[str]) -> None:
        doomed = {i for i, (_, person, _) in self.kept.items() if i in ids or person in people}
        assert self.shard.delete(template_ids=ids, identities=people) == len(doomed)
        for template_id in doomed:
            del self.kept[template_id]

    @rule()
    def flush(self) -> None:
        self.shard.flush()

    @rule(which=st.sampled_from([0, 1]))
    def activate(self, which: int) -> None:
        self.model = self.models[which]
        self.shard.activate(self.model)

    @rule()
    def reopen(self) -> None:
        self.shard.close()
        self.shard = Shard(self.directory / "shard", load_model)
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
            stats = self.shard.stats()
            assert len(self.shard) == stats.templates == len(self.kept)
            assert stats.model_id == (self.model.model_id if self.model else None)

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            self.shard.close()
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


def test_a_shard_answers_as_a_dict_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "segment_capacity", lambda _dim: SEGMENT_ROWS)
    ShardMachine.models = (
        train(unit_rows(1_200, DIM, seed=1), code_bits=256),
        train(unit_rows(1_200, DIM, seed=2), code_bits=128),
    )
    MODELS.update({model.model_id: model for model in ShardMachine.models})
    run_state_machine_as_test(
        ShardMachine,
        settings=settings(
            max_examples=1_000 if IS_LONG else 20,
            stateful_step_count=80 if IS_LONG else 40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
