"""Groups of faces of one person, from pairs: connected components with a guard against chains.

A component whose faces are all pairs of each other is a group. Any other is taken apart and put together again by
`linkage`, and must hold together around its medoid, the face that is most like all others of the group. Whatever was
taken apart is marked for review, with the reason. The outcome depends on the pairs and the template ids alone: not on
the order of pairs, on rows, shards, workers or machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

from cluster.dedup.cohesion import Piece, pieces_of
from cluster.dedup.components import connected
from cluster.dedup.disagreements import Disagreements, disagreements_of
from cluster.dedup.faces import Faces
from cluster.dedup.links import Links, links_of
from cluster.dedup.rules import Rules
from shard.join import Pairs
from shard.types import FloatArray, RowArray

Floats = Callable[[RowArray], FloatArray]
"""Embeddings, (n, dim) float32 of unit norm, of global rows (n,) int64 in ascending order."""


class Role(IntEnum):
    """What a face is in its group, the number that files have."""

    KEEP = 0
    DUPLICATE = 1


class Review(IntFlag):
    """Why somebody should look at a group; none of them where nobody has to."""

    SPLIT = 1
    """Part of a larger component, which did not hold together."""
    TOO_LARGE = 2
    """It would have become larger than max_group."""
    TWO_FACES = 4
    """Two faces of one photo were linked to it."""
    IDENTITIES = 8
    """Faces of different identities are in it."""


REASONS = {
    Review.SPLIT: "split",
    Review.TOO_LARGE: "too_large",
    Review.TWO_FACES: "two_faces_of_one_photo",
    Review.IDENTITIES: "different_identities",
}
"""Names of reasons, as files and people have them."""


def reasons_of(review: int) -> tuple[str, ...]:
    """Names of the reasons of one group's `review`."""
    return tuple(name for flag, name in REASONS.items() if review & flag)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Faces in groups: entry i of group, row, role, medoid_score and is_medoid is a face's.

    By group, the face that is kept first, then by input and template id. group: (k,) int32 from 0; groups are in order
    of their first face by input and template id. row: (k,) int64 global row. role: (k,) uint8 of Role. medoid_score:
    (k,) float32 cosine to the group's medoid, 1 for itself. is_medoid: (k,) bool. review: (g,) uint8 of Review flags of
    each group. components: how many connected components there were."""

    group: npt.NDArray[np.int32]
    row: RowArray
    role: npt.NDArray[np.uint8]
    medoid_score: FloatArray
    is_medoid: npt.NDArray[np.bool_]
    review: npt.NDArray[np.uint8]
    components: int
    disagreements: Disagreements

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.review)

    @property
    def needs_review(self) -> npt.NDArray[np.bool_]:
        """(g,) bool."""
        return np.asarray(self.review != 0)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(g,) int64 faces of each group."""
        return np.bincount(self.group, minlength=len(self.review)).astype(np.int64)


def group(pairs: Pairs, faces: Faces, floats: Floats, rules: Rules) -> Groups:
    """Groups of the faces of these pairs, which are in any order; each pair once, or twice with the same score.

    faces: every face that occurs in a pair; may have more. floats: asked for faces of components that are not all pairs
    of each other, up to some 60,000 at a time."""
    links = links_of(pairs, faces, rules)
    component = connected(len(faces), links.left, links.right)
    piece = pieces_of(links, component, faces, floats, rules)
    return _assembled(piece, component, links, faces, rules)


def _assembled(piece: Piece, component: RowArray, links: Links, faces: Faces, rules: Rules) -> Groups:
    """Groups of pieces that are large enough. Nodes are faces in canonical order: see Links."""
    sizes = np.bincount(piece.group, minlength=len(faces))
    nodes = np.flatnonzero(sizes[piece.group] >= rules.min_group)
    heads, number = np.unique(piece.group[nodes], return_inverse=True)
    kept = _kept(number, nodes, faces, links, rules)
    in_order = np.lexsort((nodes, ~kept, number))
    nodes, number, kept = nodes[in_order], number[in_order], kept[in_order]
    at = links.face[nodes]
    disagreements = disagreements_of(number.astype(np.int32), faces.identity[at], faces.identities)
    review = piece.review[heads].copy()
    component_sizes = np.bincount(component, minlength=len(faces))
    review[component_sizes[component[heads]] > sizes[heads]] |= np.uint8(Review.SPLIT)
    review[np.unique(disagreements.merged[:, 0])] |= np.uint8(Review.IDENTITIES)
    return Groups(
        group=number.astype(np.int32),
        row=faces.rows[at],
        role=np.where(kept, Role.KEEP, Role.DUPLICATE).astype(np.uint8),
        medoid_score=piece.medoid_score[nodes],
        is_medoid=piece.medoid[nodes] == nodes,
        review=review,
        components=int((component_sizes > 1).sum()),
        disagreements=disagreements,
    )


def _kept(number: RowArray, nodes: RowArray, faces: Faces, links: Links, rules: Rules) -> npt.NDArray[np.bool_]:
    """Which node of each group is kept: of the best quality, unknown ones last; of equals the first."""
    quality = np.zeros(len(nodes), np.float32)
    if rules.keep == "quality":
        quality = np.nan_to_num(faces.quality[links.face[nodes]], nan=-np.inf)
    in_order = np.lexsort((nodes, -quality, number))
    is_first = np.ones(len(nodes), bool)
    is_first[1:] = number[in_order][1:] != number[in_order][:-1]
    kept = np.zeros(len(nodes), bool)
    kept[in_order[is_first]] = True
    return kept
