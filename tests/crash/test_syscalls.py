"""A fault in any system call that changes a file of the shard, SQLite's own included (`faults.c`).

The process is killed, the call fails, a disk is full after half a write, or the power fails and takes everything that
was not synced. FACEGRID_TORTURE takes every call (`make torture`); otherwise a sample, drawn from FACEGRID_CRASH_SEED.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.crash.cases import run_case, told
from tests.crash.faults import Fault
from tests.crash.forkserver import ForkServer

IS_LONG = "FACEGRID_TORTURE" in os.environ
SEED = int(os.environ.get("FACEGRID_CRASH_SEED", "1"))
SAMPLE = 12
ACTIONS = ("kill", "eio", "enospc", "short", "lose power")


@pytest.fixture(scope="module")
def calls(forkserver: ForkServer, case_root: Path, saved_models: Path) -> list[str]:
    """Every call of the workload when nothing fails: its name and the file."""
    report, wrong = run_case(forkserver, case_root / "counted", saved_models, Fault())
    assert not wrong
    return [str(call) for call in report.said("calls")[0]]


def test_the_library_stands_before_the_calls_of_every_writer(calls: list[str]) -> None:
    """A linker that bound SQLite or CPython another way would make every test here pass without a fault."""
    kinds = Counter((call.split()[0], Path(call.split()[1]).suffix) for call in calls)
    print(f"{len(calls)} calls: {dict(kinds)}")
    expected = {("pwrite", ".db-wal"), ("fdatasync", ".db-wal"), ("fdatasync", ".db"), ("pwrite", ".db")}
    expected |= {
        ("pwrite", ".f32"),
        ("fsync", ".f32"),
        ("ftruncate", ".f32"),
        ("rename", ".tmp"),
        ("unlink", ".db-wal"),
    }
    assert {("fsync" if kind == "fdatasync" else kind, suffix) for kind, suffix in kinds} >= {
        ("fsync" if kind == "fdatasync" else kind, suffix) for kind, suffix in expected
    }


def test_what_a_loss_of_power_takes(forkserver: ForkServer, case: Path) -> None:
    """Pages that were not synced, or whose fsync failed and that were not written again: the disks of these tests."""
    report = forkserver.call("tests.crash.faults:lose_pages", directory=str(case))
    assert report.is_killed
    assert report.said("seen") == [["e", "b", "c", "d", "d", "e"]]
    assert (case / "pages").read_bytes()[::4096] == b"aacdd"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_fault_in_a_call_leaves_before_or_after(
    action: str, calls: list[str], forkserver: ForkServer, case: Path, saved_models: Path
) -> None:
    rng = np.random.default_rng([SEED, ACTIONS.index(action)])
    places = [at for at, call in enumerate(calls, start=1) if action != "short" or "write" in call]
    if not IS_LONG:
        places = rng.choice(places, SAMPLE, replace=False).tolist()
    found: list[str] = []
    outcomes: Counter[str] = Counter()
    for at in places:
        # The disk may stay full, or broken, until somebody sees to it.
        is_sticky = action in ("eio", "enospc", "short") and bool(rng.integers(2))
        fault = Fault(action, at, is_sticky=is_sticky)
        report, wrong = run_case(forkserver, case, saved_models, fault)
        if not (report.is_killed or report.said("acted") == [True]):
            wrong.append("the fault did not happen")
        outcomes.update(report.said("error"), killed=report.is_killed, cases=1)
        found += [f"{calls[at - 1]}: {told(fault, report, wrong)}"] if wrong else []
    print(f"{len(found)} of {len(places)} cases wrong; {dict(outcomes)}")
    assert not found, "\n".join(found[:8])


@pytest.mark.parametrize("then", ["lose power", "kill"])
def test_after_a_failed_fsync_what_is_acknowledged_survives_a_loss_of_power(
    then: str, calls: list[str], forkserver: ForkServer, case: Path, saved_models: Path
) -> None:
    """The pages of a failed fsync are clean for the kernel: no later fsync writes them, and a crash loses them.

    lose power: the shard is reopened after the failure, acknowledges an operation, and the power fails. kill: the same
    with a kill before the reopening, so that nothing was tidied up.
    """
    rng = np.random.default_rng([SEED, 7])
    places = [at for at, call in enumerate(calls, start=1) if "sync" in call]
    if not IS_LONG:
        places = rng.choice(places, SAMPLE, replace=False).tolist()
    found: list[str] = []
    failed = lost = 0
    for at in places:
        fault = Fault("eio", at, then=then)
        report, wrong = run_case(forkserver, case, saved_models, fault)
        failed += len(report.said("failed"))
        lost += len(report.said("lost_power"))
        found += [f"{calls[at - 1]}: {told(fault, report, wrong)}"] if wrong else []
    print(f"{len(found)} of {len(places)} cases wrong; {failed} operations failed, the power failed {lost} times")
    assert lost > 0
    assert not found, "\n".join(found[:8])


@pytest.mark.parametrize("action", ["kill", "eio", "enospc"])
def test_a_fault_in_a_local_home_is_named_and_loses_nothing(action: str, forkserver: ForkServer, case: Path) -> None:
    """The same through `Cluster`: the catalog, the lock and the files of the home may fail too."""
    counted = forkserver.call("tests.crash.home:run", home=str(case), fault=dataclasses.asdict(Fault()))
    calls = counted.said("calls")[0]
    rng = np.random.default_rng([SEED, 9])
    places = list(range(1, len(calls) + 1))
    found: list[str] = []
    for at in places if IS_LONG else rng.choice(places, SAMPLE // 2, replace=False).tolist():
        shutil.rmtree(case)
        case.mkdir()
        report = forkserver.call("tests.crash.home:run", home=str(case), fault=dataclasses.asdict(Fault(action, at)))
        after = forkserver.call("tests.crash.home:look", home=str(case), done=report.said("done"))
        wrong = report.said("wrong") + after.said("wrong")
        if wrong or after.said("end") != [True]:
            found.append(f"{action} at {calls[at - 1]}: {wrong or after.lines}")
    print(f"{len(found)} cases wrong; {len(calls)} calls")
    assert not found, "\n".join(found[:8])
