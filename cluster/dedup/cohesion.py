"""Components into pieces that hold together around their medoids.

The component whose faces are all pairs of each other is one as it is, without a look at embeddings. All others go
through `linkage`, some ten thousand faces at a time; what is too far from its group's medoid afterwards is taken out
and linked anew, until every face is near enough to the medoid of its group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.dedup.components import connected
from cluster.dedup.faces import Faces
from cluster.dedup.linkage import FacesInPhotos, link
from cluster.dedup.links import Links
from cluster.dedup.medoids import medoids_by_embeddings, medoids_by_pairs
from cluster.dedup.photos import IDENTICAL_SCORE
from cluster.dedup.rules import Rules
from shard.types import FloatArray, RowArray

BATCH_NODES = 32_768
"""Faces of components that are taken apart at a time: 128 MiB of sums at 512 dimensions. A batch may have twice as
many."""
NEARNESS = 0.55
"""How near groups are that merge, see linkage.py: chosen on one half of LFW, docs/decisions/0028-grouping.md."""
LEAST_LIKENESS = 0.05
"""Of a person's photos, where thresholds near zero make pairs of everybody."""
LARGE, APART = 2, 4
"""Bits of Review, which this module sets; see grouping.py."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Of m nodes: group (m,) int64, the smallest node of the piece; medoid (m,) int64 its medoid; medoid_score (m,)
    float32 the cosine to it; review (m,) uint8, at a piece's smallest node the LARGE and APART of the piece."""

    group: RowArray
    medoid: RowArray
    medoid_score: FloatArray
    review: npt.NDArray[np.uint8]


def pieces_of(
    links: Links, component: RowArray, faces: Faces, floats: Callable[[RowArray], FloatArray], rules: Rules
) -> Piece:
    """Pieces of the components (m,) int64 that `links` makes of the faces."""
    nodes = len(component)
    found = Piece(
        np.arange(nodes, dtype=np.int64),
        np.arange(nodes, dtype=np.int64),
        np.ones(nodes, np.float32),
        np.zeros(nodes, np.uint8),
    )
    is_whole = _whole(links, component, rules)
    of_edge = is_whole[component[links.left]]
    _fill(found, np.flatnonzero(is_whole[component]), component, links, of_edge)
    likeness = _likeness(links, rules)
    photos = None if rules.merge_same_photo else _photos(links, faces, component)
    for batch in _batches(links, component, ~is_whole[component], ~of_edge):
        _take_apart(found, batch, links, faces, floats, rules, photos, likeness)
    return found


