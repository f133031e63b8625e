"""Every failpoint × {kill, EIO, ENOSPC}: the shard recovers to before or after the operation, never between.

FACEGRID_TORTURE takes every hit of each point (`make torture`); otherwise one of them, drawn from FACEGRID_CRASH_SEED.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shard import failpoints
from tests.crash.faults import Fault
from tests.crash.forkserver import ForkServer, Report

ROOT = Path(__file__).resolve().parents[2]
IS_LONG = "FACEGRID_TORTURE" in os.environ
SEED = int(os.environ.get("FACEGRID_CRASH_SEED", "1"))


def test_every_step_in_the_code_is_listed_and_every_listed_step_is_in_the_code() -> None:
    written = [
        node.args[0].value
        for path in sorted((ROOT / "shard").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "step"
        if isinstance(node.args[0], ast.Constant)
    ]
    assert sorted(written) == sorted(failpoints.STEPS)


@pytest.fixture(scope="module")
def hits(forkserver: ForkServer, case_root: Path, saved_models: Path) -> Counter[str]:
    """How often the workload hits each point when nothing fails."""
    report = run(forkserver, case_root / "counted", saved_models, Fault("count", point="all"))
    shutil.rmtree(case_root / "counted")
    assert_sound(report)
    return Counter(report.said("hits")[0])


def test_the_workload_hits_every_point(hits: Counter[str]) -> None:
    missing = [point for point in failpoints.POINTS if not hits[point]]
    assert not missing
    print(f"{sum(hits.values())} hits of {len(hits)} points")


@pytest.mark.parametrize("action", ["kill", "eio", "enospc"])
@pytest.mark.parametrize("point", failpoints.POINTS)
def test_a_fault_leaves_before_or_after(
    point: str, action: str, hits: Counter[str], forkserver: ForkServer, case: Path, saved_models: Path
) -> None:
    drawn = np.random.default_rng([SEED, failpoints.POINTS.index(point)]).integers(hits[point])
    failures = 0
    for at in range(1, hits[point] + 1) if IS_LONG else [int(drawn) + 1]:
        print(f"{action} at hit {at} of {hits[point]} of {point}")
        fault = Fault(action, at, point)
        report = run(forkserver, case, saved_models, fault)
        assert report.is_killed == (action == "kill")
        if action != "kill":
            assert report.said("acted") == [True]
        failures += len(report.said("failed"))
        assert_sound(report)
        shutil.rmtree(case)


def run(forkserver: ForkServer, case: Path, saved_models: Path, fault: Fault) -> Report:
    """The workload under a fault; after a kill, the rest of it in another process. The lines of both."""
    where = {"directory": str(case), "saved": str(saved_models)}
    report = forkserver.call("tests.crash.workload:run", **where, fault=dataclasses.asdict(fault))
    if not report.is_killed:
        return report
    number = len(report.said("done"))
    assert not report.said("wrong")
    rest = forkserver.call("tests.crash.workload:resume", **where, number=number)
    assert rest.exit == 0, rest.said("wrong")
    return Report(report.lines + rest.lines, report.exit)


def assert_sound(report: Report) -> None:
    """Nothing was wrong, and the workload came to its end."""
    wrong = report.said("wrong")
    assert not wrong, "\n".join([f"failed: {report.said('failed')}", *wrong])
    assert report.said("end") == [True], report.lines[-3:]
