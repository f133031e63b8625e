"""Where groups and labels disagree: one identity in several groups, several identities in one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.dedup.faces import Codes


@dataclass(frozen=True, slots=True, eq=False)
class Disagreements:
    """split: (s, 2) int32 of identity and group, by both, of identities whose faces are in two groups or more.
    merged: (t, 2) int32 of group and identity, by both, of groups that have faces of two identities or more.
    Numbers of identities are places in `identities`.
    """

    split: npt.NDArray[np.int32]
    merged: npt.NDArray[np.int32]
    identities: tuple[str, ...]

    @property
    def split_identities(self) -> int:
        """How many identities are in several groups."""
        return len(np.unique(self.split[:, 0]))

    @property
    def merged_groups(self) -> int:
        """How many groups have several identities."""
        return len(np.unique(self.merged[:, 0]))


def disagreements_of(group: Codes, identity: Codes, identities: tuple[str, ...]) -> Disagreements:
    """Of faces in groups: group, identity (k,) int32, -1 for a face without identity, which disagrees with nothing."""
    named = identity >= 0
    both = np.unique(np.stack([group[named], identity[named]], axis=1), axis=0).reshape(-1, 2).astype(np.int32)
    groups = np.bincount(both[:, 0]) if len(both) else np.zeros(0, np.int64)
    places = np.bincount(both[:, 1]) if len(both) else np.zeros(0, np.int64)
    merged = both[groups[both[:, 0]] > 1]
    split = both[places[both[:, 1]] > 1][:, ::-1]
    in_order = np.lexsort((split[:, 1], split[:, 0]))
    return Disagreements(np.ascontiguousarray(split[in_order]), merged, identities)