def _whole(links: Links, component: RowArray, rules: Rules) -> npt.NDArray[np.bool_]:
    """(m,) bool, at a component's label: whether all its faces are pairs of each other, near enough and not too many."""
    size = np.bincount(component, minlength=len(component))
    edges = np.bincount(component[links.left], minlength=len(component))
    least = np.ones(len(component), np.float32)
    np.minimum.at(least, component[links.left], links.scores)
    is_near = least >= rules.least_cohesion
    return np.asarray((edges == size * (size - 1) // 2) & (size <= rules.max_group) & is_near)


def _fill(found: Piece, nodes: RowArray, component: RowArray, links: Links, edges: npt.NDArray[np.bool_]) -> None:
    """Write components that are pieces as they are."""
    found.group[nodes] = component[nodes]
    left, right, scores = links.left[edges], links.right[edges], links.scores[edges]
    medoid, score = medoids_by_pairs(component, left, right, scores)
    found.medoid[nodes], found.medoid_score[nodes] = medoid[nodes], score[nodes]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Components to be taken apart: nodes (b,) int64 ascending, and places in Links of the edges between them."""

    nodes: RowArray
    edges: RowArray


def _batches(
    links: Links, component: RowArray, nodes: npt.NDArray[np.bool_], edges: npt.NDArray[np.bool_]
) -> Iterator[_Batch]:
    """Whole components, in order of their labels, up to BATCH_NODES and one component more at a time."""
    which = np.flatnonzero(nodes)
    if not len(which):
        return
    sizes = np.bincount(component[which], minlength=len(component))
    number = (np.cumsum(sizes) - sizes) // BATCH_NODES  # of a batch, at a component's label
    edge = np.flatnonzero(edges)
    node_batch, edge_batch = number[component[which]], number[component[links.left[edge]]]
    node_order, edge_order = np.argsort(node_batch, kind="stable"), np.argsort(edge_batch, kind="stable")
    for batch in np.unique(node_batch):
        yield _Batch(
            which[node_order[slice(*np.searchsorted(node_batch[node_order], [batch, batch + 1]))]],
            edge[edge_order[slice(*np.searchsorted(edge_batch[edge_order], [batch, batch + 1]))]],
        )


def _take_apart(
    found: Piece,
    batch: _Batch,
    links: Links,
    faces: Faces,
    floats: Callable[[RowArray], FloatArray],
    rules: Rules,
    photos: FacesInPhotos | None,
    likeness: float,
) -> None:
    """Write the pieces of a batch's components."""
    nodes = batch.nodes
    vectors = _vectors(floats, faces.rows[links.face[nodes]])
    left, right = np.searchsorted(nodes, links.left[batch.edges]), np.searchsorted(nodes, links.right[batch.edges])
    scores, here = links.scores[batch.edges], _within(photos, nodes)
    waiting = np.ones(len(nodes), bool)
    while waiting.any():
        at = waiting[left] & waiting[right]
        linked = link(
            vectors,
            left[at],
            right[at],
            scores[at],
            likeness=likeness,
            nearness=min(NEARNESS, rules.threshold / likeness),
            max_group=rules.max_group,
            photos=here,
        )
        members = np.flatnonzero(waiting)
        medoid, score = medoids_by_embeddings(vectors, members, linked.group[members])
        holds = (score >= rules.least_cohesion) | (medoid == members)
        done, heads = members[holds], linked.group[members[holds]]
        smallest = np.full(len(nodes), len(nodes), np.int64)
        np.minimum.at(smallest, heads, done)  # of those that stay: the old smallest may have gone
        found.group[nodes[done]] = nodes[smallest[heads]]
        found.medoid[nodes[done]], found.medoid_score[nodes[done]] = nodes[medoid[holds]], score[holds]
        marks = LARGE * linked.was_large[heads] + APART * linked.met_photo[heads]
        found.review[nodes[smallest[heads]]] |= marks.astype(np.uint8)
        waiting[done] = False


def _likeness(links: Links, rules: Rules) -> float:
    """Cosine of two photos of one person: the mean score of pairs, identical pictures left out, the threshold if none.

    Summed as whole numbers, so that it has the same bits in any order.
    """
    scores = links.scores[links.scores < IDENTICAL_SCORE]
    if not len(scores):
        return max(rules.threshold, LEAST_LIKENESS)
    total = int(np.rint(scores.astype(np.float64) * 2**24).astype(np.int64).sum())
    return max(total / len(scores) / 2**24, LEAST_LIKENESS)


def _vectors(floats: Callable[[RowArray], FloatArray], rows: RowArray) -> FloatArray:
    in_order = np.argsort(rows)
    found = floats(rows[in_order])
    vectors = np.empty_like(found)
    vectors[in_order] = found
    return vectors


def _photos(links: Links, faces: Faces, component: RowArray) -> FacesInPhotos | None:
    """The faces of photos of which a component has several; None if there are none."""
    photo = faces.photo[links.face].astype(np.int64)
    known = np.flatnonzero(photo >= 0)
    key = component[known] * (int(photo.max(initial=0)) + 1) + photo[known]
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    several = known[counts[inverse] > 1]
    if not len(several):
        return None
    which = connected(len(component), links.same_face[:, 0], links.same_face[:, 1])
    return FacesInPhotos(several, photo[several], which[several])


def _within(photos: FacesInPhotos | None, nodes: RowArray) -> FacesInPhotos | None:
    """The entries of these nodes, ascending, as places among them."""
    if photos is None:
        return None
    at = np.isin(photos.face, nodes)
    return FacesInPhotos(np.searchsorted(nodes, photos.face[at]), photos.photo[at], photos.which[at])
