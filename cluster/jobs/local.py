"""Blocks of a job in processes of this machine, which may die at any moment.

Processes are started afresh, not forked: this one has threads, mapped files and locks. Each has one block at a time, so
that one that dies costs one block.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from cluster.config import worker_environment
from shard.errors import WorkerLost, error_from_code

MAX_DEATHS = 3
"""Of processes over one block, which then counts as what kills them."""
LOOK_S = 0.2
"""Pause between two looks whether the job shall stop."""
Keep = Callable[[str, bytes], None]
Check = Callable[[], None]
Log = Callable[..., None]


class _Died(Exception):
    """The worker has gone; the message says how."""


class _Worker:
    """A process, and the block that it has."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "cluster.jobs.worker", str(theirs.fileno())]
            # A session of its own: Ctrl-C in the terminal is for the process that drives the job.
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=worker_environment(), start_new_session=True,
            )  # fmt: skip
        self.connection = Connection(ours.detach())
        self.block: str | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def give(self, function: str, block: str, argument: Any) -> None:
        """Have it work at a block."""
        self.block = block
        try:
            self.connection.send((function, argument))
        except OSError:
            raise _Died(self._end()) from None

    def take(self) -> bytes:
        """What came of its block; the error that it raised, or _Died."""
        self_block, self.block = self.block, None
        try:
            code, message = self.connection.recv()
            if code is None:
                return self.connection.recv_bytes()
        except (EOFError, OSError):
            self.block = self_block
            raise _Died(self._end()) from None
        raise error_from_code(code, message)

    def _end(self) -> str:
        self.kill()
        status = self._process.returncode
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def kill(self) -> None:
        """End the process at once: it has nothing that is not here. Idempotent."""
        self.connection.close()
        self._process.kill()
        self._process.wait()


def run_in_processes(
    function: str,
    blocks: Mapping[str, Any],
    *,
    workers: int,
    keep: Keep,
    check: Check,
    log: Log,
    may_begin: Callable[[str], bool] = lambda block: True,
) -> None:
    """Call a function, `module:name`, with each block's argument in that many processes; keep(block, bytes) with each.

    check: raises to stop all of it. log: is told of processes that died. may_begin: whether the next block may be begun
    yet; one that is under way must not wait for it. Raises WorkerLost if MAX_DEATHS have died over
    one block, and what the function raised. No process is left when this returns.
    """
    pool = _Pool(function, blocks, min(workers, len(blocks)), log, may_begin)
    try:
        while not pool.is_done:
            check()
            pool.hand_out()
            for block, data in pool.take_in():
                keep(block, data)
    finally:
        pool.close()


class _Pool:
    def __init__(
        self, function: str, blocks: Mapping[str, Any], size: int, log: Log, may_begin: Callable[[str], bool]
    ) -> None:
        self._function, self._blocks, self._size, self._log = function, blocks, size, log
        self._may_begin = may_begin
        self._waiting = deque(blocks)
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        return not self._waiting and all(worker.block is None for worker in self._workers)

    def hand_out(self) -> None:
        """Give every worker a block, and start those that are missing."""
        while len(self._workers) < min(self._size, len(self._waiting) + len(self._busy())):
            self._workers.append(_Worker())
        for worker in [worker for worker in self._workers if worker.block is None][: len(self._waiting)]:
            if not self._may_begin(self._waiting[0]):
                return
            block = self._waiting.popleft()
            try:
                worker.give(self._function, block, self._blocks[block])
            except _Died as death:
                self._lost(worker, death)

    def take_in(self) -> list[tuple[str, bytes]]:
        """At most one block that has ended, waiting a moment for it: the next is fetched when this one is kept."""
        busy = {worker.connection: worker for worker in self._busy()}
        for connection in wait(list(busy), LOOK_S):
            worker = busy[connection]  # type: ignore[index]
            block = worker.block
            assert block is not None
            try:
                return [(block, worker.take())]
            except _Died as death:
                self._lost(worker, death)
        return []

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.block is not None]

    def _lost(self, worker: _Worker, death: _Died) -> None:
        block = worker.block
        assert block is not None
        self._workers.remove(worker)
        self._deaths[block] += 1
        self._log("a worker died", block=block, pid=worker.pid, by=str(death), deaths=self._deaths[block])
        if self._deaths[block] >= MAX_DEATHS:
            raise WorkerLost(f"{MAX_DEATHS} processes have died over block {block!r}, the last by {death}")
        self._waiting.appendleft(block)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
