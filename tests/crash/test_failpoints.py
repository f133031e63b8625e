"""Every failpoint × {kill, EIO, ENOSPC}: the shard recovers to before or after the operation, never between.

FACEGRID_TORTURE takes every hit of each point (`make torture`); otherwise one of them, drawn from FACEGRID_CRASH_SEED.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shard import failpoints
from tests.crash.cases import run_case, told
from tests.crash.faults import Fault
from tests.crash.forkserver import ForkServer

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
    report, wrong = run_case(forkserver, case_root / "counted", saved_models, Fault(point="all"))
    assert not wrong
    return Counter(report.said("hits")[0])


def test_the_workload_hits_every_point(hits: Counter[str]) -> None:
    missing = [point for point in failpoints.POINTS if not hits[point]]
    assert not missing
    print(f"{sum(hits.values())} hits of {len(hits)} points")


CASES = [(point, action) for point in failpoints.POINTS for action in ("kill", "eio", "enospc")]


@pytest.mark.parametrize(("point", "action"), CASES)
def test_a_fault_leaves_before_or_after(
    point: str, action: str, hits: Counter[str], forkserver: ForkServer, case: Path, saved_models: Path
) -> None:
    drawn = int(np.random.default_rng([SEED, failpoints.POINTS.index(point)]).integers(hits[point])) + 1
    found, failed, refused = [], 0, 0
    for at in range(1, hits[point] + 1) if IS_LONG else [drawn]:
        fault = Fault(action, at, point)
        report, wrong = run_case(forkserver, case, saved_models, fault)
        if not (report.is_killed if action == "kill" else report.said("acted") == [True]):
            wrong.append("the fault did not happen")
        failed += len(report.said("failed"))
        refused += len(report.said("refused"))
        found += [told(fault, report, wrong)] if wrong else []
    print(f"{len(found)} of {at if IS_LONG else 1} cases wrong; {failed} operations failed, {refused} writes refused")
    assert not found, "\n".join(found[:5])
