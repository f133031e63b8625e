"""What both command lines do with a run: measure, store the JSON document, draw, show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.engine.charts import draw
from benchmarks.engine.options import Options
from benchmarks.engine.report import show
from benchmarks.engine.results import RunResult
from benchmarks.engine.run import run
from shard.errors import MissingExtra


def execute(options: Options, tell: Callable[[str], None]) -> RunResult:
    """Run, write the document, draw the charts. tell: a line for each step; also why there are no charts."""
    result = run(options, tell)
    write(result, options.json_path)
    tell(f"wrote {options.json_path}")
    try:
        for path in draw(result, options.charts):
            tell(f"wrote {path}")
    except MissingExtra as error:
        tell(f"no charts: {error}")
    return result


def write(result: RunResult, path: Path) -> None:
    """The document, as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")


def print_report(result: RunResult) -> None:
    """The tables, on stdout; as wide as they need in a pipe."""
    console = Console(highlight=False)
    show(result, console if console.is_terminal else Console(highlight=False, width=220))
