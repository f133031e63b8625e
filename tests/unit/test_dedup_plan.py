"""Every pair of parts once; pairs as bytes and in order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cluster.dedup.corpus import Part
from cluster.dedup.pairs import FoundPairs, decode_pairs, encode_pairs, gathered, pairs_in
from cluster.dedup.plan import PartPair, part_pairs
from shard.errors import CorruptData
from shard.join import Pairs


def parts(*counts: int, rows: int = 10) -> list[Part]:
    numbers = itertools.count()
    return [
        Part(n, i, n * rows, (n + 1) * rows)
        for i, count in enumerate(counts)
        for n in (next(numbers) for _ in range(count))
    ]


@pytest.mark.parametrize(("count", "tile"), [(0, 7), (1, 7), (8, 7), (30, 7), (5, 1)])
def test_parts_of_one_input_meet_once(count: int, tile: int) -> None:
    found = [(p.left.number, p.right.number) for p in part_pairs(parts(count), tile=tile)]
    assert sorted(found) == list(itertools.combinations_with_replacement(range(count), 2))


def test_parts_of_two_inputs_meet_across_only() -> None:
    found = [(p.left.number, p.right.number) for p in part_pairs(parts(9, 4), is_cross=True, tile=2)]
    assert sorted(found) == list(itertools.product(range(9), range(9, 13)))
    assert next(iter(part_pairs(parts(9, 4), is_cross=True))).name == "pairs-0000-0009"


def test_an_empty_input_meets_nothing() -> None:
    assert list(part_pairs(parts(3), is_cross=True)) == []


def test_blocks_that_follow_each_other_have_few_parts() -> None:
    tile = 7
    order = list(part_pairs(parts(40), tile=tile))
    for first in range(0, len(order) - tile * tile, tile * tile):
        some = order[first : first + tile * tile]
        used = {p.left.number for p in some} | {p.right.number for p in some}
        assert len(used) <= 4 * tile  # a stretch that is as long as a tile meets two of them


def drawn(block: PartPair, count: int, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    cells = rng.choice(len(block.left) * len(block.right), count, replace=False)
    left, right = cells // len(block.right), cells % len(block.right)
    if block.left == block.right:
        left, right = left[left < right], right[left < right]
    return Pairs(left, right, rng.random(len(left), dtype=np.float32))


def found_in(blocks: list[PartPair]) -> tuple[FoundPairs, list[tuple[int, int, float]]]:
    checkpoints, expected = {}, []
    for seed, block in enumerate(blocks):
        pairs = drawn(block, 40, seed)
        checkpoints[block.name] = encode_pairs(pairs)
        expected += zip(
            (pairs.left + block.left.start).tolist(), (pairs.right + block.right.start).tolist(),
            pairs.scores.tolist(), strict=True,
        )  # fmt: skip
    return FoundPairs(blocks, checkpoints.__getitem__), expected


def listed(pairs: Pairs) -> list[tuple[int, int, float]]:
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.scores.tolist(), strict=True))


def test_pairs_of_all_blocks_come_sorted() -> None:
    found, expected = found_in(list(part_pairs(parts(5), tile=2)))
    assert len(found) == len(expected)
    assert listed(found.all()) == sorted(expected)
    assert found.rows().tolist() == sorted({row for a, b, _ in expected for row in (a, b)})


@pytest.mark.parametrize("batch", [1, 37, 10_000])
def test_pairs_come_by_rank(batch: int) -> None:
    found, expected = found_in(list(part_pairs(parts(5))))
    rows = found.rows()
    rank = np.random.default_rng(3).permutation(len(rows))
    of = dict(zip(rows.tolist(), rank.tolist(), strict=True))
    turned = [(a, b, s) if of[a] < of[b] else (b, a, s) for a, b, s in expected]
    batches = list(found.ordered(rows, rank, batch_pairs=batch))
    assert listed(gathered(batches, len(found))) == sorted(turned, key=lambda pair: (of[pair[0]], of[pair[1]]))
    assert max(len(b.left) for b in batches) <= max(batch, 50)


def test_no_pairs() -> None:
    (block,) = part_pairs(parts(1))
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    found = FoundPairs([block], {block.name: encode_pairs(none)}.__getitem__)
    assert (len(found), len(found.all().left), len(found.rows())) == (0, 0, 0)
    assert list(found.ordered(found.rows(), np.empty(0, np.int64))) == []


def test_the_same_pairs_are_the_same_bytes() -> None:
    (block,) = part_pairs(parts(1))
    pairs = drawn(block, 40, 1)
    order = np.random.default_rng(0).permutation(len(pairs.left))
    assert encode_pairs(pairs) == encode_pairs(Pairs(pairs.left[order], pairs.right[order], pairs.scores[order]))


def test_what_is_no_checkpoint_of_the_block_is_named() -> None:
    (block,) = part_pairs(parts(1))
    data = encode_pairs(drawn(block, 40, 1))
    with pytest.raises(CorruptData, match="pairs-0000-0000"):
        pairs_in(data[:-1], block.name)
    with pytest.raises(CorruptData, match="pairs-0000-0000"):
        pairs_in(b"", block.name)
    small = PartPair(Part(0, 0, 0, 2), Part(0, 0, 0, 2))
    with pytest.raises(CorruptData, match="rows that its parts do not have"):
        decode_pairs(data, small)
