"""Damage of every kind of file and table: named exactly, mended where it can be, and searches right afterwards."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shard import segments
from shard.check import check_shard
from shard.closed import ClosedShard
from shard.compaction import compact
from shard.damage import Damage, Inspected, runs
from shard.errors import CorruptData, StorageError
from shard.index import CHECKSUM_BLOCK
from shard.keys import template_keys
from shard.mending import mend
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import EnrollBatch, FloatArray, SearchParams
from tests.faces_like import exact, unit_rows

DIM, SEGMENT = 80, 1_024
"""Rows of 320 bytes: they straddle the blocks of checksums."""
ROW_BYTES = DIM * 4
MODEL = train(unit_rows(2_000, DIM, seed=3), code_bits=128)
OTHER = train(unit_rows(2_000, DIM, seed=4), code_bits=128)
ROWS = unit_rows(SEGMENT * 2 + 600, DIM, seed=5)
IDS = [f"t{i}" for i in range(len(ROWS))]
DEAD = [3, 700, SEGMENT + 5, SEGMENT * 2 + 7]
LIVE = np.setdiff1d(np.arange(len(ROWS)), DEAD)


def open_shard(directory: Path) -> Shard:
    models = {model.model_id: model for model in (MODEL, OTHER)}
    return Shard.create(directory, dim=DIM, load_model=models.__getitem__)


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed shard of two sealed segments, an open tail of 600 rows in two appends, and four deleted rows."""
    path = tmp_path_factory.mktemp("undamaged") / "shard"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as opened:
        patch.setattr(segments, "SEGMENT_BYTES", SEGMENT * ROW_BYTES)
        shard = opened.enter_context(open_shard(path))
        shard.activate(MODEL)
        labels = [f"person {i % 300}" if i % 5 else None for i in range(len(ROWS))]
        for part in (slice(0, len(ROWS) - 100), slice(len(ROWS) - 100, len(ROWS))):
            metadata = tuple(b'{"n":%d}' % i if i % 2 else None for i in range(*part.indices(len(ROWS))))
            shard.enroll(EnrollBatch(ROWS[part], tuple(IDS[part]), tuple(labels[part]), metadata), operation=b"op")
            shard.enroll(EnrollBatch(ROWS[part], tuple(IDS[part]), tuple(labels[part]), metadata), skip_existing=True)
        shard.delete(template_ids=[IDS[row] for row in DEAD])
        assert check_shard(shard) == []
    return path


