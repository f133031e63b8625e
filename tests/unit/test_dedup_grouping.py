"""Groups: what holds together is one group, what does not is taken apart, whatever the order, rows and shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.dedup import cohesion
from cluster.dedup.components import connected
from cluster.dedup.faces import Faces
from cluster.dedup.grouping import Groups, Review, Role, group, reasons_of
from cluster.dedup.rules import Rules
from shard.errors import InvalidParameter
from shard.pairs import Pairs
from shard.types import FloatArray, RowArray

DIM = 64
RULES = Rules(threshold=0.5)


def unit(rows: FloatArray) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def people(seed: int, sizes: list[int], spread: float = 0.8) -> FloatArray:
    """Photos of len(sizes) people, person by person."""
    rng = np.random.default_rng(seed)
    means = np.repeat(unit(rng.normal(size=(len(sizes), DIM))), sizes, axis=0)
    return unit(means + spread * rng.normal(size=means.shape) / np.sqrt(DIM))


def all_pairs(rows: FloatArray, threshold: float = 0.5) -> Pairs:
    scores = rows @ rows.T
    left, right = np.nonzero(np.triu(scores >= threshold, 1))
    return Pairs(left, right, scores[left, right].astype(np.float32))


def grouped(rows: FloatArray, rules: Rules = RULES, pairs: Pairs | None = None, faces: Faces | None = None) -> Groups:
    pairs = all_pairs(rows, rules.threshold) if pairs is None else pairs
    return group(pairs, Faces.unlabelled(len(rows)) if faces is None else faces, lambda wanted: rows[wanted], rules)


def members(groups: Groups) -> list[list[int]]:
    return [sorted(groups.row[groups.group == g].tolist()) for g in range(len(groups))]


def bridge(rows: FloatArray, a: int, b: int) -> FloatArray:
    """A photo half-way between two: what ties strangers together."""
    return np.concatenate([rows, unit(rows[[a]] + rows[[b]])])


def test_people_come_apart_and_together() -> None:
    rows = people(1, [5, 3, 1, 2], spread=0.5)
    found = grouped(rows)
    assert members(found) == [[0, 1, 2, 3, 4], [5, 6, 7], [9, 10]]
    assert not found.needs_review.any()
    assert found.sizes.tolist() == [5, 3, 2]
    assert found.is_medoid.sum() == 3
    assert (found.medoid_score[found.is_medoid] == 1).all()


def test_a_chain_of_strangers_is_cut_and_marked() -> None:
    """People tied one to the next by photos half-way between them: one component, which is nobody's."""
    rows = people(2, [8] * 6, spread=0.6)
    for person in range(5):
        rows = bridge(rows, 8 * person, 8 * person + 8)
    pairs = all_pairs(rows)
    assert len(np.unique(connected(len(rows), pairs.left, pairs.right))) == 1
    found = grouped(rows)
    whose = [{row // 8 for row in of if row < 48} for of in members(found)]
    assert sorted(map(sorted, whose)) == [[person] for person in range(6)]
    assert (found.review & Review.SPLIT).all()
    assert reasons_of(int(found.review[0])) == ("split",)


@pytest.mark.parametrize("cohesion_wanted", [0.0, 0.4, 0.7, 0.9])
def test_every_group_holds_together_around_its_medoid(cohesion_wanted: float) -> None:
    rows = bridge(people(3, [9, 4, 6, 2], spread=0.7), 0, 12)
    found = grouped(rows, replace(RULES, cohesion=cohesion_wanted))
    assert (found.medoid_score >= cohesion_wanted).all()
    for g in range(len(found)):
        of = found.group == g
        [medoid] = found.row[of & found.is_medoid]
        cosines = rows[found.row[of]] @ rows[medoid]
        assert np.abs(cosines - found.medoid_score[of]).max() < 1e-6
        assert (rows[found.row[of]] @ rows[found.row[of]].sum(axis=0)).max() == pytest.approx(
            float(rows[medoid] @ rows[found.row[of]].sum(axis=0)), abs=1e-3
        )


def test_sizes_are_kept() -> None:
    rows = people(4, [30, 2, 5], spread=0.5)
    found = grouped(rows, replace(RULES, min_group=3, max_group=12))
    assert found.sizes.max() <= 12
    assert found.sizes.min() >= 3
    large = [of[0] < 30 for of in members(found)]
    assert sum(large) >= 3
    assert ((found.review & Review.TOO_LARGE) > 0).tolist() == large


def photographed(n: int, photo: list[int]) -> Faces:
    return replace(Faces.unlabelled(n), photo=np.array(photo, np.int32))


def test_two_faces_of_one_photo_stay_apart_and_the_higher_score_wins() -> None:
    rows = unit(np.array([[1, 0, 0], [1, 0.3, 0], [1, 0.7, 0]], np.float32))
    faces = photographed(3, [0, 1, 1])
    found = grouped(rows, faces=faces)
    assert members(found) == [[0, 1]]
    assert found.review[0] & Review.TWO_FACES
    assert members(grouped(rows, replace(RULES, merge_same_photo=True), faces=faces)) == [[0, 1, 2]]


def test_twins_in_one_photo_are_no_pair() -> None:
    rows = unit(np.array([[1, 0, 0], [1, 0.2, 0]], np.float32))
    assert len(grouped(rows, faces=photographed(2, [7, 7]))) == 0


def test_one_photo_stored_twice_is_one_face() -> None:
    rows = unit(np.array([[1, 0, 0], [1, 0, 0], [1, 0.4, 0]], np.float32))
    found = grouped(rows, faces=photographed(3, [7, 7, 8]))
    assert members(found) == [[0, 1, 2]]
    assert not found.needs_review.any()


def test_no_group_has_two_faces_of_a_photo() -> None:
    rows = people(5, [12, 12], spread=0.7)
    faces = photographed(24, [i % 9 for i in range(24)])
    found = grouped(rows, faces=faces)
    for of in members(found):
        assert len({i % 9 for i in of}) == len(of)


def test_the_best_face_is_kept() -> None:
    rows = people(6, [3, 2])
    faces = replace(Faces.unlabelled(5), quality=np.array([0.2, 0.9, 0.9, np.nan, 0.1], np.float32))
    found = grouped(rows, faces=faces)
    assert found.row[found.role == Role.KEEP].tolist() == [1, 4]
    first = grouped(rows, replace(RULES, keep="first"), faces=faces)
    assert first.row[first.role == Role.KEEP].tolist() == [0, 3]


def test_labels_that_disagree_are_told() -> None:
    rows = people(7, [3, 3, 2])
    identity = np.array([0, 0, 1, 2, -1, 2, 0, -1], np.int32)
    found = grouped(rows, faces=replace(Faces.unlabelled(8), identity=identity, identities=("Ann", "Ben", "Cid")))
    assert found.disagreements.merged.tolist() == [[0, 0], [0, 1]]
    assert found.disagreements.split.tolist() == [[0, 0], [0, 2]]
    assert (found.disagreements.merged_groups, found.disagreements.split_identities) == (1, 1)
    assert ((found.review & Review.IDENTITIES) > 0).tolist() == [True, False, False]


def test_pairs_of_two_galleries_make_groups() -> None:
    rows = people(8, [4, 4], spread=0.6)
    pairs = all_pairs(rows)
    across = (pairs.left % 2) != (pairs.right % 2)
    found = grouped(rows, pairs=Pairs(pairs.left[across], pairs.right[across], pairs.scores[across]))
    assert members(found) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_nothing_makes_no_groups() -> None:
    empty = np.zeros(0, np.int64)
    found = grouped(np.zeros((0, DIM), np.float32), pairs=Pairs(empty, empty, np.zeros(0, np.float32)))
    assert len(found) == 0
    assert len(found.row) == 0


def test_a_pair_of_an_unknown_face_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="row 9 is not among the faces"):
        grouped(people(9, [3]), pairs=Pairs(np.array([0]), np.array([9]), np.array([0.9], np.float32)))


@pytest.mark.parametrize("wrong", [{"min_group": 1}, {"max_group": 1}, {"cohesion": 2.0}, {"threshold": float("nan")}])
def test_rules_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidParameter):
        Rules(**{"threshold": 0.5, **wrong})  # type: ignore[arg-type]


