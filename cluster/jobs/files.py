"""`JobFiles`: the directory of one job.

    <home>/jobs/<job id>/log.jsonl       what happened, a line each
    <home>/jobs/<job id>/run.json        attempts: when, where, how long each phase took
    <home>/jobs/<job id>/checkpoints/    `cluster.jobs.checkpoints`
    <home>/jobs/<job id>/result/         the kind's files and summary.json, there when the job has succeeded

Everything in result/ is the same whoever ran the job and how often it was interrupted; what is not is in run.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coordinator.job_types import JobRecord
from shard.errors import CorruptData, JobFailed
from shard.files import (
    append_to_file,
    make_directory,
    new_directory,
    remove_tree,
    sync_directory,
    sync_file,
    write_file,
)

SUMMARY = "summary.json"
_LOG, _RUN, _RESULT = "log.jsonl", "run.json", "result"


class JobFiles:
    """Files of a job, below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.directory / "checkpoints"

    @property
    def result(self) -> Path:
        """Directory of the result, which is there once the job has succeeded."""
        return self.directory / _RESULT

    def begin(self, record: JobRecord, runtime: str) -> None:
        """Make the directory, remove what a process that died left half written, and take note of the attempt."""
        make_directory(self.directory)
        for path in self.directory.glob(f".{_RESULT}.*"):
            remove_tree(path)
        log = self.directory / _LOG
        if log.exists() and log.stat().st_size and not log.read_bytes().endswith(b"\n"):
            append_to_file(log, b"\n")
        attempt = {
            "attempt": record.attempts, "host": socket.gethostname(), "pid": os.getpid(), "runtime": runtime,
            "started_at": time.time(), "ended_at": None, "state": None, "phases": [],
        }  # fmt: skip
        about = {"job_id": record.job_id, "kind": record.kind, "gallery": record.gallery}
        self._put_run(about | {"attempts": [*self._attempts(), attempt]})

    def end(self, state: str, phases: list[dict[str, Any]]) -> None:
        """Take note of how the attempt ended."""
        run = self.run()
        run["attempts"][-1] |= {"ended_at": time.time(), "state": state, "phases": phases}
        self._put_run(run)

    def log(self, message: str, **fields: Any) -> None:
        """Add a line to the log. fields: JSON."""
        line = json.dumps({"at": round(time.time(), 3), "message": message, **fields}, default=str)
        append_to_file(self.directory / _LOG, line.encode() + b"\n")

    def lines(self, skip: int = 0) -> Iterator[dict[str, Any]]:
        """Lines of the log, oldest first, without the first `skip`; none if there is no log yet."""
        with contextlib.suppress(FileNotFoundError), (self.directory / _LOG).open("rb") as file:
            for number, line in enumerate(file):
                if number >= skip and line.endswith(b"}\n"):  # a process that died may have left half a line
                    yield json.loads(line)

    def run(self) -> dict[str, Any]:
        """run.json; CorruptData if it cannot be read."""
        return self._read(self.directory / _RUN)

    def summary(self) -> dict[str, Any]:
        """summary.json of the result; CorruptData if it cannot be read."""
        return self._read(self.result / SUMMARY)

    @contextlib.contextmanager
    def new_result(self) -> Iterator[Path]:
        """A directory to fill, which becomes the result when the block ends, durably, and instead of one before."""
        with new_directory(self.result, replaces=True) as directory:
            yield directory
            for path in sorted(directory.rglob("*")):
                if path.is_symlink():
                    raise JobFailed(f"{path} is a link; a result has files and directories only")
                (sync_directory if path.is_dir() else sync_file)(path)

    def _attempts(self) -> list[Any]:
        return list(self.run()["attempts"]) if (self.directory / _RUN).exists() else []

    def _put_run(self, run: Mapping[str, Any]) -> None:
        write_file(self.directory / _RUN, document(run))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CorruptData(f"{path} cannot be read: {error}", path=str(path)) from error
        if not isinstance(found, dict):
            raise CorruptData(f"{path}: expected an object, got {type(found).__name__}", path=str(path))
        return found


def document(values: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same values: sorted, indented, no NaN."""
    return json.dumps(values, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False).encode() + b"\n"
