"""What counts as stored by an earlier attempt: id, identity, metadata and embedding, and nothing less."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cluster.results import SearchBatch, Template
from cluster.service.enroll_again import SAME, enroll_again, found_themselves, labelled_alike
from coordinator.types import Coverage
from shard.errors import DuplicateTemplate
from shard.types import EnrollBatch
from shard.validate import normalised


def batch(*labels: tuple[str, str | None, dict[str, Any] | None]) -> EnrollBatch:
    """A batch of these ids, identities and metadata, with a unit embedding each."""
    rows = np.eye(8, dtype=np.float32)[: len(labels)]
    ids, identities, metadata = zip(*labels, strict=True)
    return EnrollBatch(rows, ids, identities, tuple(None if m is None else json.dumps(m).encode() for m in metadata))


@pytest.mark.parametrize(
    ("identity", "metadata", "is_alike"),
    [
        ("p", {"a": 1, "b": [True, None]}, True),
        ("p", {"b": [True, None], "a": 1}, True),
        ("q", {"a": 1, "b": [True, None]}, False),
        (None, {"a": 1, "b": [True, None]}, False),
        ("p", {"a": 1.0, "b": [True, None]}, False),
        ("p", {"a": True, "b": [True, None]}, False),
        ("p", {"a": 1, "b": [None, True]}, False),
        ("p", {"a": 1}, False),
        ("p", {}, False),
        ("p", None, False),
    ],
)
def test_labels_are_alike_in_everything(identity: str | None, metadata: dict[str, Any] | None, is_alike: bool) -> None:
    asked = batch(("t", "p", {"a": 1, "b": [True, None]}))
    assert labelled_alike(asked, [0], [Template("t", identity, metadata)]) == [0] * is_alike


def test_no_metadata_is_not_empty_metadata() -> None:
    asked = batch(("none", None, None), ("empty", None, {}))
    stored = [Template("none", None, None), Template("empty", None, {})]
    assert labelled_alike(asked, [0, 1], stored) == [0, 1]
    swapped = [Template("none", None, {}), Template("empty", None, None)]
    assert labelled_alike(asked, [0, 1], swapped) == []


def test_only_rows_that_are_named_and_there_count() -> None:
    asked = batch(("a", "p", None), ("b", "p", None), ("c", "p", None))
    stored = [Template("c", "p", None), Template("a", "p", None), Template("z", "p", None)]
    assert labelled_alike(asked, [0, 1, 2], stored) == [0, 2]
    assert labelled_alike(asked, [1, 2], stored) == [2]


def candidates(*rows: list[tuple[str, float]]) -> SearchBatch:
    """A search's answer."""
    scores = np.full((len(rows), max(map(len, rows))), np.nan, np.float32)
    for row, scored in zip(scores, rows, strict=True):
        row[: len(scored)] = [score for _, score in scored]
    ids = tuple(tuple(name for name, _ in row) for row in rows)
    return SearchBatch(ids, scores, tuple((None,) * len(row) for row in ids), Coverage(1, 1))


def test_a_probe_finds_itself_only_under_its_id_and_with_a_cosine_of_one() -> None:
    found = candidates(
        [("twin", 1.0), ("a", 1.0)],  # somebody else has the same embedding
        [("twin", 1.0)],
        [("c", 0.9999)],
        [],
        [("e", np.float32(1.0) - np.float32(6e-8))],
    )
    assert found_themselves(["a", "b", "c", "d", "e"], found) == [0, 4]


def test_rounding_of_float32_stays_within_what_is_one_embedding() -> None:
    rows = normalised(np.random.default_rng(0).standard_normal((2_000, 512)).astype(np.float32) * 37)
    assert np.einsum("ij,ij->i", rows, normalised(rows * np.float32(1.7))).min() >= SAME


class StoredGallery:
    """A gallery as a dict of rows by id, of which an attempt before this one writes some more while we write."""

    def __init__(self, asked: EnrollBatch, stored: list[int], later: list[int]) -> None:
        self._asked, self._stored, self._later = asked, stored, later
        self.written: list[list[int]] = []
        self.settled = 0

    def settle(self) -> None:
        self.settled += 1

    def write(self, rows: list[int]) -> None:
        self._stored, self._later = self._stored + self._later, []
        if set(rows) & set(self._stored):
            raise DuplicateTemplate("there already")
        self.written.append(rows)

    def templates(self, template_ids: list[str]) -> list[Template]:
        asked = {self._asked.template_ids[row]: row for row in self._stored}
        return [Template(i, self._asked.identities[asked[i]], None) for i in template_ids if i in asked]

    def search(self, probes: np.ndarray, k: int, **_: Any) -> SearchBatch:
        return candidates(*[[(self._asked.template_ids[int(np.argmax(probe))], 1.0)] for probe in probes])


@pytest.mark.parametrize(
    ("stored", "later", "written"),
    [
        ([], [], [[0, 1, 2]]),
        ([1], [], [[0, 2]]),
        ([0, 1, 2], [], []),
        ([], [0, 1, 2], []),  # the attempt before was under way
        ([0], [2], [[1]]),
    ],
)
def test_what_is_stored_is_left_out(stored: list[int], later: list[int], written: list[list[int]]) -> None:
    asked = batch(("a", "p", None), ("b", None, None), ("c", "q", None))
    gallery = StoredGallery(asked, stored, later)
    enroll_again(gallery, asked, settle=gallery.settle, write=gallery.write)  # type: ignore[arg-type]
    assert gallery.written == written
    assert bool(gallery.settled) == bool(stored or later), "what counts as stored is on every replica in sync"
