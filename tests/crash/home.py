"""A local home under a fault of the disk: what a user does with `Cluster`. Tasks of forked children.

Says `done` with the number of each step that returned, and `wrong` for an error that is not a FacegridError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cluster import Cluster
from shard.errors import FacegridError
from tests.crash.faults import Fault, Shim, armed
from tests.crash.history import DIM
from tests.crash.workload import Say
from tests.faces_like import unit_rows

GALLERY, ROWS = "crash/main", 40
IDS = [f"t{i}" for i in range(ROWS)]
DELETED = IDS[::5]
_LEFT = set(IDS) - set(DELETED)
AFTER = {"create": set[str](), "enroll": set(IDS), "delete": _LEFT, "flush": _LEFT}
"""Step to the ids that are there once it is acknowledged."""


def run(say: Say, *, home: str, fault: dict[str, Any]) -> None:
    """Open a home, make a gallery, enroll, delete, flush; a step that fails ends it."""
    Shim().reset()
    with armed(home, Fault(**fault), say):
        try:
            with Cluster.open(home) as grid:
                for step, act in _steps(grid).items():
                    act()
                    say(done=step)
        except FacegridError as error:
            say(failed=type(error).__name__, message=str(error))
        except Exception as error:  # noqa: BLE001  (what a user would meet)
            say(wrong=f"a fault of the disk came as {error!r}")


def look(say: Say, *, home: str, done: Sequence[str]) -> None:
    """The home opens; what was acknowledged is there, and everything can be done again."""
    with Cluster.open(home) as grid:
        if done:
            following = [step for step in AFTER if step not in done][:1]
            doubt = set(IDS) if following == ["enroll"] else set(DELETED) if following == ["delete"] else set()
            found = {template.template_id for template in grid.gallery(GALLERY).templates(IDS)}
            if (found ^ AFTER[done[-1]]) - doubt:
                say(wrong=f"after {done[-1]}: {sorted(found)}")
        for act in _steps(grid).values():
            act()
        rows = unit_rows(ROWS, DIM, seed=1)
        kept = [i for i, template_id in enumerate(IDS) if template_id not in DELETED]
        best = grid.gallery(GALLERY).search(np.ascontiguousarray(rows[kept]), k=1).template_ids
        if [names[0] for names in best] != [IDS[i] for i in kept]:
            say(wrong=f"found by themselves: {best}")
    say(end=True)


def _steps(grid: Cluster) -> dict[str, Callable[[], Any]]:
    def enroll() -> None:
        grid.gallery(GALLERY).enroll(unit_rows(ROWS, DIM, seed=1), template_ids=IDS, if_exists="skip")

    return {
        "create": lambda: grid.gallery(GALLERY, create=True, shards=2, dim=DIM),
        "enroll": enroll,
        "delete": lambda: grid.gallery(GALLERY).delete(template_ids=DELETED),
        "flush": lambda: grid.gallery(GALLERY).flush(),
    }
