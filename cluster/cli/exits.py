"""Exit codes: the one table from what happened to what a script sees. docs/cli.md says it in words.

Knows the error tree and nothing else.
"""

from __future__ import annotations

from enum import IntEnum

from shard.errors import (
    AccessError,
    AlreadyExists,
    ClusterError,
    FacegridError,
    HomeLocked,
    InvalidInput,
    JobError,
    MissingExtra,
    ModelError,
    NotFound,
    StorageError,
)


class ExitCode(IntEnum):
    """What `facegrid` exits with."""

    OK = 0
    NEGATIVE = 1
    INVALID = 2
    NOT_FOUND = 3
    EXISTS = 4
    LOCKED = 5
    STORAGE = 6
    MODEL = 7
    MISSING_EXTRA = 8
    CLUSTER = 9
    PARTIAL = 10
    ACCESS = 11
    JOB = 12
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODES: dict[type[FacegridError], ExitCode] = {
    InvalidInput: ExitCode.INVALID,
    NotFound: ExitCode.NOT_FOUND,
    AlreadyExists: ExitCode.EXISTS,
    HomeLocked: ExitCode.LOCKED,
    StorageError: ExitCode.STORAGE,
    ModelError: ExitCode.MODEL,
    MissingExtra: ExitCode.MISSING_EXTRA,
    ClusterError: ExitCode.CLUSTER,
    AccessError: ExitCode.ACCESS,
    JobError: ExitCode.JOB,
    FacegridError: ExitCode.INTERNAL,
}
"""Each class stands for those below it that are not here themselves."""


def exit_code_of(error: type[FacegridError]) -> ExitCode:
    """The exit code of an error class: its own entry, or its nearest parent's."""
    return next(EXIT_CODES[cls] for cls in error.__mro__ if cls in EXIT_CODES)
