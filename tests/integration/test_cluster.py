"""The Python API, the same tests on one machine and on Ray with three shard hosts."""

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster, Gallery
from shard.errors import (
    AlreadyExists,
    ClusterError,
    CorruptData,
    DuplicateTemplate,
    FormatTooNew,
    HomeLocked,
    InvalidEmbedding,
    InvalidParameter,
    ModelMismatch,
    NotEnoughData,
    NotFound,
    ShardClosed,
    UnknownGallery,
    UnknownModel,
    UnknownTemplate,
)
from tests.faces_like import exact, unit_rows

DIM = 64
Open = Callable[..., Cluster]


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def runtime_options(request: pytest.FixtureRequest) -> dict[str, str]:
    """How to open a home on the runtime under test."""
    if request.param == "ray":
        return {"runtime": "ray", "ray_address": request.getfixturevalue("ray_cluster").address}
    return {"runtime": "local"}


@pytest.fixture
def open_home(runtime_options: dict[str, str], tmp_path: Path) -> Open:
    """Opens a home of the test's own, as often as the test likes."""
    return lambda: Cluster.open(tmp_path / "home", **runtime_options)


@pytest.fixture(scope="module")
def grid(runtime_options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A home shared by the tests, because opening one on Ray takes seconds; each has galleries of its own."""
    with Cluster.open(tmp_path_factory.mktemp("shared") / "home", **runtime_options) as opened:
        yield opened


@pytest.fixture
def staff(grid: Cluster) -> Iterator[Gallery]:
    """A new gallery, dropped afterwards."""
    gallery = grid.gallery(f"acme/{secrets.token_hex(4)}", create=True, shards=4, dim=DIM)
    yield gallery
    if gallery.name in {other.name for other in grid.galleries()}:
        grid.drop(gallery.name)


def _nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def ids(n: int, first: int = 0) -> list[str]:
    return [f"t{i}" for i in range(first, first + n)]


def test_the_life_of_a_gallery(grid: Cluster, staff: Gallery) -> None:
    rows = unit_rows(60, DIM, seed=1)
    people = [f"person {i % 20}" for i in range(60)]
    metadata = [{"photo": i, "tags": ["ü"]} for i in range(60)]
    result = staff.enroll(rows * 3, identities=people, template_ids=ids(60), metadata=metadata)
    assert (result.enrolled, result.skipped, len(result.template_ids)) == (60, 0, 60)
    batch = staff.search(rows, k=4)
    assert list(batch.template_ids) == exact(ids(60), rows, rows, 4)
    assert [row[0] for row in batch.identities] == people
    assert (batch.coverage.answered, batch.coverage.asked) == (4, 4)
    assert len(staff) == 60
    assert "person 3" in staff
    assert "person" not in staff
    assert [(c.identity, c.templates) for c in staff.identities()] == [(p, 3) for p in sorted(set(people))]
    assert staff.get("t7").metadata == {"photo": 7, "tags": ["ü"]}
    assert staff.delete(identity="person 3") == 3
    assert staff.delete(template_ids=["t0", "nobody"]) == 1
    assert "person 3" not in staff
    assert all("t3" not in row and "t0" not in row for row in staff.search(rows, k=56).template_ids)
    with pytest.raises(UnknownTemplate, match="t0"):
        staff.get("t0")
    staff.flush()
    assert len(staff) == 56
    assert staff.name in [gallery.name for gallery in grid.galleries()]
    grid.drop(staff.name)
    with pytest.raises(UnknownGallery, match=staff.name):
        grid.gallery(staff.name)
    assert not list(grid.home.directory.rglob(f"{staff._route.gallery_id}*"))


def test_everything_acknowledged_is_there_after_reopening(open_home: Open) -> None:
    rows = unit_rows(1_300, DIM, seed=2)
    with open_home() as grid:
        gallery = grid.gallery("acme/big", create=True, shards=3, dim=DIM, code_bits=256)
        gallery.enroll(rows, template_ids=ids(1_300))
        report = gallery.train()
        assert report.templates == 1_300
        gallery.delete(template_ids=ids(100))
        before = gallery.search(rows[:200], k=3)
    with open_home() as grid:
        gallery = grid.gallery("acme/big")
        stats = gallery.stats()
        assert (stats.templates, stats.model_id, stats.code_bits) == (1_200, report.model_id, 256)
        after = gallery.search(rows[:200], k=3)
        assert after.template_ids == before.template_ids
        np.testing.assert_array_equal(after.scores, before.scores)
        everything = gallery.search(rows[:200], k=3, exact=True)
        assert list(everything.template_ids) == exact(ids(1_200, 100), rows[100:], rows[:200], 3)


def test_training_happens_by_itself(grid: Cluster, staff: Gallery) -> None:
    rows = unit_rows(1_200, DIM, seed=3)
    staff.enroll(rows[:900])
    grid.wait_until_idle()
    assert staff.stats().model_id is None
    with pytest.raises(NotEnoughData, match="900"):
        staff.train()
    staff.enroll(rows[900:])
    grid.wait_until_idle()
    assert staff.stats().model_id is not None
    np.testing.assert_allclose(staff.search(rows, k=1).scores[:, 0], 1.0, atol=1e-6)


def test_a_model_is_rolled_out_with_progress_measured_for_drift_and_rolled_back(grid: Cluster, staff: Gallery) -> None:
    rows = unit_rows(2_000, DIM, seed=8)
    staff.enroll(rows[:1_200], template_ids=ids(1_200))
    grid.wait_until_idle()
    first = staff.stats().model_id
    assert staff.drift() is None
    staff.enroll(rows[1_200:], template_ids=ids(800, 1_200))
    told: list[tuple[int, int]] = []
    report = staff.train(progress=lambda done, total: told.append((done, total)))
    assert report.drift is not None
    assert (report.drift.rows, report.drift.score < 0.5) == (800, True)
    assert told == sorted(told)
    assert all(total == 8 for _, total in told)
    (status,) = [status for status in grid.coordinator.rollouts() if status.gallery == staff.name]
    assert (status.state, status.model_id, status.previous_model_id) == ("done", report.model_id, first)
    assert (status.prepared, status.activated, status.replicas) == (4, 4, 4)
    assert staff.roll_back().state == "rolled_back"
    assert staff.stats().model_id == first
    found = staff.search(rows, k=1)
    assert list(found.template_ids) == [(i,) for i in ids(2_000)]
    with pytest.raises(NotFound):
        staff.roll_back()


def test_the_list_is_the_same_from_1_3_and_7_shards(grid: Cluster) -> None:
    rows = unit_rows(400, DIM, seed=4)
    rows[200:250] = rows[:50]  # ties, which land in different shards
    lists = []
    for shards in (1, 3, 7):
        gallery = grid.gallery(f"split/in-{shards}", create=True, shards=shards, dim=DIM)
        gallery.enroll(rows, template_ids=ids(400))
        lists.append(gallery.search(rows[:100], k=10, exact=True))
    for other in lists[1:]:
        assert other.template_ids == lists[0].template_ids
        np.testing.assert_array_equal(other.scores, lists[0].scores)


def test_a_threshold_cuts_the_lists(staff: Gallery) -> None:
    rows = unit_rows(50, DIM, seed=5)
    staff.enroll(rows, template_ids=ids(50))
    batch = staff.search(rows[:3], k=50, threshold=0.99)
    assert list(batch.template_ids) == [("t0",), ("t1",), ("t2",)]
    assert np.isnan(batch.scores[:, 1:]).all()


def test_a_threshold_and_a_large_k_are_a_range_search(staff: Gallery) -> None:
    rows = unit_rows(3_000, DIM, seed=8)
    staff.enroll(rows, template_ids=ids(3_000))
    staff.flush()
    staff.train()
    probes = unit_rows(20, DIM, seed=9)
    scores = probes @ rows.T
    for is_exact in (False, True):
        batch = staff.search(probes, k=1_000, threshold=0.35, exact=is_exact)
        found = [{f"t{row}" for row in np.flatnonzero(near >= 0.35)} for near in scores]
        assert sum(map(len, found)) > 50
        missed = sum(len(there - set(got)) for there, got in zip(found, batch.template_ids, strict=True))
        assert missed <= (0 if is_exact else 1)  # one in a thousand
        assert all(set(got) <= there for there, got in zip(found, batch.template_ids, strict=True))


def test_a_search_among_identities_finds_theirs_and_no_others(staff: Gallery) -> None:
    rows = unit_rows(600, DIM, seed=6)
    names = [f"person-{i % 60}" for i in range(600)]
    staff.enroll(rows, template_ids=ids(600), identities=names)
    for is_exact in (False, True):
        batch = staff.search(rows[:5], k=50, identities=["person-7", "person-40", "nobody"], exact=is_exact)
        for probe, (found, got) in enumerate(zip(batch.template_ids, batch.identities, strict=True)):
            among = [row for row in range(600) if row % 60 in (7, 40)]
            order = sorted(among, key=lambda row: -float(rows[probe] @ rows[row]))
            assert list(found) == [f"t{row}" for row in order]
            assert set(got) == {"person-7", "person-40"}
    staff.delete(identity="person-40")
    assert set(staff.search(rows[:1], k=50, identities=["person-7", "person-40"]).identities[0]) == {"person-7"}
    assert staff.search(rows[:1], identities=["nobody"]).template_ids == ((),)
    for wrong in ([], "person-7", ["a\nb"]):
        with pytest.raises(InvalidParameter, match="identities"):
            staff.search(rows[:1], identities=wrong)


def test_duplicates_are_refused_across_shards_and_skipped_on_demand(staff: Gallery) -> None:
    rows = unit_rows(30, DIM, seed=6)
    staff.enroll(rows[:10], template_ids=ids(10), identities=["Ann"] * 10)
    with pytest.raises(DuplicateTemplate, match="t9"):
        staff.enroll(rows[9:20], template_ids=ids(11, 9), identities=["Bob"] * 11)
    assert len(staff) == 10
    assert "Bob" not in staff
    again = staff.enroll(rows[9:20], template_ids=ids(11, 9), identities=["Bob"] * 11, if_exists="skip")
    assert (again.enrolled, again.skipped) == (10, 1)
    assert staff.get("t9").identity == "Ann"


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        (np.ones((3, DIM), np.float64), InvalidEmbedding, "float64"),
        (np.ones((3, 63), np.float32), InvalidEmbedding, "63"),
        (np.ones(DIM, np.float32), InvalidEmbedding, "shape"),
        (np.zeros((3, DIM), np.float32), InvalidEmbedding, "zeros"),
        (np.full((3, DIM), np.nan, np.float32), InvalidEmbedding, "NaN"),
        (np.full((3, DIM), np.inf, np.float32), InvalidEmbedding, "Inf"),
        (np.ones((0, DIM), np.float32), InvalidEmbedding, "empty"),
        ([[1.0] * DIM], InvalidEmbedding, "numpy"),
    ],
)
def test_bad_embeddings_are_named_and_change_nothing(staff: Gallery, values, error, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=match):
        staff.enroll(values)
    with pytest.raises(error, match=match):
        staff.search(values)
    assert len(staff) == 0


@pytest.mark.parametrize(
    "labels",
    [
        {"template_ids": ["a"]},
        {"identities": ["a", "b", "c"]},
        {"template_ids": ["a", "a"]},
        {"template_ids": ["a", ""]},
        {"identities": ["a", "x" * 200]},
        {"identities": "ab"},
        {"template_ids": "ab"},
        {"metadata": [{"a": 1}, "text"]},
        {"metadata": [{"a": float("nan")}, None]},
        {"metadata": [{1: "a", "1": "b"}, None]},
        {"metadata": [{"a": [{None: "b"}]}, None]},
        {"metadata": [_nested(10_000), None]},
        {"metadata": [{"a": "x" * 20_000}, None]},
        {"if_exists": "replace"},
    ],
)
def test_bad_labels_are_named_and_change_nothing(staff: Gallery, labels) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((InvalidParameter, DuplicateTemplate)):
        staff.enroll(unit_rows(2, DIM, seed=7), **labels)
    assert len(staff) == 0


@pytest.mark.parametrize("options", [{"k": 0}, {"k": -1}, {"k": 1_001}, {"recall": 1.5}])
def test_bad_search_options(staff: Gallery, options) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidParameter):
        staff.search(unit_rows(1, DIM, seed=8), **options)


def test_galleries_are_made_once_and_as_asked(grid: Cluster, staff: Gallery) -> None:
    before = len(grid.galleries())
    assert grid.gallery(staff.name, create=True, shards=4).dim == DIM
    with pytest.raises(AlreadyExists, match="shards=4"):
        grid.gallery(staff.name, create=True, shards=5)
    with pytest.raises(UnknownGallery):
        grid.gallery("acme/other")
    for name in ("staff", "Acme/staff", "acme/../x", "acme/" + "x" * 64, ""):
        with pytest.raises(InvalidParameter, match="gallery name"):
            grid.gallery(name, create=True)
    for options in ({"shards": 0}, {"dim": 32}, {"code_bits": 100}, {"dim": 100, "embedder": "sface_2021dec"}):
        with pytest.raises(InvalidParameter):
            grid.gallery("acme/bad", create=True, **{"dim": DIM, **options})
    assert len(grid.galleries()) == before


def test_images_need_a_gallery_of_their_embedder(staff: Gallery, data_dir: Path) -> None:
    with pytest.raises(ModelMismatch, match="unknown origin"):
        staff.search_image(data_dir / "photos" / "img1.jpg")


@pytest.mark.parametrize("setting", ["embedder", "detector"])
def test_an_unknown_network_is_named_with_the_known_ones(tmp_path: Path, setting: str) -> None:
    with Cluster.open(tmp_path / "home") as grid:
        grid.gallery("acme/staff", create=True)
    known = {"embedder": "sface_2021dec", "detector": "yunet_2023mar"}[setting]
    with Cluster.open(tmp_path / "home", **{setting: "zzz"}) as grid:
        staff = grid.gallery("acme/staff")
        for call in (lambda: staff.search_image(b""), lambda: staff.enroll_image(b"")):
            with pytest.raises(UnknownModel, match=f"'zzz'; known: .*{known}"):
                call()


def test_a_closed_cluster_changes_nothing(open_home: Open) -> None:
    with open_home() as grid:
        staff = grid.gallery("acme/staff", create=True, dim=DIM)
        staff.enroll(unit_rows(3, DIM, seed=9))
    for closed in (lambda: staff.enroll(unit_rows(1, DIM, seed=10)), grid.wait_until_idle):
        with pytest.raises(ShardClosed, match="closed"):
            closed()
    for call in (
        lambda: grid.drop("acme/staff"),
        lambda: grid.gallery("acme/other", create=True, dim=DIM),
        lambda: staff.search(unit_rows(1, DIM, seed=10)),
    ):
        with pytest.raises(ClusterError):
            call()
    with open_home() as grid:
        assert [(gallery.name, len(gallery)) for gallery in grid.galleries()] == [("acme/staff", 3)]


def test_a_second_open_is_refused(open_home: Open) -> None:
    with open_home() as first:
        with pytest.raises(HomeLocked, match="pid"):
            open_home()
        assert first.galleries() == []


def test_a_home_of_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    Cluster.open(tmp_path / "home").close()
    manifest = tmp_path / "home" / "facegrid.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(FormatTooNew, match="99"):
        Cluster.open(tmp_path / "home")
    manifest.write_text("{")
    with pytest.raises(CorruptData, match=r"facegrid\.json"):
        Cluster.open(tmp_path / "home")


@pytest.mark.parametrize("version", ["true", "1.0", "1.9", "0", "-1", '"1"', "null", "[1]"])
def test_a_home_whose_format_is_no_number_is_corrupt(tmp_path: Path, version: str) -> None:
    with Cluster.open(tmp_path / "home"):
        pass
    manifest = tmp_path / "home" / "facegrid.json"
    manifest.write_text(f'{{"format": {version}, "home_id": "x"}}')
    with pytest.raises(CorruptData, match=r"facegrid\.json: format: expected an integer") as raised:
        Cluster.open(tmp_path / "home")
    assert repr(json.loads(version)) in str(raised.value)


def test_a_home_that_cannot_be_a_directory_is_the_callers_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for home in ("file", "file/home", "file/deeper/home", "ring", "x" * 300, "a\0b"):
        with pytest.raises(InvalidParameter, match="directory"):
            Cluster.open(tmp_path / home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ring"]


def test_a_directory_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(CorruptData, match="not empty"):
        Cluster.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_gallery_is_calibrated_and_searched_by_fpir(grid: Cluster, staff: Gallery) -> None:
    people = unit_rows(150, DIM, seed=1)
    again = people + 0.05 * np.random.default_rng(2).normal(size=people.shape).astype(np.float32)
    names = [f"person {i}" for i in range(150)]
    with pytest.raises(NotEnoughData, match="has not been calibrated"):
        staff.search(people[:1], target_fpir=0.1)
    staff.enroll(people, identities=names, template_ids=ids(150))
    staff.enroll(again, identities=names, template_ids=ids(150, 150))
    made = staff.calibrate(seed=3)
    assert (made.gallery_size, made.identities, made.probes, made.genuine) == (300, 150, 150, 150)
    kept = grid.gallery(staff.name).calibration()
    assert kept is not None
    assert kept.to_json() == made.to_json()
    assert staff.search(people[:1], target_fpir=0.1).threshold == made.threshold_for_fpir(0.1, 300)
    gallery_id = grid.coordinator.gallery(staff.name).gallery_id
    grid.drop(staff.name)
    assert grid.coordinator.calibrations.of(gallery_id) is None
    with pytest.raises(UnknownGallery):
        grid.coordinator.calibrations.put(gallery_id, made)
    with pytest.raises(UnknownGallery):
        staff.calibrate()
