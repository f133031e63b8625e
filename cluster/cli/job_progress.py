"""How far a job is: a bar with rate and time left on a terminal, and in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.job_types import JobRecord

Tell = Callable[["JobRecord"], None]
_HOUR, _DAY = 3_600, 86_400


@contextlib.contextmanager
def job_bar(is_wanted: bool) -> Iterator[Tell]:
    """What to call with a job whenever something of it may have changed; it shows nothing where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not is_wanted or not console.is_terminal:
        yield lambda record: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, told="")

        def tell(record: JobRecord) -> None:
            title = record.phase or record.state.value
            bar.update(
                task, description=title, completed=record.done, total=record.total or None, told=progress_text(record)
            )

        yield tell


def progress_text(record: JobRecord) -> str:
    """Such as `12 of 80 blocks, 3.1/s, 22 s left`; empty before the job has begun."""
    if not record.unit:
        return ""
    amount = f"{record.done:,} of {record.total:,}" if record.total else f"{record.done:,}"
    parts = [f"{amount} {record.unit}"]
    if not record.state.has_ended and record.rate is not None:
        parts.append(rate_text(record.rate))
    if not record.state.has_ended and record.eta_s is not None:
        parts.append(f"{duration_text(record.eta_s)} left")
    return ", ".join(parts)


def rate_text(rate: float) -> str:
    """Units a second, with as many digits as say something; a minute's where there are few."""
    if rate < 0.1:
        return f"{rate * 60:.2g}/min"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def duration_text(seconds: float) -> str:
    """A time in its two largest units, such as `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // 60:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02} h"
