"""The compiled extension given what it must refuse: a named error each, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shard import _native
from tests.unit.native_gallery import DIM, LISTS, PLANES, Gallery


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path, (300, 0, 70, 1))


THREE = (np.zeros(128, np.float32), np.zeros(1, np.float32), np.zeros((0, 128), np.float32))
Wrong = Callable[["Gallery"], object]
F32 = np.zeros((2, DIM), np.float32)
U8 = np.zeros((2, PLANES * 16), np.uint8)
CODES = np.zeros((2, PLANES * 16 + 2), np.uint8)
VALUES = np.zeros((2, PLANES * 128), np.float32)
AGREEMENTS = np.zeros((2, LISTS), np.float32)
BOUNDS = np.zeros((2, 6), np.float32)
WRONG: dict[str, tuple[Wrong, str]] = {
    "probes of doubles": (lambda g: search(g, F32.astype(np.float64)), r"probes: .*float32, got \(2, 40\) float64"),
    "probes that are a list": (lambda g: search(g, [[1.0]]), r"probes: .*got .*list"),
    "probes of one dimension": (lambda g: search(g, F32[0]), r"probes: .*got \(40,\) float32"),
    "probes by columns": (lambda g: search(g, np.asfortranarray(F32)), r"probes: .*not contiguous"),
    "probes of another byte order": (lambda g: search(g, F32.astype(">f4")), r"probes: .*got \(2, 40\) >f4"),
    "probes of another dim": (lambda g: search(g, F32[:, :7].copy()), r"probes: expected \(n, 40\) .*got \(n, 7\)"),
    "probes of no dim": (lambda g: search(g, F32[:, :0].copy()), "at least one float"),
    "probes with a NaN": (lambda g: search(g, np.full_like(F32, np.nan)), r"probes: .*finite.*NaN in row 0"),
    "k of 0": (lambda g: search(g, F32, k=0), "k: expected at least 1"),
    "k below 0": (lambda g: search(g, F32, k=-1), "k: .*-1"),
    "values of another width": (lambda g: search(g, F32, VALUES[:, :128].copy()), r"values\[0\]: expected \(2, 384\)"),
    "values of another type": (lambda g: search(g, F32, U8), r"values\[0\]: .*got \(2, 48\) uint8"),
    "values of fewer rows": (lambda g: search(g, F32, VALUES[:1]), r"values\[0\]: expected 2 rows"),
    "values with a NaN": (lambda g: search(g, F32, VALUES * np.float32(np.nan)), r"values\[0\], .*finite"),
    "bounds of another width": (lambda g: search(g, F32, VALUES, F32[:, :3].copy()), r"bounds\[0\]: expected \(2, 6\)"),
    "bounds of fewer rows": (lambda g: search(g, F32, VALUES, BOUNDS[:1]), r"bounds\[0\]: expected 2 rows"),
    "bounds without end": (lambda g: search(g, F32, VALUES, BOUNDS + np.float32(np.inf)), r"bounds\[0\]: .*finite"),
    "lists of another width": (lambda g: search(g, F32, VALUES, lists=VALUES), r"lists\[0\]: expected \(2, 4\)"),
    "lists of fewer rows": (lambda g: search(g, F32, VALUES, lists=AGREEMENTS[:1]), r"lists\[0\]: expected 2 rows"),
    "a least that is no number": (lambda g: _native.search([g.index], F32, [None], 1, float("nan")), "least: .*NaN"),
    "filters of another number": (lambda g: _native.search([g.index], F32, [None], 1, filters=[None, None]), "and 2"),
    "a filter of bools": (lambda g: _native.search([g.index], F32, [None], 1, filters=[np.ones(9, bool)]), "filters"),
    "a filter of more rows": (
        lambda g: _native.search([g.index], F32, [None], 1, filters=[np.zeros(48, np.uint8)]), r"filters\[0\].*47.*48"
    ),
    "a knee that is no number": (lambda g: search(g, F32, VALUES, knee=float("nan")), "finite"),
    "too few cascades": (lambda g: _native.search([g.index], F32, [], 1), "for 1 indexes, got 0"),
    "a cascade for no planes": (lambda g: no_planes(g), r"values\[0\]: expected None"),
    "hamming of two widths": (lambda g: _native.hamming(U8, U8[:, :16].copy()), "one width, got 48 and 16"),
    "hamming of odd bytes": (lambda g: _native.hamming(U8[:, :15].copy(), U8[:, :15].copy()), "16, 32, .* got 15"),
    "hamming of no bytes": (lambda g: _native.hamming(U8[:, :0].copy(), U8[:, :0].copy()), "got 0"),
    "dim of 0": (lambda g: _native.Index(0), "dim: expected 1 to"),
    "dim below 0": (lambda g: _native.Index(-3), "dim: .*-3"),
    "append without codes": (lambda g: g.index.append(np.zeros(1, np.uint64), None), "append: codes: expected .*None"),
    "append of signed keys": (lambda g: g.index.append(np.zeros(1, np.int64), CODES[:1]), r"keys: .*\(1,\) int64"),
    "append of fewer codes": (lambda g: g.index.append(np.zeros(3, np.uint64), CODES), r"codes: expected \(3, 50\)"),
    "append beyond capacity": (lambda g: g.index.append(np.zeros(2, np.uint64), CODES), "room for 0"),
    "append to nothing": (lambda g: _native.Index(4).append(np.zeros(1, np.uint64), None), "open_segment first"),
    "capacity below 0": (lambda g: g.index.open_segment("x", -1), "capacity: .*-1"),
    "capacity of too many rows": (lambda g: g.index.open_segment(__file__, 2**62), "too many"),
    "keys of no segment": (lambda g: g.index.seal(4, __file__, b""), "segment 4 does not exist; there are 4"),
    "set_codes of one array": (lambda g: g.index.set_codes(PLANES, 0, [U8]), "one array per segment"),
    "set_codes of another width": (lambda g: g.index.set_codes(2, 0, [U8] * 4), r"codes\[0\]: .*2 planes.*\(2, 48\)"),
    "set_codes of too many planes": (lambda g: g.index.set_codes(2**40, 0, []), "at most"),
    "set_codes of too many lists": (lambda g: g.index.set_codes(1, 2**17, []), "at most"),
    "codes of a list that is not there": (lambda g: g.index.set_codes(PLANES, 4, wrong_list(g)), "1 is of list 9.*4"),
    "lists for no planes": (lambda g: g.index.set_codes(0, 3, []), "no lists and no arrays"),
    "projection by columns": (lambda g: _native.Projection(np.zeros((4, 128), np.float32).T, *THREE), "contiguous"),
    "projection of half a plane": (
        lambda g: _native.Projection(F32[:, :40].copy(), np.zeros(40, np.float32), np.zeros(2, np.float32), THREE[2]),
        "whole planes",
    ),
    "probes for another projection": (
        lambda g: _native.Projection(np.zeros((1, 128), np.float32), *THREE).project(F32, [(0, 0)] * 3), r"\(n, 1\)"
    ),
    "arrays for no planes": (lambda g: g.index.set_codes(0, 0, [U8[:, :0].copy()]), "no lists and no arrays"),
    "delete of int32": (lambda g: g.index.delete(np.zeros(1, np.int32)), "rows: .*int32"),
}  # fmt: skip


def search(
    gallery: Gallery,
    probes: object,
    values: object = None,
    bounds: object = BOUNDS,
    *,
    lists: object = AGREEMENTS,
    knee: float = 1,
    k: int = 3,
) -> object:
    cascade = None if values is None else (values, lists, bounds, knee)
    return _native.search([gallery.index], probes, [cascade], k)  # type: ignore[arg-type, list-item]


def no_planes(gallery: Gallery) -> object:
    gallery.index.set_codes(0, 0, [])
    return search(gallery, F32, VALUES)


def wrong_list(gallery: Gallery) -> list[np.ndarray]:
    codes = [gallery.coded[rows] for rows in gallery.segments]
    codes[2][1, -2:] = 9, 0
    return codes


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_a_value_error_that_says_which(gallery: Gallery, wrong: str) -> None:
    call, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        call(gallery)
    assert (gallery.index.rows, gallery.index.live_rows) == (371, 371)


@pytest.mark.parametrize("row", [-1, 371, 2**40])
def test_a_row_out_of_range_is_an_index_error(gallery: Gallery, row: int) -> None:
    rows = np.array([5, row], dtype=np.int64)
    with pytest.raises(IndexError, match=rf"rows\[1\] is {row}, but the index has 371 rows"):
        gallery.index.gather(rows)
    with pytest.raises(IndexError, match=rf"rows\[1\] is {row}"):
        gallery.index.delete(rows)
    assert gallery.index.live_rows == 371


def test_a_result_that_fits_no_memory_is_a_memory_error(gallery: Gallery) -> None:
    with pytest.raises(MemoryError, match="no memory"):
        search(gallery, F32, k=2**62)


def test_files_that_cannot_be_mapped_are_os_errors(gallery: Gallery, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"\0" * (DIM * 4 * 3 - 1))
    with pytest.raises(OSError, match=f"short.*expected at least {DIM * 12} bytes, the file has {DIM * 12 - 1}"):
        gallery.index.open_segment(str(short), 3)
    with pytest.raises(FileNotFoundError, match="absent"):
        gallery.index.open_segment(str(tmp_path / "absent"), 3)
    with pytest.raises(OSError, match="short"):
        gallery.index.seal(0, str(short), b"")


def test_a_file_of_other_keys_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.keys[::-1].tofile(tmp_path / "keys")
    with pytest.raises(ValueError, match="does not hold the keys"):
        gallery.index.seal(0, str(tmp_path / "keys"), b"")
    gallery.keys[:300].tofile(tmp_path / "keys")
    gallery.index.seal(0, str(tmp_path / "keys"), b"")
    with pytest.raises(ValueError, match="sealed already"):
        gallery.index.seal(0, str(tmp_path / "keys"), b"")