def outcome(found: Groups, name: dict[int, int]) -> list[tuple[object, ...]]:
    """Everything about every face in order, rows replaced by names that stay."""
    return [
        (
            int(found.group[i]),
            name[int(found.row[i])],
            int(found.role[i]),
            found.medoid_score[i].tobytes(),
            bool(found.is_medoid[i]),
            int(found.review[found.group[i]]),
        )
        for i in range(len(found.row))
    ]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    spread=st.floats(0.4, 1.2),
    batch=st.sampled_from([1, 7, 10_000]),
    max_group=st.sampled_from([4, 1_000]),
)
def test_order_rows_and_batches_change_nothing(
    seed: int, sizes: list[int], spread: float, batch: int, max_group: int
) -> None:
    """Faces in other rows, as another number of shards has them, pairs in another order and turned around."""
    rng = np.random.default_rng(seed)
    rows = people(seed, sizes, spread)
    n = len(rows)
    rules = Rules(threshold=0.4, max_group=max_group)
    faces = replace(
        photographed(n, rng.integers(-1, n, n).tolist()),
        quality=rng.choice([0.1, 0.5, np.nan], n).astype(np.float32),
        identity=rng.integers(-1, 4, n).astype(np.int32),
        identities=("a", "b", "c", "d"),
    )
    pairs = all_pairs(rows, 0.4)
    expected = outcome(grouped(rows, rules, pairs, faces), {i: i for i in range(n)})

    at = np.sort(rng.choice(3 * n, n, replace=False))  # rows with gaps
    face = rng.permutation(n)  # of each row
    moved = Faces(
        rows=at,
        order=face.astype(np.int64),
        input=faces.input,
        shard=faces.shard,
        identity=faces.identity[face],
        identities=faces.identities,
        photo=faces.photo[face],
        quality=faces.quality[face],
        phash=faces.phash,
        has_phash=faces.has_phash,
    )
    row_of = np.empty(n, np.int64)
    row_of[face] = at
    shuffled = rng.permutation(len(pairs.left))
    ends = np.stack([row_of[pairs.left], row_of[pairs.right]])[:, shuffled]
    mixed = Pairs(ends.min(axis=0), ends.max(axis=0), pairs.scores[shuffled])

    def floats(wanted: RowArray) -> FloatArray:
        assert (np.diff(wanted) > 0).all()
        return rows[face[np.searchsorted(at, wanted)]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohesion, "BATCH_NODES", batch)
        found = group(mixed, moved, floats, rules)
    assert outcome(found, {int(row_of[i]): i for i in range(n)}) == expected
    sizes_found = found.sizes
    assert (sizes_found >= 2).all()
    assert (sizes_found <= max_group).all()
    assert (np.bincount(found.group, found.role == Role.KEEP, len(found)) == 1).all()
    for g in range(len(found)):
        photos = moved.photo[np.searchsorted(at, found.row[found.group == g])]
        assert len(np.unique(photos[photos >= 0])) == (photos >= 0).sum()


@settings(max_examples=60)
@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
def test_components_are_those_of_a_search(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, edges = graph
    label = list(range(n))
    for a, b in edges:
        old, new = max(label[a], label[b]), min(label[a], label[b])
        label = [new if x == old else x for x in label]
    ends = np.array(edges, np.int64).reshape(-1, 2)
    assert connected(n, ends[:, 0], ends[:, 1]).tolist() == label
