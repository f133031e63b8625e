"""How well groups agree with labels: pairwise and B-cubed precision, recall and F.

Source of B-cubed: Bagga & Baldwin, COLING-ACL 1998; Amigó et al., Information Retrieval 12, 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares in [0, 1].

    Pairwise: of the pairs within groups, how many are of one person (precision), and of the pairs of one person how
    many are within a group (recall). B-cubed: the same for each face, of the faces in its group and of its person,
    averaged over faces. A share of nothing is 1."""

    pair_precision: float
    pair_recall: float
    bcubed_precision: float
    bcubed_recall: float

    @property
    def pair_f(self) -> float:
        """Harmonic mean of pairwise precision and recall."""
        return _harmonic(self.pair_precision, self.pair_recall)

    @property
    def bcubed_f(self) -> float:
        """Harmonic mean of B-cubed precision and recall."""
        return _harmonic(self.bcubed_precision, self.bcubed_recall)


def agreement(groups: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Agreement:
    """Of n faces: groups (n,) int64, -1 for a face that is in none, which is a group of its own; labels (n,) int64.

    Raises InvalidParameter for arrays of different lengths or none.
    """
    if groups.shape != labels.shape or groups.ndim != 1 or not len(groups):
        raise InvalidParameter(f"groups, labels: expected (n,) both, got {groups.shape} and {labels.shape}")
    alone = np.flatnonzero(groups < 0)
    groups = groups.astype(np.int64)
    groups[alone] = groups.max() + 1 + np.arange(len(alone))
    _, group, group_sizes = np.unique(groups, return_inverse=True, return_counts=True)
    _, label, label_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    cells = group.astype(np.int64) * len(label_sizes) + label
    _, cell, shared = np.unique(cells, return_inverse=True, return_counts=True)
    together = _pairs(shared)
    return Agreement(
        pair_precision=_share(together, _pairs(group_sizes)),
        pair_recall=_share(together, _pairs(label_sizes)),
        bcubed_precision=float((shared[cell] / group_sizes[group]).mean()),
        bcubed_recall=float((shared[cell] / label_sizes[label]).mean()),
    )


def _pairs(sizes: npt.NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
