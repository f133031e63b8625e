"""Logs as JSON lines, for machines that collect them. Nothing of ours logs a key, a label of a face or an image."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import orjson

REQUEST_ID: ContextVar[str | None] = ContextVar("facegrid.request_id", default=None)
"""Of the request that this task, or a thread that works for it, answers."""
_LOG = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, request_id (null outside of requests), and the fields that a
    record carries."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        if record.stack_info:
            line["stack"] = record.stack_info
        return _encoded(line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError) as error:
        return f"{record.msg} (its arguments do not fit: {error})"


def _encoded(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except orjson.JSONEncodeError:
        # Half a surrogate pair, as in the name of a file, or a very long number.
        return json.dumps(line, default=str)


def log_json(level: int = logging.INFO) -> None:
    """Have every logger write to stderr as JSON: warnings and what ends a thread or the process too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _LOG.critical("the process ends by an error", exc_info=(kind, error, trace))


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = "" if args.thread is None else args.thread.name
        _LOG.critical("thread %s ends by an error", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback))
