"""A dedup job on a Ray cluster of its own, all of which is killed in the middle; the job goes on without Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.dedup.kills import hashes, pairs_done, resumed, runs, wait_for
from benchmarks.dedup.modes import forget, take_snapshot
from benchmarks.dedup.seeded import Seeded
from benchmarks.dedup.watched import Driver, family

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}


def ray_figures(seeded: Seeded, shards: int, mode: str, threshold: float) -> dict[str, Any]:
    """An undisturbed job on this machine's processes, and one on Ray whose processes are killed, the driver's too."""
    home, log = seeded.home(shards), seeded.folder / "driver.log"
    # Short, because Ray puts Unix sockets below it.
    with tempfile.TemporaryDirectory(prefix="fg") as scratch, tempfile.TemporaryDirectory(dir=seeded.folder) as folder:
        given = {"threshold": threshold, "mode": mode, **take_snapshot(home, Path(folder) / "store")}
        with Driver(home, {"parameters": given}, log) as driver:
            driver.finished()
            whole, blocks, plain = hashes(driver.directory), len(pairs_done(driver.directory)), driver.job_id
        environment = {**os.environ, **_QUIET, "HOME": scratch, "RAY_TMPDIR": scratch}
        with Driver(home, {"parameters": given, "ray": "local"}, log, environment) as driver:
            wait_for(lambda: len(pairs_done(driver.directory)) >= blocks // 3, driver)
            killed = family(driver.process.pid)
            for pid in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not any(runs(pid) for pid in killed))
        before = pairs_done(driver.directory)
        with Driver(home, {"resume": driver.job_id}, log) as second:
            said = second.finished()
        found = {
            "n": seeded.n,
            "mode": mode,
            "blocks": blocks,
            "processes_killed": len(killed),
            "identical": hashes(driver.directory) == whole,
            **resumed(before, driver.directory, blocks),
            "resumed_s": said["seconds"],
        }
        forget(home, plain, driver.job_id)
    return found