@pytest.fixture
def directory(undamaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", SEGMENT * ROW_BYTES)
    return Path(shutil.copytree(undamaged, tmp_path / "shard"))


def fetch(first: int, last: int) -> FloatArray:
    """Another replica, which is sound."""
    return ROWS[first:last]


def searches_are_right(shard: Shard) -> None:
    probes = ROWS[LIVE][::97]
    expected = exact([IDS[row] for row in LIVE], ROWS[LIVE], probes, 3)
    for is_exact in (True, False):
        found = search_shards([shard], probes, SearchParams(k=3, exact=is_exact))
        assert list(found.template_ids) == expected
        assert [identities[0] for identities in found.identities] == [
            f"person {row % 300}" if row % 5 else None for row in LIVE[::97].tolist()
        ]
    assert len(shard) == len(LIVE)
    assert shard.existing(IDS) == {IDS[row] for row in LIVE}
    assert sum(found.templates for found in shard.identities("", 1_000)) == sum(row % 5 > 0 for row in LIVE.tolist())


def flip(path: Path, at: int) -> None:
    """One wrong bit, written in place, as a mapping sees it."""
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


def execute(directory: Path, *statements: str) -> None:
    """Change the database behind the shard's back."""
    with sqlite3.connect(directory / "shard.db") as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@dataclass(frozen=True)
class Case:
    """A damage that can be done, and what is to be said of it: (part, first row, last row), and a piece of `what`."""

    name: str
    do: Callable[[Path], object]
    part: str
    rows: tuple[int | None, int | None]
    what: str
    is_mendable: bool = True
    opens: bool = True
    """Whether the shard can be opened without being mended."""


FLOATS, KEYS = "segment-000001/floats.f32", "segment-000002/keys.u64"
CODES, TAIL = f"segment-000002/codes-{MODEL.model_id}.rows", "segment-000003/floats.f32"
SIZE = SEGMENT * ROW_BYTES
SECOND, END = SEGMENT, SEGMENT * 2
T0 = SEGMENT * 2

CASES = [
    Case("floats of the first block", lambda d: flip(d / FLOATS, 0), "floats", (0, 205), "at byte 0: expected "),
    Case(
        "floats of the second block",
        lambda d: flip(d / FLOATS, CHECKSUM_BLOCK + 4),
        "floats",
        (204, 410),
        f"wrong CRC32C in the {CHECKSUM_BLOCK} bytes at byte {CHECKSUM_BLOCK}: expected ",
    ),
    Case("the last float", lambda d: flip(d / FLOATS, SIZE - 1), "floats", (819, SEGMENT), "at byte 262144"),
    Case(
        "floats cut short",
        lambda d: (d / FLOATS).write_bytes((d / FLOATS).read_bytes()[:200_000]),
        "floats",
        (614, SEGMENT),
        f"expected {SIZE} bytes, found 200000",
        opens=False,
    ),
    Case(
        "floats missing",
        lambda d: (d / FLOATS).unlink(),
        "floats",
        (0, SEGMENT),
        "the file is missing",
        opens=False,
    ),
    Case(
        "floats too long",
        lambda d: (d / FLOATS).write_bytes((d / FLOATS).read_bytes() + b"more"),
        "floats",
        (None, None),
        f"expected {SIZE} bytes, found {SIZE + 4}",
        opens=False,
    ),
    Case(
        "the first append of the tail",
        lambda d: flip(d / TAIL, 400 * ROW_BYTES),
        "tail",
        (T0 + 204, T0 + 410),
        "at byte 65536",
        opens=False,
    ),
    Case(
        "the second append of the tail",
        lambda d: flip(d / TAIL, 600 * ROW_BYTES - 1),
        "tail",
        (T0 + 500, T0 + 600),
        f"in the 32000 bytes at byte {500 * ROW_BYTES}",
        opens=False,
    ),
    Case("keys", lambda d: flip(d / KEYS, 800), "keys", (SECOND, END), "in the 8192 bytes at byte 0: expected "),
    Case("a dead row's key", lambda d: flip(d / KEYS, 5 * 8), "keys", (SECOND, END), "wrong CRC32C"),
    Case("keys missing", lambda d: (d / KEYS).unlink(), "keys", (SECOND, END), "the file is missing"),
    Case(
        "keys too long",
        lambda d: (d / KEYS).write_bytes((d / KEYS).read_bytes() + b"more"),
        "keys",
        (None, None),
        "expected 8192 bytes, found 8196",
    ),
    Case(
        "checksums of keys",
        lambda d: execute(d, "UPDATE segments SET keys_crc = x'00' WHERE segment = 2"),
        "keys",
        (SECOND, END),
        "has 1 bytes of checksums, which are not those of 8192 bytes",
    ),
    Case("codes", lambda d: flip(d / CODES, 90), "codes", (SECOND, END), "at byte 0: expected "),
    Case("codes missing", lambda d: (d / CODES).unlink(), "codes", (SECOND, END), "the file is missing"),
    Case(
        "codes unnamed",
        lambda d: execute(d, "DELETE FROM codes WHERE segment = 2"),
        "codes",
        (SECOND, END),
        "expected checksums of segment 2's codes",
    ),
    Case(
        "an id's key in templates",
        lambda d: execute(d, "UPDATE templates SET key = 77 WHERE row = 10"),
        "key",
        (10, 11),
        f"row 10: expected the key {template_keys(['t10']).view(np.int64)[0]} of its id, found 77",
    ),
    Case(
        "ids that are not found",
        lambda d: execute(d, "DELETE FROM template_keys WHERE row IN (10, 11)"),
        "template_keys",
        (10, 12),
        "rows 10 to 11: expected their records' entries, 2 are missing, 0 wrong",
    ),
    Case(
        "an id of no row",
        lambda d: execute(d, "INSERT INTO template_keys VALUES (77, 3)"),
        "template_keys",
        (3, 4),
        "row 3: expected their records' entries, 0 are missing, 1 wrong",
    ),
    Case(
        "an id found by another key",
        lambda d: execute(d, "UPDATE template_keys SET key = 77 WHERE row = 10"),
        "template_keys",
        (10, 11),
        "1 are missing, 1 wrong",
    ),
    Case(
        "no id is found",
        lambda d: execute(d, "DELETE FROM template_keys WHERE row < 3"),
        "template_keys",
        (0, 3),
        "3 are missing",
    ),
    Case(
        "an identity that is not found",
        lambda d: execute(d, "DELETE FROM identity_rows WHERE row = 11"),
        "identity_rows",
        (11, 12),
        "1 are missing, 0 wrong",
    ),
    Case(
        "an identity of no row",
        lambda d: execute(d, "INSERT INTO identity_rows VALUES ('person 1', 3)"),
        "identity_rows",
        (3, 4),
        "0 are missing, 1 wrong",
    ),
    Case(
        "an entry of no row at all",
        lambda d: execute(d, "INSERT INTO identity_rows VALUES ('person 1', 'x')"),
        "identity_rows",
        (None, None),
        "expected integers as keys and rows, 1 entries are others",
    ),
    Case(
        "sums",
        lambda d: execute(d, "UPDATE meta SET value = '1 2 3 4 5 6' WHERE key = 'sums'"),
        "sums",
        (None, None),
        "found '1 2 3 4 5 6'",
    ),
    Case(
        "a row found by another identity",
        lambda d: execute(d, "UPDATE identity_rows SET identity = 'person 299' WHERE row = 11"),
        "identity_rows",
        (11, 12),
        "1 are missing, 1 wrong",
    ),
]

_RECORD = "row 12: expected a record that its digest belongs to, found another"
LASTING = [
    *(
        Case(
            f"{column} of a record",
            lambda d, column=column, value=value: execute(d, f"UPDATE templates SET {column} = {value} WHERE row = 12"),
            "record",
            (12, 13),
            _RECORD,
            is_mendable=False,
        )
        for column, value in {
            "template_id": "'somebody'",
            "identity": "'person 1'",
            "metadata": "x'7b7d'",
            "lsn": "2",
            "digest": "5",
        }.items()
    ),
    Case(
        "an id that is no text",
        lambda d: execute(d, "UPDATE templates SET template_id = CAST(x'ff80' AS TEXT) WHERE row = 12"),
        "record",
        (12, 13),
        _RECORD,
        is_mendable=False,
    ),
    Case(
        "a record that is gone",
        lambda d: execute(
            d, *(f"DELETE FROM {t} WHERE row = 13" for t in ("templates", "template_keys", "identity_rows"))
        ),
        "rows",
        (13, 14),
        "row 13: expected a live or a deleted row, found neither",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "a tombstone of a live row",
        lambda d: execute(d, "INSERT INTO tombstones VALUES (20, 2, 0)"),
        "rows",
        (20, 21),
        "found both",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "a tombstone that is gone",
        lambda d: execute(d, "DELETE FROM tombstones WHERE row = 3"),
        "rows",
        (3, 4),
        "found neither",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "a tombstone of no row",
        lambda d: execute(d, "INSERT INTO tombstones VALUES (900000, 2, 0)"),
        "rows",
        (900_000, 900_001),
        "deleted, but expected to be a row of a segment",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "an LSN that went back",
        lambda d: execute(d, "UPDATE meta SET value = '2' WHERE key = 'lsn'"),
        "log",
        (None, None),
        "tombstones: expected no LSN after the last, 2, found 3",
        is_mendable=False,
    ),
    Case(
        "an epoch of the future",
        lambda d: execute(d, "INSERT INTO epochs VALUES (7, 99)"),
        "log",
        (None, None),
        "epochs: expected no LSN after the last, 3, found 99",
        is_mendable=False,
    ),
    Case(
        "epochs in the wrong order",
        lambda d: execute(d, "INSERT INTO epochs VALUES (7, 1)"),
        "log",
        (None, None),
        "epochs: expected them to begin one after another, found [1, 1]",
        is_mendable=False,
    ),
    Case(
        "an operation of the future",
        lambda d: execute(d, "UPDATE operations SET lsn = 50"),
        "log",
        (None, None),
        "operations: expected no LSN after the last, 3, found 50",
        is_mendable=False,
    ),
    Case(
        "a segment that begins elsewhere",
        lambda d: execute(d, "UPDATE segments SET first_row = 1000 WHERE segment = 2"),
        "segments",
        (1_000, 2_024),
        "segment 2: expected its first row to be 1024, found 1000",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "checksums of floats",
        lambda d: execute(d, "UPDATE segments SET floats_crc = x'00' WHERE segment = 1"),
        "floats",
        (0, SEGMENT),
        f"has 1 bytes of checksums, which are not those of {SIZE} bytes",
        is_mendable=False,
        opens=False,
    ),
    Case(
        "an append of no rows of the tail",
        lambda d: execute(d, f"UPDATE appends SET rows = 400 WHERE first_row = {T0 + 500}"),
        "tail",
        (T0 + 500, T0 + 900),
        f"appends: expected rows {T0 + 500} to {T0 + 599} of the open tail, found 400 from {T0 + 500}",
        is_mendable=False,
    ),
    Case(
        "a file of nobody",
        lambda d: (d / "segment-000001" / "notes.txt").write_text("hello"),
        "file",
        (None, None),
        "expected files that the manifest names only",
        is_mendable=False,
    ),
]


def assert_named(case: Case, damages: list[Damage]) -> Damage:
    assert [(d.part, d.first_row, d.last_row) for d in damages] == [(case.part, *case.rows)], damages
    (damage,) = damages
    assert case.what in damage.what
    assert damage.is_mendable is case.is_mendable
    return damage


def opened_closed(directory: Path) -> ClosedShard:
    return ClosedShard(directory, {MODEL.model_id: MODEL, OTHER.model_id: OTHER}.__getitem__)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_damage_of_a_closed_shard_is_named_and_mended(directory: Path, case: Case) -> None:
    case.do(directory)
    with opened_closed(directory) as closed:
        damage = assert_named(case, check_shard(closed))
        assert mend(closed, [damage], fetch) == []
        assert check_shard(closed) == []
    with open_shard(directory) as shard:
        assert check_shard(shard) == []
        searches_are_right(shard)


NEEDS_RESTART = {"floats missing", "floats cut short"}
"""The index keeps the file that is gone; a mapping of a file that was cut must not be read."""


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in NEEDS_RESTART], ids=lambda case: case.name)
def test_damage_of_an_open_shard_is_mended_without_opening_it_again(directory: Path, case: Case) -> None:
    with open_shard(directory) as shard:
        case.do(directory)
        damage = assert_named(case, check_shard(shard))
        assert mend(shard, [damage], fetch) == []
        assert check_shard(shard) == []
        searches_are_right(shard)
        shard.flush()
        assert check_shard(shard) == []
        compact(shard)
        assert check_shard(shard) == []
        searches_are_right(shard)


