"""Damaged files: a named error, or the right answers. Never a wrong one.

Bits are flipped in every 64 KiB block and every header, files are cut and removed. Each case is a copy of one shard, in
which one thing was damaged; it is opened and asked everything there is to ask (`damage.py`), and wrong answers are
printed as a table by file and region.

What one copy cannot detect is the loss of its newest records as a whole. The log of SQLite (shard.db-wal) ends for a
reader where its checksums end, so a log that is cut, removed, or damaged in a frame is a shorter log: the operations
from that frame on are lost without a word, though they were acknowledged. What remains is the state before one of
them, whole, which is what is asserted here ("earlier"). This holds only for operations after the last time the log was
copied into the database and emptied: at 8,000 pages, on closing, and on opening.

FACEGRID_TORTURE takes every byte of the newest records, every byte of the headers, and many more bits.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.crash.damage import SEGMENT_ROWS, random_bits
from tests.crash.forkserver import ForkServer
from tests.crash.history import DIM

IS_LONG = "FACEGRID_TORTURE" in os.environ
SEED = int(os.environ.get("FACEGRID_CRASH_SEED", "1"))
BLOCK, PAGE = 1 << 16, 4096
WAL_HEADER, FRAME_HEADER = 32, 24
Case = dict[str, Any]


class Damaged:
    """Shards to damage: one that was closed, one that was killed with its newest records in the log alone."""

    def __init__(self, forkserver: ForkServer, root: Path, saved: Path) -> None:
        self._forkserver, self._saved = forkserver, str(saved)
        self.closed, self.killed = root / "closed", root / "killed"
        for directory, is_killed in ((self.closed, False), (self.killed, True)):
            report = self._call("make", directory, is_killed=is_killed)
            assert report.is_killed == is_killed, report.lines

    def outcomes(self, directory: Path, cases: list[Case]) -> list[tuple[Case, str, str]]:
        """(case, outcome, detail); a child that dies is an outcome too, and another takes up what follows."""
        found: list[tuple[Case, str, str]] = []
        while len(found) < len(cases):
            report = self._call("try_all", directory, cases=cases, first=len(found))
            found += [(cases[line["case"]], line["outcome"], line["detail"]) for line in report.lines if "case" in line]
            if report.exit:
                assert report.said("trying"), report.lines
                found.append((cases[len(found)], "CRASH", f"exit {report.exit} {report.said('wrong')}"))
        return found

    def _call(self, task: str, directory: Path, **arguments: Any) -> Any:
        where = {"directory": str(directory), "saved": self._saved}
        return self._forkserver.call(f"tests.crash.damage:{task}", **where, **arguments)


@pytest.fixture(scope="module")
def shards(forkserver: ForkServer, case_root: Path, saved_models: Path) -> Damaged:
    return Damaged(forkserver, case_root, saved_models)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def check(shards: Damaged, directory: Path, cases: list[Case]) -> Counter[str]:
    """Try the cases, print a table of outcomes by file and region, and fail if an answer was wrong or unnamed."""
    found = shards.outcomes(directory, cases)
    table = Counter((case["file"], case["region"], outcome) for case, outcome, _ in found)
    for (file, region, outcome), n in sorted(table.items()):
        print(f"{n:6} {outcome:8} {file}: {region}")
    print(f"{len(found):6} cases")
    bad = [(case, outcome, detail) for case, outcome, detail in found if outcome.isupper()]
    examples = {(case["file"], case["region"], outcome): (case, detail) for case, outcome, detail in reversed(bad)}
    lines = [
        f"{table[key]} of {sum(n for k, n in table.items() if k[:2] == key[:2])} {key[2]}: {key[0]}, {key[1]}: such as"
        f" {case['kind']} at {case['at']}.{case['bit']}: {detail[:300]}"
        for key, (case, detail) in sorted(examples.items())
    ]
    assert not bad, f"{len(bad)} of {len(found)} cases:\n" + "\n".join(lines)
    return Counter(outcome for _, outcome, _ in found)


def case(file: str, kind: str, at: int, region: str, *, bit: int = 0, may_be_earlier: bool = False) -> Case:
    return {"file": file, "kind": kind, "at": at, "bit": bit, "region": region, "may_be_earlier": may_be_earlier}


def sample(rng: np.random.Generator, places: range, short: int, long: int) -> list[int]:
    """Some of the places; in the long form more of them, or all."""
    n = min(len(places), long if IS_LONG else short)
    return [places[i] for i in sorted(rng.choice(len(places), n, replace=False).tolist())]


def flips(
    rng: np.random.Generator,
    file: str,
    places: range,
    region: str,
    short: int,
    long: int,
    *,
    may_be_earlier: bool = False,
) -> Iterator[Case]:
    for at, bit in random_bits(rng, sample(rng, places, short, long)):
        yield case(file, "flip", at, region, bit=bit, may_be_earlier=may_be_earlier)


def blocks(rng: np.random.Generator, directory: Path, file: str, region: str) -> list[Case]:
    """Flips in each 64 KiB of a file."""
    size = (directory / file).stat().st_size
    starts = range(0, size, BLOCK)
    return [flip for at in starts for flip in flips(rng, file, range(at, min(size, at + BLOCK)), region, 4, 100)]


def cuts(rng: np.random.Generator, directory: Path, file: str, region: str) -> list[Case]:
    """A file cut at its last bytes, at places of it, and removed."""
    size = (directory / file).stat().st_size
    places = [size - 1, 0, *sample(rng, range(size), 4, 100)]
    return [*(case(file, "cut", at, f"{region}, cut") for at in places), case(file, "remove", 0, f"{region}, removed")]


def sealed(shards: Damaged, name: str) -> list[str]:
    """Files of that name in sealed segments."""
    found = sorted(str(path.relative_to(shards.closed)) for path in shards.closed.glob(f"segment-00000[12]/{name}"))
    assert len(found) == 2
    return found


@pytest.mark.parametrize("name", ["keys.u64", "codes-*.rows"])
def test_keys_and_codes_of_sealed_segments(name: str, shards: Damaged, rng: np.random.Generator) -> None:
    files = sealed(shards, name)
    cases = [flip for file in files for flip in blocks(rng, shards.closed, file, "blocks")]
    cases += [cut for file in files for cut in cuts(rng, shards.closed, file, "file")]
    check(shards, shards.closed, cases)


def test_floats_of_sealed_segments_cut(shards: Damaged, rng: np.random.Generator) -> None:
    files = sealed(shards, "floats.f32")
    check(shards, shards.closed, [cut for file in files for cut in cuts(rng, shards.closed, file, "file")])


def test_floats_of_sealed_segments(shards: Damaged, rng: np.random.Generator) -> None:
    files = sealed(shards, "floats.f32")
    check(shards, shards.closed, [flip for file in files for flip in blocks(rng, shards.closed, file, "blocks")])


TAIL = "segment-000003/floats.f32"
TAIL_ROWS = 600 + 500 - 2 * SEGMENT_ROWS + 5 + 9
ROW = DIM * 4


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_the_open_tail_cut(state: str, shards: Damaged, rng: np.random.Generator) -> None:
    """At every byte of the newest rows: the manifest names rows that are not there."""
    newest = range((TAIL_ROWS - 9) * ROW, TAIL_ROWS * ROW)
    places = [*sample(rng, newest, 30, len(newest)), newest[0], newest[-1]]
    cases = [case(TAIL, "cut", at, "newest rows, cut") for at in places]
    room = sample(rng, range(newest.stop, SEGMENT_ROWS * ROW), 5, 50)
    cases += [case(TAIL, "cut", at, "room after the rows, cut") for at in room]
    check(shards, getattr(shards, state), [*cases, case(TAIL, "remove", 0, "removed")])


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_the_open_tail(state: str, shards: Damaged, rng: np.random.Generator) -> None:
    cases = [*flips(rng, TAIL, range(TAIL_ROWS * ROW), "rows", 30, 2_000)]
    cases += flips(rng, TAIL, range(TAIL_ROWS * ROW, SEGMENT_ROWS * ROW), "room after the rows", 5, 50)
    check(shards, getattr(shards, state), cases)


def test_the_database_cut(shards: Damaged, rng: np.random.Generator) -> None:
    size = (shards.closed / "shard.db").stat().st_size
    pages = [case("shard.db", "cut", at, "at a page") for at in range(0, size, PAGE)]
    check(shards, shards.closed, pages + cuts(rng, shards.closed, "shard.db", "file"))


def test_the_database(shards: Damaged, rng: np.random.Generator) -> None:
    """The header of the file, the header of every page, and bits of every page, by the table that the page is of."""
    path = shards.closed / "shard.db"
    tables = pages_by_table(path)
    cases = [*flips(rng, "shard.db", range(100), "header", 20, 100)]
    for page in range(path.stat().st_size // PAGE):
        start, table = page * PAGE + (100 if page == 0 else 0), tables.get(page + 1, "free page")
        cases += flips(rng, "shard.db", range(start, start + 8), f"page header of {table}", 1, 8)
        cases += flips(rng, "shard.db", range(start + 8, (page + 1) * PAGE), f"page of {table}", 1, 40)
    check(shards, shards.closed, cases)


def pages_by_table(path: Path) -> dict[int, str]:
    """Number of each page to its table, where this SQLite can tell."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        try:
            return dict(db.execute("SELECT pageno, name FROM dbstat").fetchall())
        except sqlite3.OperationalError:  # it was built without dbstat
            return dict.fromkeys(range(1, 1 << 16), "a table")


