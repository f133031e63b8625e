"""What a command says: one JSON document, or tables and lines for people.

stdout carries the result and nothing else; notes, logs and errors go to stderr, in JSON mode one object a line. Owns
all printing; must not know what the values mean. Text from outside is never read as markup, and control characters in
it are shown escaped, so that a file name cannot drive the terminal.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shard.errors import FacegridError, InvalidImage

if TYPE_CHECKING:
    from rich.console import RenderableType

Cell = str | int | float | Path | None
_UNBOUNDED_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: column titles (all empty for none) and rows of that many cells. Numbers stand right, None is a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class ReaderGone(Exception):
    """Whoever read stdout has closed it (`facegrid … | head`). No OSError, on which Rich would end the process."""


class Output:
    """Prints for one run of the command line."""

    def __init__(self, *, as_json: bool = False, is_quiet: bool = False, verbosity: int = 0) -> None:
        self.as_json, self.is_quiet, self.verbosity = as_json, is_quiet, verbosity

    @property
    def wants_progress(self) -> bool:
        """Whether a progress bar may be shown, if stderr is a terminal."""
        return not (self.as_json or self.is_quiet)

    def result(self, document: Mapping[str, Any], *shown: str | Grid) -> None:
        """The command's result: the document in JSON mode, otherwise lines and tables. Raises ReaderGone."""
        self._write(_json(document) + "\n" if self.as_json else _text(sys.stdout, shown))

    def verbatim(self, document: Mapping[str, Any], text: str) -> None:
        """The same with a text that is for programs too, and so is never wrapped. text: printable ASCII."""
        assert text.isascii()
        self._write(_json(document) + "\n" if self.as_json else text)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error

    def note(self, message: str, *, level: str = "info") -> None:
        """A remark beside the result, on stderr; left out by --quiet unless it is an error."""
        if self.is_quiet and level != "error":
            return
        if self.as_json:
            sys.stderr.write(_json({"note": {"level": level, "message": message}}) + "\n")
            return
        sys.stderr.write(_text(sys.stderr, [message if level == "info" else f"{level}: {message}"]))

    def error(self, error: FacegridError) -> None:
        """The error that ends the command, on stderr."""
        extra = {"reason": error.reason} if isinstance(error, InvalidImage) else {}
        self.failure(error.code, str(error), is_retryable=error.is_retryable, **extra)

    def failure(self, code: str, message: str, *, is_retryable: bool = False, **extra: str) -> None:
        """An error by its code and message, on stderr."""
        if self.as_json:
            error = {"code": code, "message": message, "is_retryable": is_retryable, **extra}
            sys.stderr.write(_json({"error": error}) + "\n")
            return
        retry = "; trying again may help" if is_retryable else ""
        sys.stderr.write(_text(sys.stderr, [f"error [{code}]: {message}{retry}"]))

    def capture_logs(self) -> None:
        """Send the library's log records to `note`: warnings, with -v what it does, with -vv everything."""
        level = logging.ERROR if self.is_quiet else max(logging.DEBUG, logging.WARNING - 10 * self.verbosity)
        for logger in _of_the_library():
            logger.handlers[:] = [_NoteHandler(self)]
            logger.setLevel(level)
            logger.propagate = False

    def release_logs(self) -> None:
        """Let the library's log records go where all others go: a service's are for its operator's collector."""
        for logger in _of_the_library():
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


def _of_the_library() -> list[logging.Logger]:
    return [logging.getLogger(package) for package in ("cluster", "coordinator", "shard")]


class _NoteHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        # As every handler: what logs goes on, whatever becomes of the record; stderr may be closed.
        try:
            self._output.note(self._message(record), level=record.levelname.lower())
        except Exception:  # noqa: BLE001
            self.handleError(record)

    def _message(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]}"
            if self._output.verbosity:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
        return message


def printable(text: str) -> str:
    """The text with control, unprintable and undecodable characters escaped as in Python; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def size_text(size: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def time_text(unix_s: float) -> str:
    """A time for people, in UTC to the second."""
    return datetime.fromtimestamp(unix_s, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _json(document: Mapping[str, Any]) -> str:
    # ASCII, so that any stdout takes it and a file name that is not UTF-8 survives.
    return json.dumps(document, default=_plain, allow_nan=False)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not representable as JSON: {type(value).__name__}")


def _text(stream: TextIO, parts: Sequence[str | Grid]) -> str:
    from rich.console import Console

    # Wrapping is for readers; a pipe gets whole lines.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBOUNDED_WIDTH)
    with console.capture() as captured:
        for part in parts:
            console.print(_rendered(part))
    return captured.get()


def _rendered(part: str | Grid) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if isinstance(part, str):
        return Text(printable(part))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(part.columns))
    for number, title in enumerate(part.columns):
        is_number = any(isinstance(row[number], (int, float)) for row in part.rows)
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    for row in part.rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(str(value)).replace("\n", "\\n")
