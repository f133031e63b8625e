"""Agglomeration of faces that are linked by pairs, by how near the mean embeddings of two groups are.

Near is what one person's means would be: with w the cosine of two photos of a person, means of a and b photos have the
cosine w / sqrt((w + (1 - w) / a) (w + (1 - w) / b)), which is w for two photos and nears 1 for many. The **nearness**
of two groups is the cosine of their means over that. Groups merge when a pair links them, each is the other's nearest,
and they are near enough. So a person with varied photos comes together, though photos may be far apart, while a pair of
strangers that look alike does not tie two people: of many photos each, their means would have to be alike too.

Coordinates are rounded to multiples of 2^-14 and summed as whole numbers, which float64 does without error up to 2^53:
the outcome has the same bits in whatever order sums are made, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard.types import FloatArray, RowArray

Sums = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

SCALE = 2.0**14
"""Exact while the product of two groups' sizes is below 2^25."""
CHUNK = 4_096
"""Edges whose sums are gathered at a time: 2 x 16 MiB at 512 dimensions."""


@dataclass(frozen=True, slots=True, eq=False)
class FacesInPhotos:
    """Faces of photos that have several: face[i] is the node, photo[i] its photo, which[i] tells the photo's faces
    apart.

    Entries of one photo and one `which` are the same face, stored more than once. (f,) int64 each.
    """

    face: RowArray
    photo: RowArray
    which: RowArray


@dataclass(frozen=True, slots=True, eq=False)
class Linked:
    """Groups of k nodes: group (k,) int64, the smallest node of each node's group; was_large, met_photo (k,) bool: of
    the group with this smallest node, whether a merge was refused because of its size, or of two faces of one photo."""

    group: RowArray
    was_large: Marks
    met_photo: Marks


@dataclass(slots=True, eq=False)
class _Edges:
    """Pairs of groups, left < right, each once, and how near they are."""

    left: RowArray
    right: RowArray
    score: Sums

    def keep(self, mask: Marks) -> None:
        self.left, self.right, self.score = self.left[mask], self.right[mask], self.score[mask]


def link(
    vectors: FloatArray,
    left: RowArray,
    right: RowArray,
    scores: FloatArray,
    *,
    likeness: float,
    nearness: float,
    max_group: int,
    photos: FacesInPhotos | None,
) -> Linked:
    """Groups of the nodes 0..k-1, whose numbers break ties.

    vectors: (k, dim) float32 unit embeddings. left, right: (e,) int64, left < right, each pair once, with scores (e,)
    float32. likeness: cosine of two photos of one person, in (0, 1]. nearness: the least at which two groups merge.
    photos: None where it does not matter whether two faces are of one photo.
    """
    return _Agglomeration(
        vectors, _Edges(left, right, scores.astype(np.float64) / likeness), likeness, nearness, max_group, photos
    ).run()