@pytest.mark.parametrize("case", LASTING, ids=lambda case: case.name)
def test_damage_that_cannot_be_mended_is_named_and_left(directory: Path, case: Case) -> None:
    case.do(directory)
    with opened_closed(directory) as closed:
        damage = assert_named(case, check_shard(closed))
        (left,) = mend(closed, [damage], fetch)
        assert left.what.startswith(f"{damage.what}; not mended: ")
        assert check_shard(closed) == [damage]


@pytest.mark.parametrize("case", [*CASES, *LASTING], ids=lambda case: case.name)
def test_a_damaged_shard_opens_with_right_answers_or_not_at_all(directory: Path, case: Case) -> None:
    case.do(directory)
    if not case.opens:
        with pytest.raises(CorruptData):
            open_shard(directory)
        return
    with open_shard(directory) as shard:
        try:
            found = search_shards([shard], ROWS[LIVE][:50], SearchParams(k=1, exact=True))
        except StorageError:
            return  # a named refusal is right as well
        assert [names[0] for names in found.template_ids] == [IDS[row] for row in LIVE[:50]]


def test_everything_is_found_at_once_and_mended_in_order(directory: Path) -> None:
    several = [
        CASES[i] for i, case in enumerate(CASES)
        if case.name in {
            "floats of the second block", "the second append of the tail", "keys", "codes", "an id's key in templates",
            "an identity of no row", "an id of no row",
        }
    ]  # fmt: skip
    for case in several:
        case.do(directory)
    flip(directory / f"segment-000001/codes-{MODEL.model_id}.rows", 0)  # of the segment with the wrong floats
    with opened_closed(directory) as closed:
        damages = check_shard(closed)
        assert sorted(d.part for d in damages) == sorted([*(case.part for case in several), "codes"])
        left = mend(closed, damages)
        assert sorted(d.part for d in left) == ["codes", "floats", "tail"]
        assert all("no other replica was named" in d.what for d in left if d.part != "codes")
        assert sorted(d.part for d in check_shard(closed)) == ["codes", "floats", "tail"]
        assert mend(closed, check_shard(closed), fetch) == []
        assert check_shard(closed) == []
    with open_shard(directory) as shard:
        searches_are_right(shard)


