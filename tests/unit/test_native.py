"""The compiled extension against NumPy: kernels, exact scan, cascade, the rows and their memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shard import _native
from tests.unit.native_gallery import DIM, LISTS, PLANES, Gallery, best, cascade, make_probes


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path, (300, 0, 70, 1))


def test_kernels_end_with_the_oracle() -> None:
    names = _native.kernels()
    assert names[-1] == "scalar"
    assert set(names) <= {"avx512", "avx2", "popcnt", "neon", "scalar"}


def test_the_kernel_in_use_is_the_fastest_unless_named() -> None:
    assert run_python("print(n.kernel())") == _native.kernels()[0]


@pytest.mark.parametrize("name", _native.kernels())
def test_a_kernel_is_chosen_by_name_once(name: str) -> None:
    other = next((other for other in _native.kernels() if other != name), name)
    program = f"""
n.use_kernel({name!r}); n.use_kernel({name!r}); print(n.kernel())
if {other!r} != {name!r}:
    try: n.use_kernel({other!r})
    except ValueError as error: assert "in use" in str(error), error
    else: raise SystemExit("a second choice was accepted")
"""
    assert run_python(program) == name


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*scalar.*, got \"mmx\""):
        _native.use_kernel("mmx")
    with pytest.raises(ValueError, match="mmx"):
        _native.hamming(np.zeros((1, 16), np.uint8), np.zeros((1, 16), np.uint8), "mmx")


def run_python(program: str) -> str:
    """The output of a fresh process, in which no kernel is chosen yet."""
    root = Path(_native.__file__).parent.parent
    command = [sys.executable, "-c", f"from shard import _native as n\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.strip()


@pytest.mark.parametrize("kernel", [None, *_native.kernels()])
@pytest.mark.parametrize(
    ("n", "m", "planes"), [(1, 1, 1), (3, 33, 1), (2, 1023, 2), (5, 127, 4), (4, 65, 8), (1, 7, 13)]
)
def test_hamming_equals_numpy(kernel: str | None, n: int, m: int, planes: int) -> None:
    rng = np.random.default_rng(n * m + planes)
    probes = rng.integers(0, 256, (n, planes * 16), dtype=np.uint8)
    codes = rng.integers(0, 256, (m, planes * 16), dtype=np.uint8)
    distances = _native.hamming(probes, codes, kernel)
    assert distances.dtype == np.uint16
    np.testing.assert_array_equal(distances, np.bitwise_count(probes[:, None] ^ codes[None]).sum(axis=2))


def test_hamming_of_nothing() -> None:
    none, some = np.zeros((0, 32), np.uint8), np.zeros((3, 32), np.uint8)
    assert _native.hamming(none, some).shape == (0, 3)
    assert _native.hamming(some, none).shape == (3, 0)


def test_crc32c_of_known_bytes_and_in_pieces() -> None:
    data = b"123456789"
    assert _native.crc32c(data) == 0xE3069283
    assert _native.crc32c(memoryview(data)) == 0xE3069283
    assert _native.crc32c(np.frombuffer(data, np.uint8)) == 0xE3069283
    assert _native.crc32c(data[4:], _native.crc32c(data[:4])) == 0xE3069283
    assert _native.crc32c(b"") == _native.crc32c(memoryview(b"")) == 0
    with pytest.raises(ValueError, match="contiguous"):
        _native.crc32c(np.arange(20, dtype=np.uint8)[::2])
    with pytest.raises(TypeError):
        _native.crc32c("text")  # type: ignore[arg-type]


def test_exact_search_equals_numpy(gallery: Gallery) -> None:
    gallery.delete([0, 5, 299, 300, 370])
    probes, _ = make_probes(19)
    indexes, rows, scores, keys = _native.search([gallery.index], probes, [None], 8)
    live = np.flatnonzero(gallery.live)
    assert rows.tolist() == [best(gallery, probe, live, 8) for probe in probes]
    assert not indexes.any()
    np.testing.assert_array_equal(keys, gallery.keys[rows])
    np.testing.assert_allclose(scores, np.einsum("nkd,nd->nk", gallery.floats[rows], probes), rtol=0, atol=2e-6)


def test_a_cascade_that_leaves_nothing_out_equals_the_exact_search(gallery: Gallery) -> None:
    gallery.delete([17, 301])
    probes, values = make_probes(33)
    exact = _native.search([gallery.index], probes, [None], 12)
    found = _native.search([gallery.index], probes, [cascade(values, -1e9)], 12)
    for left, right in zip(exact, found, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("offset", "slope", "k"), [(0, 0, 5), (40, 0, 9), (-30, 10, 3), (1e6, 0, 2), (10, 20, 1)])
def test_a_cascade_finds_what_its_bounds_promise(tmp_path: Path, offset: float, slope: float, k: int) -> None:
    gallery = Gallery(tmp_path, (2_000, 0, 3_000))
    gallery.delete([1, 2, 3, 3_500])
    probes, values = make_probes(21)
    _, rows, scores, _ = _native.search([gallery.index], probes, [cascade(values, offset, slope)], k)
    for probe, weights, got, score in zip(probes, values, rows, scores, strict=True):
        least = offset + slope * float(score[k - 1])
        # Distances are whole numbers of units; see the native tests for how far that can be off.
        head, full = (part >= least + 40 for part in gallery.agreement(weights))
        promised = np.union1d(np.flatnonzero(gallery.live & head & full), got)
        assert got.tolist() == best(gallery, probe, promised, k)


def test_several_indexes_are_searched_as_one(tmp_path: Path) -> None:
    galleries = [Gallery(tmp_path, (80,), seed=1), Gallery(tmp_path, (3, 60), seed=2, with_codes=False)]
    empty = _native.Index(DIM)
    probes, values = make_probes(9)
    indexes = [galleries[0].index, empty, galleries[1].index]
    found = _native.search(indexes, probes, [cascade(values, -1e9), None, None], 200)
    floats = np.concatenate([gallery.floats for gallery in galleries])
    for n, probe in enumerate(probes):
        order = np.argsort(-(floats.astype(np.float64) @ probe))
        expected = [(0, int(row)) if row < 80 else (2, int(row) - 80) for row in order]
        got = list(zip(found[0][n].tolist(), found[1][n].tolist(), strict=True))
        assert got == expected + [(-1, -1)] * (200 - 143)
        assert np.isnan(found[2][n, 143:]).all()
        assert not found[3][n, 143:].any()


def test_equal_scores_come_by_key_then_index_then_row(tmp_path: Path) -> None:
    np.tile(np.eye(1, DIM, dtype=np.float32), (6, 1)).tofile(tmp_path / "same")
    indexes = [_native.Index(DIM), _native.Index(DIM)]
    for index, keys in zip(indexes, ([7, 3, 7, 1, 9, 3], [3, 0, 7, 7, 2, 9]), strict=True):
        index.open_segment(str(tmp_path / "same"), 6)
        index.append(np.array(keys, dtype=np.uint64), None)
    probes = np.eye(1, DIM, dtype=np.float32)
    found = _native.search(indexes, probes, [None, None], 9)
    got = [array[0].tolist() for array in (found[3], found[0], found[1])]
    expected = [
        *[(7, 0, 0), (3, 0, 1), (7, 0, 2), (1, 0, 3), (9, 0, 4), (3, 0, 5)],
        *[(3, 1, 0), (0, 1, 1), (7, 1, 2), (7, 1, 3), (2, 1, 4), (9, 1, 5)],
    ]
    assert list(zip(*got, strict=True)) == sorted(expected)[:9]


def test_searches_of_nothing(gallery: Gallery) -> None:
    probes, values = make_probes(2)
    for array in _native.search([gallery.index], probes[:0], [cascade(values[:0], 0)], 4):
        assert array.shape == (0, 4)
    for found in (
        _native.search([], probes, [], 3),
        _native.search([_native.Index(DIM)], probes, [None], 3),
    ):
        assert (found[0] == -1).all()
        assert (found[1] == -1).all()
        assert np.isnan(found[2]).all()


def test_codes_are_replaced_and_dropped(gallery: Gallery) -> None:
    probes, values = make_probes(4)
    before = _native.search([gallery.index], probes, [cascade(values, 20)], 10)
    assert gallery.index.planes == PLANES
    gallery.index.set_codes(1, 0, [gallery.codes[rows, :16].copy() for rows in gallery.segments])
    assert (gallery.index.planes, gallery.index.lists) == (1, 0)
    gallery.index.set_codes(0, 0, [])
    assert gallery.index.planes == 0
    gallery.index.set_codes(PLANES, LISTS, [gallery.coded[rows] for rows in gallery.segments])
    assert gallery.index.lists == LISTS
    after = _native.search([gallery.index], probes, [cascade(values, 20)], 10)
    np.testing.assert_array_equal(before[1], after[1])


def test_memory_is_counted_and_has_no_slack(tmp_path: Path) -> None:
    rows = 9_984  # whole blocks of 32
    gallery = Gallery(tmp_path, (rows,))
    assert gallery.index.code_bytes == rows * (PLANES * 16 + 2 + 8)
    gallery.keys.tofile(tmp_path / "keys")
    gallery.index.seal(0, str(tmp_path / "keys"), b"")
    sealed = rows * (PLANES * 16 + 2) + (LISTS + 1) * 4
    assert gallery.index.code_bytes == sealed
    probes, _ = make_probes(1)
    _, found, _, keys = _native.search([gallery.index], probes, [None], 5)
    np.testing.assert_array_equal(keys, gallery.keys[found])
    gallery.delete([3])
    assert gallery.index.code_bytes == sealed + rows // 64 * 8


@pytest.mark.parametrize("is_loaded", [True, False], ids=["loaded", "sealed"])
def test_lists_that_do_not_agree_are_not_visited(tmp_path: Path, is_loaded: bool) -> None:
    gallery = Gallery(tmp_path, (6_800, 60))
    gallery.keys[:6_800].tofile(tmp_path / "keys")
    gallery.index.seal(0, str(tmp_path / "keys"), b"")
    if is_loaded:
        gallery.index.set_codes(PLANES, LISTS, [gallery.coded[rows] for rows in gallery.segments])
    gallery.delete([5, 6, 7])
    probes, values = make_probes(8)
    agreements = np.tile(np.array([3, 1, 2, 0], np.float32), (8, 1))
    bounds = np.tile(np.array([1.5, 0, -1e9, 0, -1e9, 0], np.float32), (8, 1))
    # The pilot visits three lists of 1,700. Where they fill k there is a limit, and the fourth is below it.
    for k, lists in ((9, [0, 1, 2]), (6_860, [0, 1, 2, 3])):
        _, rows, _, _ = _native.search([gallery.index], probes, [(values, agreements, bounds, 2.0)], k)
        listed = np.isin(gallery.lists, lists) | (np.arange(6_860) >= 6_800)
        visited = np.flatnonzero(listed & gallery.live)
        for probe, got in zip(probes, rows, strict=True):
            # As sets: among thousands, some scores are nearer than another order of additions tells apart.
            assert set(got[got >= 0].tolist()) == set(best(gallery, probe, visited, k))


def test_a_least_score_makes_a_range_search(gallery: Gallery) -> None:
    gallery.delete([17, 301])
    probes, values = make_probes(5)
    everything = gallery.floats.astype(np.float64) @ probes.T.astype(np.float64)
    for stage in (None, cascade(values, -1e9)):
        _, rows, scores, _ = _native.search([gallery.index], probes, [stage], 371, 1.25)
        for n, got in enumerate(rows):
            expected = np.flatnonzero(gallery.live & (everything[:, n] >= 1.25))
            assert len(expected) > 3
            assert set(got[got >= 0].tolist()) == set(expected.tolist())
            assert (scores[n][got >= 0] >= 1.25).all()


@pytest.mark.parametrize("share", [0.6, 0.01], ids=["many", "few"])
def test_a_filter_lets_its_rows_pass(gallery: Gallery, share: float) -> None:
    gallery.delete([17, 301])
    probes, values = make_probes(5)
    passes = np.random.default_rng(3).random(371) < share
    bits = np.packbits(passes, bitorder="little")
    for stage in (None, cascade(values, -1e9)):
        _, rows, _, _ = _native.search([gallery.index], probes, [stage], 10, filters=[bits])
        for probe, got in zip(probes, rows, strict=True):
            assert got[got >= 0].tolist() == best(gallery, probe, np.flatnonzero(passes & gallery.live), 10)


def test_a_filter_made_before_rows_came_hides_them(gallery: Gallery) -> None:
    probes, values = make_probes(2)
    bits = np.full(10, 255, np.uint8)
    _, rows, _, _ = _native.search([gallery.index], probes, [cascade(values, -1e9)], 371, filters=[bits])
    assert sorted(rows[0][rows[0] >= 0].tolist()) == list(range(80))


def test_rows_are_counted_deleted_and_gathered(gallery: Gallery) -> None:
    assert (gallery.index.rows, gallery.index.live_rows, gallery.index.dim) == (371, 371, DIM)
    assert gallery.delete([4, 4, 370]) == 2
    assert gallery.delete([4]) == 0
    assert (gallery.index.rows, gallery.index.live_rows) == (371, 369)
    rows = np.array([370, 4, 0, 4], dtype=np.int64)
    np.testing.assert_array_equal(gallery.index.gather(rows), gallery.floats[rows])
    assert gallery.index.gather(rows[:0]).shape == (0, DIM)
    np.testing.assert_array_equal(gallery.index.keys(2), gallery.keys[gallery.segments[2]])


def test_checksums_of_blocks_are_those_of_the_pieces() -> None:
    data = np.random.default_rng(1).integers(0, 256, 200_001, dtype=np.uint8)
    for block in (1, 1_000, _native.CHECKSUM_BLOCK, 200_001, 1 << 40):
        sums = [_native.crc32c(data[start : start + block]) for start in range(0, len(data), block)]
        assert _native.crc32c_blocks(data, block) == np.array(sums, "<u4").tobytes()
    assert _native.crc32c_blocks(memoryview(data), 7) == _native.crc32c_blocks(data.tobytes(), 7)
    assert _native.crc32c_blocks(b"", 7) == b""
    with pytest.raises(ValueError, match="block: expected at least 1"):
        _native.crc32c_blocks(data, 0)
    with pytest.raises(ValueError, match="contiguous"):
        _native.crc32c_blocks(data[::2], 7)


def test_the_block_of_checksums_follows_from_their_count() -> None:
    new, old = _native.CHECKSUM_BLOCK, 1 << 20
    assert (new, _native.checksum_block(0, 0), _native.checksum_block(1, 1)) == (1 << 16, new, new)
    assert [_native.checksum_block(new + 1, count) for count in (2, 1)] == [new, old]
    assert [_native.checksum_block(old + 1, count) for count in (17, 2)] == [new, old]
    for size, count in ((0, 1), (1, 0), (new, 2), (old + 1, 16), (5, -1), (-5, 1)):
        with pytest.raises(ValueError, match=r"expected|checksums are not those"):
            _native.checksum_block(size, count)


def sealed_gallery(folder: Path, segments: tuple[int, ...]) -> Gallery:
    """All segments but the last are sealed, with checksums."""
    gallery = Gallery(folder, segments)
    for number, members in enumerate(gallery.segments[:-1]):
        gallery.keys[members].tofile(folder / f"keys-{number}")
        sums = _native.crc32c_blocks(gallery.floats[members].reshape(-1).view(np.uint8), _native.CHECKSUM_BLOCK)
        gallery.index.seal(number, str(folder / f"keys-{number}"), sums)
    return gallery


def test_a_wrong_block_is_an_error_with_path_and_offset(tmp_path: Path) -> None:
    gallery = sealed_gallery(tmp_path, (3_000, 2_000, 10))
    path = tmp_path / "floats-5-1"
    with path.open("r+b") as file:
        file.seek(4 * _native.CHECKSUM_BLOCK + 3)
        file.write(b"\xff")
    row = 3_000 + 4 * _native.CHECKSUM_BLOCK // (DIM * 4) + 1
    probes, values = make_probes(40)
    calls = (
        lambda: _native.search([gallery.index], probes, [None], 5),
        lambda: _native.search([gallery.index], probes, [cascade(values, -1e9)], 5),
        lambda: gallery.index.gather(np.array([0, row], np.int64)),
    )
    for call in calls * 2:
        with pytest.raises(_native.CorruptBlock) as caught:
            call()
        assert caught.value.args == (str(path), 4 * _native.CHECKSUM_BLOCK)
    np.testing.assert_array_equal(gallery.index.gather(np.array([0, 5_009], np.int64)), gallery.floats[[0, 5_009]])
    assert (_native.CorruptBlock.__module__, _native.CorruptBlock.__base__) == ("shard._native", Exception)


def test_a_dropped_segment_is_unmapped_and_found_no_more(tmp_path: Path) -> None:
    gallery = sealed_gallery(tmp_path, (3_000, 2_000, 10))
    index, before = gallery.index, gallery.index.code_bytes
    with pytest.raises(ValueError, match="drop: 3000 of the 3000 rows of segment 0 are live"):
        index.drop(0)
    gallery.delete(list(range(3_000)))
    assert str(tmp_path / "floats-5-0") in Path("/proc/self/maps").read_text()
    index.drop(0)
    index.drop(0)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "floats-5-0") not in maps
    assert str(tmp_path / "keys-0") not in maps
    assert str(tmp_path / "floats-5-1") in maps
    (tmp_path / "floats-5-0").unlink()
    assert (index.rows, index.live_rows) == (5_010, 2_010)
    assert index.code_bytes <= before - 3_000 * (PLANES * 16 + 2)
    assert gallery.delete([0, 2_999]) == 0
    assert index.keys(0).shape == (0,)
    with pytest.raises(IndexError, match="row 2999 is gone: its segment 0 was dropped"):
        index.gather(np.array([3_000, 2_999], np.int64))
    probes, values = make_probes(5)
    empty = np.empty((0, PLANES * 16 + 2), np.uint8)
    index.set_codes(PLANES, LISTS, [empty, *(gallery.coded[rows] for rows in gallery.segments[1:])])
    everything = np.full(627, 255, np.uint8)
    for stage in (None, cascade(values, -1e9)):
        for filters in (None, [everything], [everything[:376]]):  # the last lets eight rows pass, one by one
            _, rows, _, _ = _native.search([index], probes, [stage], 12, filters=filters)
            allowed = np.arange(3_000, 3_008 if filters and len(filters[0]) == 376 else 5_010)
            assert [got[got >= 0].tolist() for got in rows] == [best(gallery, probe, allowed, 12) for probe in probes]


def test_skipped_rows_keep_the_numbers_of_those_after_them(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, (300, 70))
    index = _native.Index(DIM)
    assert index.skip(1_000) == 0
    with pytest.raises(ValueError, match="room for 0"):
        index.append(gallery.keys[:1], None)
    assert index.open_segment(str(tmp_path / "floats-5-0"), 300) == 1
    assert index.append(gallery.keys[:300], None) == 1_000
    assert (index.skip(7), index.skip(0)) == (2, 3)
    assert index.open_segment(str(tmp_path / "floats-5-1"), 70) == 4
    assert index.append(gallery.keys[300:], None) == 1_307
    assert (index.rows, index.live_rows) == (1_377, 370)
    probes, _ = make_probes(6)
    _, rows, _, _ = _native.search([index], probes, [None], 8)
    numbers = np.r_[1_000:1_300, 1_307:1_377]
    expected = [numbers[best(gallery, probe, np.arange(370), 8)].tolist() for probe in probes]
    assert rows.tolist() == expected
    assert index.delete(np.array([5, 1_301, 1_307], np.int64)) == 1
    with pytest.raises(ValueError, match="skip: 4294967295 rows do not fit"):
        index.skip(2**32 - 1)
    with pytest.raises(ValueError, match=r"rows: .*-1"):
        index.skip(-1)
