"""Runs the peers one after another: each in its own virtual environment and process, on the same arrays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.service.peers.catalogue import Peer
from benchmarks.service.results import PeerResult
from benchmarks.service.workload import Workload

_SOURCE = Path(__file__).resolve().parents[2]
_INSTALL_S = 600
_LOG_BYTES = 600


class _Unavailable(Exception):
    """It cannot be installed or run here; the message says why."""


def beside(
    peer: Peer, workload: Workload, folder: Path, *, k: int, seconds: float, limit_s: int, environments: Path
) -> PeerResult:
    """Install it, run it, read what it found. Never raises for a peer's fault: the result says what happened."""
    result = PeerResult(peer.name, peer.over, peer.exactness, "measured")
    work = folder / peer.module
    work.mkdir()
    try:
        python = _python(peer, environments)
        for name, array in (("rows", workload.rows), ("people", workload.people), ("probes", workload.probes)):
            np.save(work / f"{name}.npy", array)
        found = _run(peer, python, work, k=k, seconds=seconds, limit_s=limit_s)
    except _Unavailable as error:
        result.status, result.reason = "missing", str(error)
    except (subprocess.SubprocessError, json.JSONDecodeError, OSError) as error:
        result.status, result.reason = "failed", str(error)[-_LOG_BYTES:]
    else:
        result.versions, result.build_s, result.figures = found["versions"], found["build_s"], found["figures"]
        result.recall_at_10 = workload.recall(found["found"], k)
    finally:
        shutil.rmtree(work)
    return result


def _python(peer: Peer, environments: Path) -> Path:
    """The interpreter of the peer's environment, which is made if it is not there."""
    if not peer.packages:
        return Path(sys.executable)
    home = environments / peer.module
    python = home / "bin" / "python"
    complete, wanted = home / "complete", "\n".join(peer.packages)
    if not complete.exists() or complete.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.packages]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
        if done.returncode:
            raise _Unavailable(f"pip install {' '.join(peer.packages)}: {done.stderr[-_LOG_BYTES:]}")
        complete.write_text(wanted)
    return python


def _run(peer: Peer, python: Path, work: Path, *, k: int, seconds: float, limit_s: int) -> dict[str, Any]:
    result = work / "result.json"
    module = f"benchmarks.service.peers.{peer.module}"
    command = [str(python), "-m", module, str(work), str(result), "--k", str(k), "--seconds", f"{seconds:g}"]
    if peer.needs_namespace:
        if shutil.which("unshare") is None or shutil.which("ip") is None:
            raise _Unavailable("it listens on every address, and there is no unshare and ip to give it a network")
        command = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    environment = {**os.environ, "PYTHONPATH": str(_SOURCE), "HOME": str(work), "TMPDIR": str(work)}
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=work, env=environment, start_new_session=True)
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_session(process)
    if status != 0:
        last = (work / "log").read_text(errors="replace")[-_LOG_BYTES:]
        why = f"took longer than {limit_s} s" if status is None else f"ended with {status}"
        raise subprocess.SubprocessError(f"{why}: {last}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End whatever the peer started and left behind: it has a process group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
