"""One shard under a fault: a fixed list of operations, what must be there after each of them, and how that is compared.

Everything here runs in a child that `tests.crash.forkserver` forks, so that a fault may kill it. Reports are lines of
JSON: `begin` and `done` with the number of an operation (done: it returned, so it is acknowledged), `failed` with the
error that it raised, and `wrong` with what is not as it should be.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import shard.tail
from shard.check import check_shard
from shard.errors import StorageError, WriteFailed
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import EnrollBatch, FloatArray, SearchParams
from tests.crash.faults import Fault, Shim, armed
from tests.crash.history import DIM, History, Kept, Operation
from tests.faces_like import assert_exact, unit_rows

Say = Callable[..., None]
SEGMENT_ROWS, K = 16, 3
_SEEDS = (3, 4)


def _enroll(prefix: str, n: int) -> Operation:
    people = tuple(None if i % 3 == 0 else f"p{(i + n) % 5}" for i in range(n))
    return Operation("enroll", tuple(f"{prefix}{i}" for i in range(n)), people, seed=ord(prefix[0]))


OPERATIONS = (
    Operation("create"),
    _enroll("a", 10),
    _enroll("b", 1),
    _enroll("c", 40),  # two segments are filled, sealed, and a third begun
    Operation("delete", ("a1", "b0", "c7", "c39", "nobody")),
    Operation("activate", ("0",)),
    _enroll("d", 20),  # a sealed segment with codes
    Operation("forget", ("p1",)),
    Operation("flush"),
    _enroll("e", 5),
    Operation("activate", ("1",)),  # codes of the first model are removed
    Operation("litter"),  # what a crash leaves: a log, and a segment that no manifest names; reopening removes both
    _enroll("a", 10),  # those that were deleted come back
    Operation("delete", ("e0", "e1", "e2", "e3", "e4")),
    Operation("reopen"),
    _enroll("f", 30),
    Operation("flush"),
)
"""Each is repeated after a fault; done twice, it does what it does once."""


@lru_cache(maxsize=1)
def models() -> tuple[SearchModel, ...]:
    """The models that `activate` names."""
    return tuple(train(unit_rows(1_500, DIM, seed=seed), code_bits=128) for seed in _SEEDS)


def save_models(directory: Path) -> None:
    """Train the models, for children to load."""
    for number, model in enumerate(models()):
        (directory / f"model-{number}").write_bytes(model.to_bytes())


class Driver:
    """The shard of one case, opened as it must be."""

    def __init__(self, directory: Path, saved: Path, segment_rows: int = SEGMENT_ROWS) -> None:
        self.directory = directory
        self.models = [SearchModel.from_bytes((saved / f"model-{i}").read_bytes()) for i in range(len(_SEEDS))]
        self.shard: Shard | None = None
        # The manifest states the capacity of each segment, so small ones need nothing else.
        shard.tail.segment_capacity = lambda _dim: segment_rows

    def load_model(self, model_id: str) -> SearchModel:
        return next(model for model in self.models if model.model_id == model_id)

    def open(self, *, create: bool = False) -> Shard:
        if create:
            self.shard = Shard.create(self.directory, dim=DIM, load_model=self.load_model)
        else:
            self.shard = Shard(self.directory, self.load_model)
        return self.shard

    def close(self) -> None:
        if self.shard is not None:
            self.shard.close()
            self.shard = None

    def carry_out(self, operation: Operation) -> None:
        if operation.verb == "create":
            self.open(create=True)
            return
        if operation.verb == "litter":
            self._leave_junk()
            # While another connection is open, closing the shard leaves the log as it is.
            with contextlib.closing(sqlite3.connect(self.directory / "shard.db")) as other:
                other.execute("SELECT count(*) FROM meta").fetchone()
                self.close()
                self.open()
            return
        if operation.verb == "reopen":
            self.close()
            self.open()
            return
        shard = self.shard
        assert shard is not None
        if operation.verb == "enroll":
            shard.enroll(batch_of(operation), skip_existing=True)
        elif operation.verb == "delete":
            shard.delete(template_ids=operation.names)
        elif operation.verb == "forget":
            shard.delete(identities=operation.names)
        elif operation.verb == "activate":
            shard.activate(self.models[int(operation.names[0])])
        else:
            shard.flush()

    def _leave_junk(self) -> None:
        junk = self.directory / "segment-000099"
        try:
            junk.mkdir(exist_ok=True)
            (junk / "floats.f32").write_bytes(b"junk")
        except OSError as error:  # the fault met the test's own write
            raise WriteFailed(f"junk: {error}") from error


def batch_of(operation: Operation) -> EnrollBatch:
    metadata = tuple(None if value is None else json.dumps(value).encode() for value in operation.metadata())
    return EnrollBatch(operation.rows(), operation.names, operation.identities, metadata)


def states(operations: Sequence[Operation] = OPERATIONS) -> list[History]:
    """What must be there before each operation, and after the last. Templates that are there are not enrolled again."""
    history = History()
    found = [copy.deepcopy(history)]
    for operation in operations:
        kept = dict(history.templates) if operation.verb == "enroll" else {}
        history.apply(operation)
        history.templates.update(kept)
        found.append(copy.deepcopy(history))
    return found


# Comparing


def problems(shard: Shard, state: History) -> dict[str, str | None]:
    """What each way of reading answers that the state does not: verb to a description, None where it is right."""
    checks: dict[str, Callable[[], None]] = {
        "len": lambda: _check_len(shard, state),
        "stored": lambda: _check_stored(shard, state),
        "records": lambda: _check_records(shard, state),
        "existing": lambda: _check_existing(shard, state),
        "identities": lambda: _check_identities(shard, state),
        "exact search": lambda: _check_search(shard, state, is_exact=True),
        "search": lambda: _check_search(shard, state, is_exact=False),
        "search of identities": lambda: _check_identity_search(shard, state),
    }
    found: dict[str, str | None] = {}
    for verb, check in checks.items():
        try:
            check()
        except AssertionError as error:
            found[verb] = str(error)[:300] or "differs"
        else:
            found[verb] = None
    return found


def _check_len(shard: Shard, state: History) -> None:
    assert len(shard) == len(state.templates), f"{len(shard)} templates, expected {len(state.templates)}"


def _check_stored(shard: Shard, state: History) -> None:
    labels = shard.labels(range(shard.index.rows))
    floats = shard.index.gather(np.array(list(labels), dtype=np.int64))
    ids = [template_id for template_id, _ in labels.values()]
    assert len(set(ids)) == len(ids), "an id is stored twice"
    _same(set(ids), set(state.templates))
    for (template_id, identity), row in zip(labels.values(), floats, strict=True):
        kept = state.templates[template_id]
        assert identity == kept.identity, f"{template_id} is of {identity}"
        assert row.tobytes() == kept.floats, f"{template_id} has other floats"


def _check_records(shard: Shard, state: History) -> None:
    found = shard.records([*_all_ids(), *state.templates])
    _same({record.template_id for record in found}, set(state.templates))
    for record in found:
        kept = state.templates[record.template_id]
        metadata = None if record.metadata is None else json.loads(record.metadata)
        assert (record.identity, metadata) == (kept.identity, kept.metadata), f"{record.template_id}: {record}"


def _check_existing(shard: Shard, state: History) -> None:
    _same(shard.existing([*_all_ids(), *state.templates]), set(state.templates))


def _check_identities(shard: Shard, state: History) -> None:
    counts: dict[str, int] = {}
    for kept in state.templates.values():
        if kept.identity is not None:
            counts[kept.identity] = counts.get(kept.identity, 0) + 1
    found = {count.identity: count.templates for count in shard.identities("", 1_000)}
    assert found == counts, f"{found}, expected {counts}"


def _check_search(shard: Shard, state: History, *, is_exact: bool) -> None:
    """Exact lists equal the oracle's; approximate ones hold true scores, and find a template by itself."""
    ids, rows = list(state.templates), _floats(state.templates.values())
    every = max(2, len(ids) // 100)
    probes = np.concatenate([unit_rows(5, DIM, seed=1), rows[::every]])
    found = search_shards([shard], probes, SearchParams(k=K, exact=is_exact))
    _same({name for names in found.template_ids for name in names} - set(ids), set())
    if is_exact:
        assert_exact(found.template_ids, ids, rows, probes, K)
    at = {template_id: row for row, template_id in enumerate(ids)}
    for probe, names, people, scores in zip(probes, found.template_ids, found.identities, found.scores, strict=True):
        assert list(people) == [state.templates[name].identity for name in names], f"people of {names}: {people}"
        true = rows[[at[name] for name in names]].astype(np.float64) @ probe.astype(np.float64)
        assert np.abs(scores[: len(names)] - true).max(initial=0) < 1e-5, f"scores of {names}: {scores}"
    own = [names[0] if names else None for names in found.template_ids[5:]]
    assert own == ids[::every], f"found by themselves: {own}, expected {ids[::every]}"


def _check_identity_search(shard: Shard, state: History) -> None:
    of = {i: kept for i, kept in state.templates.items() if kept.identity in ("p0", "p2")}
    probes = unit_rows(2, DIM, seed=2)
    found = search_shards([shard], probes, SearchParams(k=K, exact=True, identities=("p0", "p2")))
    _same({name for names in found.template_ids for name in names} - of.keys(), set())
    assert_exact(found.template_ids, list(of), _floats(of.values()), probes, K)


def _floats(kept: Collection[Kept]) -> FloatArray:
    return np.frombuffer(b"".join(template.floats for template in kept), np.float32).reshape(-1, DIM)


@lru_cache(maxsize=1)
def _all_ids() -> list[str]:
    return sorted({i for operation in OPERATIONS if operation.verb in ("enroll", "delete") for i in operation.names})


def _same(found: set[str], expected: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    assert not missing, f"missing {missing[:5]} of {len(missing)}"
    assert not extra, f"unexpected {extra[:5]} of {len(extra)}"


def differences(shard: Shard, state: History) -> list[str]:
    """Everything in which the shard is not the state."""
    return [f"{verb}: {problem}" for verb, problem in problems(shard, state).items() if problem]


# The tasks of children


class Run:
    """The operations in order, from one of them on, against the states that they must give."""

    def __init__(self, say: Say, directory: str, saved: str, extras: Sequence[int] = ()) -> None:
        """extras: the operations after whose failure one more template was enrolled (`_extra`)."""
        self.say, self.driver = say, Driver(Path(directory), Path(saved))
        self._states, self._extras = states(), list(extras)

    def expected(self, number: int) -> History:
        """The state before operation `number`, with the extras."""
        extras = History()
        for extra in self._extras:
            extras.apply(_extra(extra))
        return History({**self._states[number].templates, **extras.templates})

    def carry_out(self, first: int, fault: Fault, disarm: Callable[[], None]) -> None:
        """Operations from `first` on. One that fails is looked into and repeated; then its fault is over."""
        has_failed = False
        for number in range(first, len(OPERATIONS)):
            self.say(begin=number)
            try:
                self.driver.carry_out(OPERATIONS[number])
            except Exception as error:  # noqa: BLE001  (a user would meet whatever it is)
                self.say(failed=number, error=type(error).__name__, message=str(error))
                if not isinstance(error, StorageError):
                    self.say(wrong=f"operation {number}: a fault of the disk came as {error!r}")
                if fault.then == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                has_failed = True
                self._look_into(number, disarm)
                self._reopen(number)
                self._repeat(number)
            self.say(done=number)
            if fault.then == "lose power" and (has_failed or fault.at == 0):
                self.say(lost_power=number)
                Shim().lose_power()

    def resume(self, number: int) -> None:
        """Open what a kill left after `number` operations: the next one is there or not, and is repeated."""
        self._reopen(number)
        self._repeat(number)

    def finish(self) -> None:
        """The last state, in this process and after reopening; every checksum is right."""
        state = self.expected(len(OPERATIONS))
        assert self.driver.shard is not None
        self._compare("at the end", self.driver.shard, state)
        self.driver.close()
        shard = self.driver.open()
        if damages := check_shard(shard):
            self.say(wrong=f"at the end, reopened: {'; '.join(map(str, damages))}")
        self._compare("at the end, reopened", shard, state)
        self.driver.close()
        self.say(end=True)

    def _look_into(self, number: int, disarm: Callable[[], None]) -> None:
        """Reads still answer, while the fault lasts and after it; a further write is refused, or true."""
        if self.driver.shard is None or self.driver.shard._is_closed:
            disarm()
            return
        self._read(number, "while the disk fails")
        disarm()
        self._read(number, "after the failure")
        try:
            self.driver.shard.enroll(batch_of(_extra(number)))
        except StorageError as error:
            self.say(refused=number, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001
            self.say(wrong=f"operation {number}: a write after its failure raised {error!r}")
        else:
            self.say(accepted=number)
            self._extras.append(number)

    def _read(self, number: int, when: str) -> None:
        assert self.driver.shard is not None
        try:
            old = problems(self.driver.shard, self.expected(number))
            new = problems(self.driver.shard, self.expected(number + 1))
        except Exception as error:  # noqa: BLE001
            self.say(wrong=f"operation {number}, {when}: reading raised {error!r}")
            return
        for verb in old:
            if old[verb] and new[verb]:
                self.say(wrong=f"operation {number}, {when}: {verb}: {old[verb]}; as if it were done: {new[verb]}")

    def _reopen(self, number: int) -> None:
        try:
            self.driver.close()
        except StorageError as error:
            self.say(wrong=f"operation {number}: closing after its failure raised {error!r}")
            self.driver.shard = None
        shard = self.driver.open(create=number == 0)
        either = (number, min(number + 1, len(OPERATIONS)))
        not_before, not_after = (differences(shard, self.expected(n)) for n in either)
        if not_before and not_after:
            self.say(wrong=f"operation {number}: reopened as neither before {not_before} nor after {not_after}")

    def _repeat(self, number: int) -> None:
        if number == len(OPERATIONS):
            return
        if number > 0:  # opening has created it
            self.driver.carry_out(OPERATIONS[number])
        assert self.driver.shard is not None
        self._compare(f"operation {number} repeated", self.driver.shard, self.expected(number + 1))

    def _compare(self, when: str, shard: Shard, state: History) -> None:
        for difference in differences(shard, state):
            self.say(wrong=f"{when}: {difference}")


def _extra(number: int) -> Operation:
    return Operation("enroll", (f"extra-{number}",), ("p0",), seed=1_000 + number)


def run(say: Say, *, directory: str, saved: str, fault: dict[str, Any]) -> None:
    """All operations under one fault."""
    task = Run(say, directory, saved)
    Shim().reset()
    with armed(directory, Fault(**fault), say) as disarm:
        task.carry_out(0, Fault(**fault), disarm)
        task.driver.close()
    task.driver.open()
    task.finish()


def resume(
    say: Say, *, directory: str, saved: str, number: int, extras: Sequence[int] = (), then: str | None = None
) -> None:
    """What a run left that was killed after `number` operations were acknowledged: the next is there or not.

    then="lose power": the power fails after the first operation that is acknowledged; the disk is watched meanwhile.
    """
    task = Run(say, directory, saved, extras)
    if then is not None:
        fault = Fault(then=then)
        with armed(directory, fault, say) as disarm:
            task._reopen(number)
            task.carry_out(number, fault, disarm)
    task.resume(number)
    task.carry_out(number + 1, Fault(), lambda: None)
    task.finish()