def refusing(first: int, last: int) -> FloatArray:
    raise CorruptData("the replica is damaged too")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (lambda first, last: ROWS[first:last] + np.float32(1e-7), "are not what was written either"),
        (
            lambda first, last: ROWS[first : last - 1],
            r"expected \(206, 80\) floats of the other replica, got \(205, 80\)",
        ),
        (refusing, "the replica is damaged too"),
    ],
    ids=["others", "fewer", "none"],
)
def test_floats_that_do_not_fit_are_not_written(
    directory: Path, source: Callable[[int, int], FloatArray], reason: str
) -> None:
    path = directory / FLOATS
    flip(path, CHECKSUM_BLOCK + 4)
    wrong = path.read_bytes()
    with open_shard(directory) as shard:
        damages = check_shard(shard)
        (left,) = mend(shard, damages, source)
        assert left.is_mendable
        with pytest.raises(CorruptData, match=reason):
            raise CorruptData(left.what)
        assert path.read_bytes() == wrong
        with pytest.raises(CorruptData, match="wrong CRC32C"):
            shard.gather(np.arange(300))
        assert mend(shard, damages, fetch) == []
        np.testing.assert_array_equal(shard.gather(np.arange(SEGMENT)), ROWS[:SEGMENT])


def test_a_dead_rows_key_is_kept_where_it_is_sound_and_0_where_it_is_lost(directory: Path) -> None:
    path, dead = directory / KEYS, DEAD[2] - SECOND
    sound = np.fromfile(path, "<u8")
    flip(path, 800)
    with open_shard(directory) as shard:
        np.testing.assert_array_equal(np.fromfile(path, "<u8"), sound)
        assert check_shard(shard) == []
    flip(path, dead * 8)
    with open_shard(directory) as shard:
        expected = sound.copy()
        expected[dead] = 0
        np.testing.assert_array_equal(np.fromfile(path, "<u8"), expected)
        assert check_shard(shard) == []
        searches_are_right(shard)


