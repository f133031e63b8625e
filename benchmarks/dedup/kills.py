"""A worker or the driver of a dedup job killed in the middle of it: what is done again, and whether a byte differs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dedup.modes import forget, take_snapshot
from benchmarks.dedup.seeded import Seeded
from benchmarks.dedup.watched import Driver
from cluster.dedup.plan import PREFIX

_WAIT_S = 300
_LOOK_S = 0.002


def kill_figures(seeded: Seeded, shards: int, mode: str, threshold: float) -> dict[str, Any]:
    """An undisturbed job of a snapshot, and the same job with a worker and with the driver killed."""
    home, log = seeded.home(shards), seeded.folder / "driver.log"
    with tempfile.TemporaryDirectory(dir=seeded.folder) as folder:
        store = Path(folder) / "store"
        given = {"threshold": threshold, "mode": mode, **take_snapshot(home, store)}
        with Driver(home, {"parameters": given}, log) as driver:
            seconds = driver.finished()["seconds"]
            whole, blocks = hashes(driver.directory), len(pairs_done(driver.directory))
        jobs = [driver.job_id]
        found = {
            "n": seeded.n,
            "mode": mode,
            "blocks": blocks,
            "undisturbed_s": seconds,
            "files": len(whole),
            "sha256_of_all": hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest(),
        }
        for name, disturbed in (("worker", _worker_killed), ("driver", _driver_killed)):
            job_id, figures = disturbed(home, given, log, blocks)
            figures["identical"] = hashes(home / "jobs" / job_id) == whole
            found[name] = figures
            jobs.append(job_id)
        forget(home, *jobs)
    return found


def _worker_killed(home: Path, given: dict[str, Any], log: Path, blocks: int) -> tuple[str, dict[str, Any]]:
    with Driver(home, {"parameters": given}, log) as driver:
        wait_for(lambda: len(pairs_done(driver.directory)) >= blocks // 3, driver)
        before = pairs_done(driver.directory)
        workers = driver.workers()
        os.kill(workers[0], signal.SIGKILL)
        said = driver.finished()
        deaths = [line for line in lines(driver.directory) if line["message"] == "a worker died"]
        return driver.job_id, {
            "killed_after_blocks": len(before),
            "workers": len(workers),
            "blocks_begun_again": len(deaths),
            "checkpoints_made_again": _made_again(before, driver.directory),
            "seconds": said["seconds"],
        }


def _driver_killed(home: Path, given: dict[str, Any], log: Path, blocks: int) -> tuple[str, dict[str, Any]]:
    with Driver(home, {"parameters": given}, log) as driver:
        wait_for(lambda: len(pairs_done(driver.directory)) >= blocks // 2, driver)
        workers = driver.workers()
        driver.kill()
        wait_for(lambda: not any(runs(pid) for pid in workers))
    before = pairs_done(driver.directory)
    with Driver(home, {"resume": driver.job_id}, log) as second:
        said = second.finished()
    again = resumed(before, driver.directory, blocks)
    return driver.job_id, {"workers": len(workers), **again, "resumed_s": said["seconds"]}


def resumed(before: dict[str, int], directory: Path, blocks: int) -> dict[str, Any]:
    """What an attempt that went on did again. before: the checkpoints of pairs when the one before it was killed.

    blocks_lost: blocks whose checkpoint was there and that were made again. What was under way is a block a worker.
    """
    joined = [line for line in lines(directory) if line["message"] == "blocks" and line["phase"] == "joining"]
    return {
        "killed_after_blocks": len(before),
        "blocks_to_do_on_resume": joined[-1]["todo"] if len(joined) > 1 else 0,
        "blocks_finished_but_lost": (joined[-1]["todo"] if len(joined) > 1 else 0) - (blocks - len(before)),
        "checkpoints_made_again": _made_again(before, directory),
    }


def hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of a job's result."""
    result = directory / "result"
    return {
        str(path.relative_to(result)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(result.rglob("*"))
        if path.is_file()
    }


def pairs_done(directory: Path) -> dict[str, int]:
    """Checkpoints of pairs, and when each was made, in ns: one that is made again has another time."""
    return {path.name: path.stat().st_mtime_ns for path in (directory / "checkpoints").glob(f"{PREFIX}*")}


def _made_again(before: dict[str, int], directory: Path) -> int:
    after = pairs_done(directory)
    return sum(after.get(name) != made for name, made in before.items())


def lines(directory: Path) -> list[dict[str, Any]]:
    """Of the job's log."""
    text = (directory / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def wait_for(is_so: Callable[[], bool], driver: Driver | None = None) -> None:
    """Look until it is so; TimeoutError after _WAIT_S, or if the driver ends before."""
    until = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > until or (driver is not None and driver.process.poll() is not None):
            raise TimeoutError("what was waited for did not come, or the job had ended before")
        threading.Event().wait(_LOOK_S)


def runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False
