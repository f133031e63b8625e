"""What labels say of faces, and what that says of pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.dedup.faces import Faces, faces_of
from cluster.dedup.photos import PairKind, pair_kinds
from cluster.metadata import metadata_json
from cluster.photo_facts import PHASH, PHOTO, QUALITY, photo_id_of, with_photo_facts
from cluster.thumbnails import KEY, with_reserved_of, without_reserved

arrow = pytest.importorskip("pyarrow")


def table(rows: list[tuple[int, int, int, str, str | None, dict[str, Any] | None]]) -> Any:
    columns = list(zip(*rows, strict=True)) or [()] * 6
    names = ("row", "input", "shard", "template_id", "identity", "metadata")
    types = (arrow.int64(), arrow.int8(), arrow.int32(), arrow.string(), arrow.string(), arrow.binary())
    values = [*columns[:5], [metadata_json(m) for m in columns[5]]]
    return arrow.table({n: arrow.array(v, t) for n, v, t in zip(names, values, types, strict=True)})


PHOTO_A, PHOTO_B = photo_id_of(b"a"), photo_id_of(b"b")


def test_labels_become_arrays() -> None:
    rows = [
        (40, 1, 2, "a", "Ben", with_photo_facts({"n": 1}, photo=PHOTO_A, phash=2**64 - 1, quality=0.75)),
        (7, 0, 0, "b", "Ann", with_photo_facts(None, photo=PHOTO_B, phash=None, quality=None)),
        (9, 0, 1, "a", None, None),
        (11, 0, 1, "ä", "Ann", with_photo_facts({"in": {"a": 1}}, photo=PHOTO_A, phash=5, quality=1.0)),
    ]
    found = faces_of(table(rows))
    assert found.rows.tolist() == [7, 9, 11, 40]
    assert found.order.tolist() == [1, 0, 2, 3]  # input, then template id by its UTF-8
    assert found.input.tolist() == [0, 0, 0, 1]
    assert found.shard.tolist() == [0, 1, 1, 2]
    assert [found.identities[i] if i >= 0 else None for i in found.identity] == ["Ann", None, "Ann", "Ben"]
    assert found.photo[2] == found.photo[3] >= 0
    assert len({*found.photo.tolist()}) == 3
    assert found.photo[1] == -1
    assert np.array_equal(found.quality, np.array([np.nan, np.nan, 1.0, 0.75], np.float32), equal_nan=True)
    assert found.has_phash.tolist() == [False, False, True, True]
    assert found.phash[2:].tolist() == [5, 2**64 - 1]


@pytest.mark.parametrize(
    "metadata",
    [
        {"inner": {PHOTO: PHOTO_A, PHASH: "0" * 16, QUALITY: 1}},
        {"text": f'"{PHOTO}":"{PHOTO_A}"'},
        {f'x"{PHOTO}': PHOTO_A},
        {"list": [PHOTO, PHOTO_A, {QUALITY: 0.5}]},
        {f",{PHOTO}": PHOTO_A},
        {},
        None,
    ],
    ids=repr,
)
def test_what_users_write_is_not_taken_for_ours(metadata: dict[str, Any] | None) -> None:
    found = faces_of(table([(0, 0, 0, "a", None, metadata)]))
    assert found.photo.tolist() == [-1]
    assert not found.has_phash.any()
    assert np.isnan(found.quality).all()


def test_labels_of_nothing() -> None:
    assert len(faces_of(table([]))) == 0


def test_chunks_are_read_as_one() -> None:
    rows = [(i, 0, 0, f"t{i}", f"p{i % 3}", None) for i in range(9)]
    parts = arrow.concat_tables([table(rows[6:]), table(rows[:2]), table(rows[2:6])])
    found, whole = faces_of(parts), faces_of(table(rows))
    assert found.identities == whole.identities
    assert found.identity.tolist() == whole.identity.tolist()
    assert found.order.tolist() == list(range(9))


def two(photo: tuple[int, int] = (-1, -1), phash: tuple[int, int] | None = None) -> Faces:
    number = np.arange(2, dtype=np.int64)
    return Faces(
        rows=number,
        order=number,
        input=np.zeros(2, np.int8),
        shard=np.zeros(2, np.int32),
        identity=np.full(2, -1, np.int32),
        identities=(),
        photo=np.array(photo, np.int32),
        quality=np.full(2, np.nan, np.float32),
        phash=np.array(phash or (0, 0), np.uint64),
        has_phash=np.full(2, phash is not None),
    )


@pytest.mark.parametrize(
    ("faces", "score", "kind"),
    [
        (two(), 0.6, PairKind.SAME_PERSON),
        (two(), 0.9999, PairKind.SAME_FACE),
        (two((3, 3)), 1.0, PairKind.SAME_PHOTO),
        (two((3, 3)), 0.6, PairKind.TWO_FACES),
        (two((3, 4)), 0.6, PairKind.SAME_PERSON),
        (two((3, 4), (0b1111, 0)), 0.9, PairKind.SAME_PHOTO),
        (two((3, 4), (0b11111, 0)), 0.9, PairKind.SAME_PERSON),
        (two((3, 4), (0, 0)), 0.6, PairKind.SAME_PERSON),  # photos of one stage, with other people on it
        (two((3, 3), (0, 0)), 0.6, PairKind.TWO_FACES),
        (two((-1, -1), (2**63, 0)), 0.9, PairKind.SAME_PHOTO),
    ],
)
def test_kinds_of_pairs(faces: Faces, score: float, kind: PairKind) -> None:
    left, right = np.array([0]), np.array([1])
    found = pair_kinds(left, right, np.array([score], np.float32), faces, same_photo_bits=4)
    assert found.tolist() == [kind]
    unknown = replace(faces, has_phash=np.array([True, False]))
    assert pair_kinds(left, right, np.array([0.9], np.float32), unknown, same_photo_bits=64).tolist() != [
        PairKind.SAME_PHOTO
    ]


def test_our_facts_are_left_out_of_answers_and_stay_when_metadata_changes() -> None:
    stored = with_photo_facts({"a": 1, KEY: "jpeg"}, photo=PHOTO_A, phash=1, quality=0.123456)
    assert stored == {"a": 1, KEY: "jpeg", PHOTO: PHOTO_A, PHASH: "0" * 15 + "1", QUALITY: 0.1235}
    assert without_reserved(stored) == {"a": 1}
    assert without_reserved({KEY: "jpeg"}) is None
    assert without_reserved({}) == {}
    changed = with_reserved_of(stored, {"b": 2})
    assert without_reserved(changed) == {"b": 2}
    assert changed is not None
    assert changed[PHOTO] == PHOTO_A
    assert with_reserved_of({"a": 1}, None) is None
    assert json.dumps(with_reserved_of(stored, None)).count("facegrid:") == 4