def test_keys_are_made_again_on_opening_with_a_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    (directory / KEYS).unlink()
    with caplog.at_level(logging.WARNING), open_shard(directory) as shard:
        searches_are_right(shard)
    assert [r.message for r in caplog.records if "writing a segment's keys again" in r.message]


def test_keys_are_not_made_of_records_that_are_wrong(directory: Path) -> None:
    (directory / KEYS).unlink()
    execute(directory, f"UPDATE templates SET template_id = 'somebody' WHERE row = {SECOND + 9}")
    with pytest.raises(CorruptData, match=f"the record of row {SECOND + 9} is not what was written"):
        open_shard(directory)
    assert not (directory / KEYS).exists()
    with opened_closed(directory) as closed:
        damages = check_shard(closed)
        assert sorted(d.part for d in damages) == ["keys", "record"]
        assert sorted(d.part for d in mend(closed, damages, fetch)) == ["keys", "record"]


def test_tables_that_find_rows_are_made_again_on_opening(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    execute(directory, "DELETE FROM template_keys", "DELETE FROM identity_rows")
    with caplog.at_level(logging.WARNING), open_shard(directory) as shard:
        searches_are_right(shard)
        assert check_shard(shard) == []
    assert [r.message for r in caplog.records if "writing the tables that find rows again" in r.message]


def test_a_damaged_page_of_the_database_is_told_and_the_files_are_still_checked(directory: Path) -> None:
    path = directory / "shard.db"
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'identity_rows'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 200)
    flip(directory / FLOATS, 0)
    with opened_closed(directory) as closed:
        damages = check_shard(closed)
        assert {d.part for d in damages} == {"database", "floats"}
        assert all("SQLite says: " in d.what and d.path == path for d in damages if d.part == "database")
        left = mend(closed, damages, fetch)
        assert {d.part for d in left} == {"database"}
        assert "copy this replica anew" in left[0].what


def test_a_model_that_is_not_there_is_told(directory: Path) -> None:
    def missing(model_id: str) -> None:
        raise FileNotFoundError(model_id)

    with ClosedShard(directory, missing) as closed:  # type: ignore[arg-type]
        (damage,) = check_shard(closed)
        assert damage.part == "model"
        assert MODEL.model_id in damage.what
        assert "the catalog and other hosts have it" in mend(closed, [damage])[0].what


