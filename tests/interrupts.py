"""For processes that are to be interrupted."""

import signal


def interruptible() -> None:
    """In a child before its program starts: SIGINT means what it does at a terminal, though a shell in whose background
    the tests run has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
