"""A progress bar for those who want one; the library of bars is loaded only then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]


@contextlib.contextmanager
def shown(wanted: Progress | bool, title: str) -> Iterator[Progress | None]:
    """What to call with (done, in all): the caller's own, a bar on a terminal for True, None for False."""
    if callable(wanted) or not wanted:
        yield wanted if callable(wanted) else None
        return
    from cluster.progress import show_progress

    with show_progress(wanted, title) as tell:
        yield tell
