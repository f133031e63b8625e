"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tell = Callable[[int, int], None]
"""Gets what is done and what there is in all, 0 where that is unknown."""


@contextlib.contextmanager
def show_progress(
    wanted: Tell | bool, title: str, *, unit: Literal["things", "bytes"] = "things"
) -> Iterator[Tell | None]:
    """What to call with (done, in all): the caller's own, a bar on stderr if that is a terminal, or None."""
    if callable(wanted):
        yield wanted
        return
    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield None
        return
    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
