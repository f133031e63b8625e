"""`effective_groups`: the groups of a result as the review left them, which is what an apply goes by. Pure.

A group has a name: its number, `12.1` and `12.2` where it was split, the lowest number where several were merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.dedup.decisions import Decision, MemberRef, Review, ReviewAction
from cluster.dedup.result_columns import DUPLICATE, KEEP
from cluster.dedup.result_files import DedupResult

IN, UNREVIEWED, REJECTED, ALONE = "", "needs_review", "rejected", "split_off"
"""Whether a member is in a group that is applied, or why it is not."""


@dataclass(frozen=True, slots=True)
class EffectiveGroups:
    """Entry i is of row i of groups.parquet: object arrays (k,) of texts, and whether a reviewer decided its group.

    name: of the group it is in now; role: KEEP or DUPLICATE; out: IN, or why it is left out.
    """

    name: npt.NDArray[np.object_]
    role: npt.NDArray[np.object_]
    out: npt.NDArray[np.object_]
    is_reviewed: npt.NDArray[np.bool_]


def effective_groups(result: DedupResult, review: Review) -> EffectiveGroups:
    """What the decisions in force make of the groups. Without any: the groups that need no review."""
    table = result.groups
    numbers = table.column("group").to_numpy()
    found = EffectiveGroups(
        name=np.array([str(number) for number in range(len(result))], dtype=object)[numbers],
        role=np.array(table.column("role").to_pylist(), dtype=object),
        out=np.where(table.column("needs_review").to_numpy(), UNREVIEWED, IN).astype(object),
        is_reviewed=np.zeros(len(numbers), np.bool_),
    )
    for decision in dict.fromkeys(review.in_force().values()):
        rows = np.concatenate([np.arange(len(numbers))[result.rows_of(group)] for group in decision.groups])
        found.is_reviewed[rows] = True
        _decide(result, found, decision, rows)
    return found


def _decide(result: DedupResult, found: EffectiveGroups, decision: Decision, rows: npt.NDArray[np.int64]) -> None:
    found.out[rows] = REJECTED if decision.action is ReviewAction.REJECT else IN
    if decision.action is ReviewAction.MERGE:
        found.name[rows] = str(min(decision.groups))
        _choose_keep(result.groups, found, rows)
    elif decision.action is ReviewAction.SPLIT:
        (group,) = decision.groups
        at = {MemberRef(m.gallery, m.template_id): row for m, row in zip(result.members_of(group), rows, strict=True)}
        found.out[rows] = ALONE
        for number, part in enumerate(decision.parts, start=1):
            members = np.array([at[ref] for ref in part], np.int64)
            found.name[members] = f"{group}.{number}"
            if len(members) > 1:
                found.out[members] = IN
                _choose_keep(result.groups, found, np.sort(members))


def _choose_keep(table: Any, found: EffectiveGroups, rows: npt.NDArray[np.int64]) -> None:
    """Keep one: of those that were kept, or of all if none was, the one of best quality, then the first."""
    kept = [row for row in rows.tolist() if found.role[row] == KEEP] or rows.tolist()
    quality = {row: table.column("quality")[row].as_py() for row in kept}
    best = max(kept, key=lambda row: (-1.0 if quality[row] is None else quality[row], -row))
    found.role[rows] = DUPLICATE
    found.role[best] = KEEP