class _Agglomeration:
    def __init__(
        self,
        vectors: FloatArray,
        edges: _Edges,
        likeness: float,
        nearness: float,
        max_group: int,
        photos: FacesInPhotos | None,
    ) -> None:
        nodes = len(vectors)
        self._sums: Sums = np.rint(np.asarray(vectors, np.float64) * SCALE)
        self._lengths = np.sqrt(np.einsum("ij,ij->i", self._sums, self._sums))
        self._sizes = np.ones(nodes, np.int64)
        self._group = np.arange(nodes, dtype=np.int64)
        self._was_large, self._met_photo = np.zeros(nodes, bool), np.zeros(nodes, bool)
        self._edges, self._likeness, self._nearness = edges, likeness, nearness
        self._max_group, self._photos = max_group, photos

    def run(self) -> Linked:
        while len(self._edges.left):
            chosen = self._mutual()
            if not len(chosen):
                break
            allowed = self._allowed(chosen)
            self._drop(chosen[~allowed])
            if allowed.any():
                self._merge(self._edges.left[chosen[allowed]], self._edges.right[chosen[allowed]])
            self._drop_marked()
        return Linked(self._group, self._was_large, self._met_photo)

    def _mutual(self) -> RowArray:
        """Edges whose ends are each other's nearest and near enough; of equals the one of the smallest node."""
        edges = self._edges
        best = np.full(len(self._sizes), -np.inf)
        np.maximum.at(best, edges.left, edges.score)
        np.maximum.at(best, edges.right, edges.score)
        nearest = np.full(len(best), len(best), np.int64)
        for near, far in ((edges.left, edges.right), (edges.right, edges.left)):
            at = edges.score == best[near]
            np.minimum.at(nearest, near[at], far[at])
        is_mutual = (nearest[edges.left] == edges.right) & (nearest[edges.right] == edges.left)
        return np.flatnonzero(is_mutual & (edges.score >= self._nearness))

    def _allowed(self, chosen: RowArray) -> Marks:
        """Of the chosen edges those whose groups may be one; marks those that may not."""
        left, right = self._edges.left[chosen], self._edges.right[chosen]
        too_large = self._sizes[left] + self._sizes[right] > self._max_group
        two_faces = self._meet_photos(left, right)
        for marks, which in ((self._was_large, too_large), (self._met_photo, two_faces)):
            marks[left[which]] = True
            marks[right[which]] = True
        return ~(too_large | two_faces)

    def _meet_photos(self, left: RowArray, right: RowArray) -> Marks:
        """Whether left[i] and right[i] have different faces of a photo."""
        meets = np.zeros(len(left), bool)
        if self._photos is None or not len(self._photos.face):
            return meets
        merge = np.full(len(self._sizes), -1, np.int64)
        merge[left] = merge[right] = np.arange(len(left))
        at = merge[self._group[self._photos.face]]
        known = at >= 0
        entries = np.unique(np.stack([at[known], self._photos.photo[known], self._photos.which[known]], axis=1), axis=0)
        same = (entries[1:, :2] == entries[:-1, :2]).all(axis=1)
        meets[entries[1:][same, 0]] = True
        return meets

    def _drop(self, refused: RowArray) -> None:
        """Mark edges that never hold: groups only grow, so what keeps two apart will go on to."""
        self._edges.score[refused] = -np.inf

    def _drop_marked(self) -> None:
        self._edges.keep(self._edges.score > -np.inf)

    def _merge(self, left: RowArray, right: RowArray) -> None:
        """Merge right[i] into left[i]; edges of what merged are compared anew."""
        self._sums[left] += self._sums[right]
        self._lengths[left] = np.sqrt(np.einsum("ij,ij->i", self._sums[left], self._sums[left]))
        self._sizes[left] += self._sizes[right]
        self._was_large[left] |= self._was_large[right]
        self._met_photo[left] |= self._met_photo[right]
        into = np.arange(len(self._sizes))
        into[right] = left
        self._group = into[self._group]
        grown = np.zeros(len(into), bool)
        grown[left] = True
        self._collapse(into, grown)

    def _collapse(self, into: RowArray, grown: Marks) -> None:
        edges = self._edges
        edges.keep(edges.score > -np.inf)
        a, b = into[edges.left], into[edges.right]
        low, high = np.minimum(a, b), np.maximum(a, b)
        touched = grown[low] | grown[high]
        fresh = np.unique((low * len(into) + high)[touched & (low != high)])
        new_left, new_right = fresh // len(into), fresh % len(into)
        edges.keep(~touched)
        self._edges = _Edges(
            np.concatenate([edges.left, new_left]),
            np.concatenate([edges.right, new_right]),
            np.concatenate([edges.score, self._nearnesses(new_left, new_right)]),
        )

    def _nearnesses(self, left: RowArray, right: RowArray) -> Sums:
        found = np.empty(len(left), np.float64)
        w = self._likeness
        expected = np.sqrt(w + (1 - w) / self._sizes)  # the length of a mean; w over two of them is the cosine
        for start in range(0, len(left), CHUNK):
            a, b = left[start : start + CHUNK], right[start : start + CHUNK]
            dots = np.einsum("ij,ij->i", self._sums[a], self._sums[b])
            cosines = dots / (self._lengths[a] * self._lengths[b])
            found[start : start + CHUNK] = cosines * (expected[a] * expected[b]) / w
        return found
