"""A worker process of a job: `python -m cluster.jobs.worker FD`. Calls what comes over a socket until that closes."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection

from coordinator.job_blocks import call_block, step_back


def main(descriptor: int) -> None:
    """Serve the socket of that descriptor: (function, argument) comes, (code, message) and the bytes go back."""
    step_back()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; whoever started this one ends it
    os.dup2(2, 1)  # what a library prints is not part of the output of a command
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    with Connection(descriptor) as connection:
        while True:
            try:
                function, argument = connection.recv()
            except EOFError:
                return
            outcome = call_block(function, argument)
            connection.send((outcome.code, outcome.message))
            if outcome.code is None:
                connection.send_bytes(outcome.value)


def _end_with(descriptor: int) -> None:
    """End this process as soon as the one that started it is gone, whatever is being computed."""
    gone = select.poll()
    gone.register(descriptor, 0)  # hanging up is told without being asked for
    gone.poll()
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
