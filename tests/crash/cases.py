"""One case: the workload of a shard in forked children, under one fault, and what has to hold whatever the fault."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from tests.crash.faults import Fault
from tests.crash.forkserver import ForkServer, Report


def run_case(forkserver: ForkServer, directory: Path, saved_models: Path, fault: Fault) -> tuple[Report, list[str]]:
    """The workload under a fault; after each kill, the rest of it in another process.

    Returns the lines of all processes with the exit of the first, and what was wrong.
    """
    shutil.rmtree(directory, ignore_errors=True)
    where = {"directory": str(directory), "saved": str(saved_models)}
    report = first = forkserver.call("tests.crash.workload:run", **where, fault=dataclasses.asdict(fault))
    lines, then = list(report.lines), "lose power" if fault.then == "kill" else None
    done = 0
    while report.is_killed and not report.said("wrong"):
        # The first operation of a process that resumes follows those that were acknowledged before.
        done = max([done, *(number + 1 for number in report.said("done"))])
        extras = [line["accepted"] for line in lines if "accepted" in line]
        report = forkserver.call("tests.crash.workload:resume", **where, number=done, extras=extras, then=then)
        lines += report.lines
        then = None
    wrong = [line["wrong"] for line in lines if "wrong" in line]
    if report.said("end") != [True]:
        wrong.append(f"the workload did not end: exit {report.exit}, {report.lines[-2:]}")
    return Report(lines, first.exit), wrong


def told(fault: Fault, report: Report, wrong: list[str]) -> str:
    """A failing case in words."""
    failed = [(line["failed"], line["error"], line["message"][:120]) for line in report.lines if "failed" in line]
    return "\n  ".join([str(fault), f"failed: {failed}", *wrong])