def test_leftovers_of_an_interruption_are_no_damage(directory: Path) -> None:
    (directory / "segment-000009").mkdir()
    (directory / "segment-000009" / "floats.f32").write_bytes(bytes(10))
    (directory / "segment-000001" / f"codes-{OTHER.model_id}.rows").write_bytes(bytes(10))
    (directory / "segment-000001" / "keys.u64.tmp").write_bytes(bytes(10))
    with opened_closed(directory) as closed:
        assert check_shard(closed) == []


def test_a_segment_that_is_dropped_while_it_is_checked_is_no_damage(directory: Path) -> None:
    class Compacted:
        """A shard that is compacted between reading its database and its files."""

        def __init__(self, shard: Shard) -> None:
            self._shard = shard

        def __getattr__(self, name: str) -> object:
            return getattr(self._shard, name)

        def files(self, row: segments.SegmentRow) -> segments.SegmentFiles:
            compact(self._shard)
            return self._shard.files(row)

    with open_shard(directory) as shard:
        compacted: Inspected = Compacted(shard)  # type: ignore[assignment]
        assert check_shard(compacted) == []
        assert not (directory / "segment-000001").exists()
        assert check_shard(shard) == []


def test_a_tail_is_not_sealed_with_checksums_of_damaged_floats(directory: Path) -> None:
    with open_shard(directory) as shard:
        flip(directory / TAIL, 5)
        shard.flush()  # the entry is true; the sealing has to wait
        assert isinstance(shard.write_error, CorruptData)
        (damage,) = check_shard(shard)
        assert damage.part == "tail"
    with opened_closed(directory) as closed:
        assert mend(closed, check_shard(closed), fetch) == []
    with open_shard(directory) as shard:
        assert shard.segments[-1].is_sealed
        assert check_shard(shard) == []
        searches_are_right(shard)


def test_writes_go_on_after_mending(directory: Path) -> None:
    with open_shard(directory) as shard:
        flip(directory / FLOATS, 0)
        flip(directory / KEYS, 8)
        assert mend(shard, check_shard(shard), fetch) == []
        extra = unit_rows(2 * SEGMENT, DIM, seed=9)
        ids = tuple(f"new{i}" for i in range(len(extra)))
        shard.enroll(EnrollBatch(extra, ids, (None,) * len(ids), (None,) * len(ids)))
        shard.activate(OTHER)
        assert check_shard(shard) == []
    with open_shard(directory) as shard:
        assert check_shard(shard) == []
        assert len(shard) == len(LIVE) + len(extra)


def numbers() -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    yield [], []
    yield [4], [(4, 5)]
    yield [2, 1, 1, 7, 9, 8], [(1, 3), (7, 10)]


@pytest.mark.parametrize(("rows", "expected"), list(numbers()))
def test_runs(rows: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(runs(rows)) == expected


CHECKED = {
    "templates": "row, key, template_id, identity, metadata, lsn, digest",
    "template_keys": "key, row",
    "identity_rows": "identity, row",
    "tombstones": "row",
    "segments": "segment, first_row, rows, capacity, sealed, dropped",
    "codes": "segment, model_id, crc",
    "appends": "first_row, rows, crc",
}
"""What is held against something else. A flipped bit in the rest, such as the time of a deletion, may go unseen."""


def said(directory: Path) -> dict[str, list[object]]:
    with contextlib.closing(sqlite3.connect(directory / "shard.db")) as db:
        return {t: sorted(db.execute(f"SELECT {c} FROM {t}"), key=repr) for t, c in CHECKED.items()}


def test_a_flipped_bit_anywhere_in_the_database_is_found_or_changes_nothing(directory: Path, tmp_path: Path) -> None:
    sound = said(directory)
    size = (directory / "shard.db").stat().st_size
    rng = np.random.default_rng(1)
    print("seed 1")
    found = same = 0
    for at in np.sort(rng.integers(100, size, 120)).tolist():
        work = tmp_path / "work"
        shutil.copytree(directory, work)
        flip(work / "shard.db", at)
        try:
            with opened_closed(work) as closed:
                damages = check_shard(closed)
            if not damages:
                assert said(work) == sound, f"byte {at}"
        except StorageError:
            damages = [Damage(work, "database", "it cannot be opened")]
        found, same = found + bool(damages), same + (not damages)
        shutil.rmtree(work)
    print(f"{found} found, {same} without effect")
    assert found > 40