def test_the_log_cut(shards: Damaged, rng: np.random.Generator) -> None:
    """At every byte of the last frame, and around the others: what remains is an earlier state, as is said above."""
    size = (shards.killed / "shard.db-wal").stat().st_size
    frames = range(WAL_HEADER, size, FRAME_HEADER + PAGE)
    around = [*sample(rng, frames, 11, len(frames)), frames[-1]]
    places = {at + delta for at in around for delta in (-1, 0, 1)} | set(sample(rng, range(size), 12, 1_000))
    places |= set(range(frames[-1], size) if IS_LONG else ())
    cases = [case("shard.db-wal", "cut", at, "cut", may_be_earlier=True) for at in sorted(places)]
    cases.append(case("shard.db-wal", "remove", 0, "removed", may_be_earlier=True))
    outcomes = check(shards, shards.killed, cases)
    assert outcomes["earlier"] > 0


def test_the_log(shards: Damaged, rng: np.random.Generator) -> None:
    """Its header, the headers of its frames, and bits of their pages; its checksums turn these into a shorter log."""
    size = (shards.killed / "shard.db-wal").stat().st_size
    cases = [*flips(rng, "shard.db-wal", range(WAL_HEADER), "header", 8, 32, may_be_earlier=True)]
    for start in range(WAL_HEADER, size, FRAME_HEADER + PAGE):
        header = range(start, start + FRAME_HEADER)
        cases += flips(rng, "shard.db-wal", header, "frame header", 1, 24, may_be_earlier=True)
        body = range(header.stop, header.stop + PAGE)
        cases += flips(rng, "shard.db-wal", body, "page of a frame", 1, 40, may_be_earlier=True)
    check(shards, shards.killed, cases)


def test_the_index_of_the_log(shards: Damaged, rng: np.random.Generator) -> None:
    """shard.db-shm is made anew by the first who opens it: whatever is in it, no answer changes."""
    size = (shards.killed / "shard.db-shm").stat().st_size
    cases = [*flips(rng, "shard.db-shm", range(136), "header", 10, 136), case("shard.db-shm", "remove", 0, "removed")]
    cases += flips(rng, "shard.db-shm", range(136, size), "entries", 8, 200)
    assert check(shards, shards.killed, cases)["right"] == len(cases)
