import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator import merge
from shard.keys import template_keys
from shard.types import CandidateBatch

Candidate = tuple[float, str]


def batch(lists: list[list[Candidate]], k: int) -> CandidateBatch:
    """Candidate lists as a shard would give them: sorted, padded to k."""
    ordered = [sorted(row, key=lambda c: (-c[0], int(template_keys([c[1]])[0])))[:k] for row in lists]
    scores = np.full((len(lists), k), np.nan, np.float32)
    keys = np.zeros((len(lists), k), np.uint64)
    for i, row in enumerate(ordered):
        for j, (score, template_id) in enumerate(row):
            scores[i, j], keys[i, j] = score, template_keys([template_id])[0]
    ids = tuple(tuple(template_id for _, template_id in row) for row in ordered)
    return CandidateBatch(scores, keys, ids, tuple(tuple(f"who-{i}" for i in row) for row in ids))


scores = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.5, 0.75])
galleries = st.lists(st.lists(scores, max_size=12), min_size=1, max_size=4)


@given(galleries, st.integers(1, 6), st.integers(1, 5))
def test_merging_parts_equals_sorting_the_whole(rows: list[list[float]], k: int, parts: int) -> None:
    whole = [[(score, f"p{i}-{j}") for j, score in enumerate(row)] for i, row in enumerate(rows)]
    pieces = [batch([row[part::parts] for row in whole], k) for part in range(parts)]
    merged, expected = merge.merge(pieces, k), batch(whole, k)
    np.testing.assert_array_equal(merged.scores, expected.scores)
    np.testing.assert_array_equal(merged.keys, expected.keys)
    assert merged.template_ids == expected.template_ids
    assert merged.identities == expected.identities


def test_stack_puts_probes_one_after_another() -> None:
    first, second = batch([[(0.5, "a")]], 2), batch([[(0.25, "b")], []], 2)
    stacked = merge.stack([first, second])
    assert stacked.template_ids == (("a",), ("b",), ())
    assert stacked.scores.shape == (3, 2)


def test_empty_has_no_candidates() -> None:
    nothing = merge.empty(2, 3)
    assert nothing.template_ids == ((), ())
    assert np.isnan(nothing.scores).all()


@given(galleries, st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**16))
def test_what_is_in_two_parts_counts_once(rows: list[list[float]], k: int, parts: int, seed: int) -> None:
    """A template on its way from one shard to another is in both."""
    whole = [[(score, f"p{i}-{j}") for j, score in enumerate(row)] for i, row in enumerate(rows)]
    rng = np.random.default_rng(seed)
    pieces = [[[c for c in row if rng.random() < 0.5 or part == 0] for row in whole] for part in range(parts)]
    found = merge.merge([batch(piece, k) for piece in pieces], k)
    expected = batch(whole, k)
    assert found.template_ids == expected.template_ids
    assert found.identities == expected.identities
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.keys, expected.keys)
