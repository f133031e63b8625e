"""Which identity a group gets, and which groups are of several, not to be merged without a look. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cluster.dedup.result_columns import KEEP

SEVERAL = "several_identities"
"""Why a group is left out whose templates have several identities, until a reviewer accepts it."""


def conflicting_groups(
    groups: Mapping[str, list[int]], identities: Sequence[str | None], is_reviewed: npt.NDArray[np.bool_]
) -> list[str]:
    """Names of groups with more than one identity that nobody decided about. groups: name to rows."""
    return [
        name
        for name, rows in groups.items()
        if not is_reviewed[rows].all() and len({identities[row] for row in rows} - {None}) > 1
    ]


def new_identities(
    job_id: str,
    groups: Mapping[str, list[int]],
    identities: Sequence[str | None],
    roles: npt.NDArray[np.object_],
) -> dict[str, str]:
    """The identity for each group: that of the template it keeps; without one the most frequent, then the first by
    name; `dedup-<job id>-<group>` where nobody has any.
    """
    return {name: _identity_of(job_id, name, rows, identities, roles) for name, rows in groups.items()}


def _identity_of(
    job_id: str, name: str, rows: list[int], identities: Sequence[str | None], roles: npt.NDArray[np.object_]
) -> str:
    for row in rows:
        kept = identities[row]
        if roles[row] == KEEP and kept is not None:
            return kept
    counts = Counter(identity for identity in (identities[row] for row in rows) if identity is not None)
    if not counts:
        return f"dedup-{job_id}-{name}"
    most = max(counts.values())
    return min(identity for identity, count in counts.items() if count == most)
