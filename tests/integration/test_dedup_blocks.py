"""Blocks of a join against brute force, on galleries of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster
from cluster.dedup import blocks
from cluster.dedup.blocks import JoinTask, VerifyTask, basis_of, check_likely, join_block, verify_block
from cluster.dedup.corpus import Corpus
from cluster.dedup.pairs import FoundPairs
from cluster.dedup.plan import part_pairs
from shard.errors import InvalidParameter
from shard.pairs import Pairs
from tests.brute_pairs import all_pairs, assert_all_pairs
from tests.dedup import enroll_doubled, snapshot_of

PEOPLE = 700


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, str]]]:
    home: Path = tmp_path_factory.mktemp("dedup")
    with Cluster.open(home / "home") as grid:
        enroll_doubled(grid, "acme/a", PEOPLE, shards=3)
        enroll_doubled(grid, "acme/b", 200, seed=1, prefix="u")
        store = str(home / "store")
        yield [(store, snapshot_of(grid, name, store)) for name in ("acme/a", "acme/b")]


def joined(corpus: Corpus, threshold: float, max_pairs: int = 10**6) -> FoundPairs:
    basis = basis_of(corpus, threshold)
    planned = list(part_pairs(corpus.parts, is_cross=corpus.is_cross))
    tasks = {p.name: JoinTask(corpus.spec, basis, p.left.number, p.right.number, threshold, max_pairs) for p in planned}
    return FoundPairs(planned, {name: join_block(task) for name, task in tasks.items()}.__getitem__)


def columns(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pairs.left, pairs.right, pairs.scores


@pytest.mark.parametrize("part_rows", [None, 200, 97])
def test_all_pairs_of_one_gallery_are_found(inputs: list[tuple[str, str]], part_rows: int | None) -> None:
    corpus = Corpus.open(inputs[:1], part_rows=part_rows)
    floats = corpus.floats(np.arange(len(corpus)))
    expected = all_pairs(floats, None, 0.5)
    assert len(expected) > PEOPLE
    assert_all_pairs(columns(joined(corpus, 0.5).all()), expected, 0.5)


def test_all_pairs_across_galleries_are_found_and_none_within(inputs: list[tuple[str, str]]) -> None:
    corpus = Corpus.open(inputs, part_rows=300)
    edge = corpus.bounds[1]
    floats = corpus.floats(np.arange(len(corpus)))
    expected = {(a, b + edge): s for (a, b), s in all_pairs(floats[:edge], floats[edge:], 0.6).items()}
    assert len(expected) > 200
    assert_all_pairs(columns(joined(corpus, 0.6).all()), expected, 0.6)


def test_what_is_kept_of_parts_is_bounded(inputs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(inputs[:1], part_rows=100)
    everything = columns(joined(corpus, 0.5).all())
    monkeypatch.setattr(blocks, "CACHE_BYTES", 0)
    for one, other in zip(columns(joined(corpus, 0.5).all()), everything, strict=True):
        assert one.tobytes() == other.tobytes()
    assert len(blocks._SKETCHES._kept) == 2


def test_too_many_pairs_are_an_error_that_says_what_to_do(inputs: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidParameter, match="threshold"):
        joined(Corpus.open(inputs[:1]), 0.5, max_pairs=10)


def test_far_too_many_pairs_are_known_before_anything_is_joined(inputs: list[tuple[str, str]]) -> None:
    for corpus in (Corpus.open(inputs[:1]), Corpus.open(inputs)):
        check_likely(corpus, 0.9, 100_000)
        check_likely(corpus, 0.01, 10**6)
        with pytest.raises(InvalidParameter, match="found some"):
            check_likely(corpus, 0.01, 1_000)


def test_parts_are_verified(inputs: list[tuple[str, str]]) -> None:
    corpus = Corpus.open(inputs[:1], part_rows=100)
    for part in corpus.parts:
        assert verify_block(VerifyTask(corpus.spec, part.number)).startswith(b'{"bytes"')
