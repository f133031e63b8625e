"""The boundary of the process: arguments in, exit code out, every error said in one way.

A FacegridError is a line (or a JSON object) and its exit code; anything else unexpected shows its traceback, because
it is a bug of ours.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from cluster.cli.app import command, hoisted
from cluster.cli.exits import ExitCode, exit_code_of
from cluster.cli.output import Output, ReaderGone
from shard.errors import FacegridError

# Recent Typer carries its own Click, older ones import it: the base of usage errors is reached through either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> NoReturn:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line in this process and return its exit code; prints to stdout and stderr."""
    arguments = hoisted(arguments)
    output = Output(as_json="--json" in arguments)
    try:
        # Not by Click's `main`, which has its own ideas of Ctrl-C and of closed pipes.
        with command().make_context("facegrid", arguments) as context:
            command().invoke(context)
        return ExitCode.OK
    except typer.Exit as end:
        return end.exit_code
    except FacegridError as error:
        output.error(error)
        return exit_code_of(type(error))
    except (KeyboardInterrupt, typer.Abort):
        output.failure("interrupted", "stopped by the user; what was acknowledged is durable")
        return ExitCode.INTERRUPTED
    except ReaderGone:
        return _give_up_stdout()
    except Exception as error:  # noqa: BLE001 - the process boundary
        if isinstance(error, _UsageError):
            output.failure("usage", _usage_message(error))
            return ExitCode.INVALID
        return _report_bug(output, error)


def _usage_message(error: Exception) -> str:
    message = str(getattr(error, "format_message", error.__str__)())
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (see `{context.command_path} --help`)"


def _report_bug(output: Output, error: Exception) -> ExitCode:
    if output.as_json:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        output.failure("internal_error", f"{type(error).__name__} at {where}: {error}")
    else:
        traceback.print_exception(error)
        output.failure("internal_error", "this is a bug of Facegrid; please report it with the traceback above")
    return ExitCode.INTERNAL


def _give_up_stdout() -> ExitCode:
    """The reader went away: say nothing more, not even when the interpreter flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.BROKEN_PIPE
