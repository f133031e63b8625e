"""Calibrating a gallery: what is drawn, what is stored, and the threshold that a search takes from it."""

import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster import Cluster, calibration
from cluster.error_rates_svg import error_rates_svg
from cluster.gallery import Gallery
from coordinator import measuring
from coordinator.catalog import Catalog
from coordinator.router import Router
from shard.errors import CorruptData, HostUnavailable, InvalidParameter, NotEnoughData
from shard.types import FloatArray
from tests.faces_like import unit_rows

DIM = 64
PEOPLE = 240
NAMES = [f"p{i}" for i in range(PEOPLE)]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(tmp_path / "home") as opened:
        yield opened


def photos(people: FloatArray, seed: int) -> FloatArray:
    """(n, DIM) float32: another photo of each person."""
    return people + 0.08 * np.random.default_rng(seed).normal(size=people.shape).astype(np.float32)


def filled(grid: Cluster, name: str = "acme/staff", shards: int = 3) -> Gallery:
    """Everybody once, every other person twice, one of them 20 times, and 30 templates of nobody."""
    gallery = grid.gallery(name, create=True, dim=DIM, shards=shards)
    people = unit_rows(PEOPLE, DIM, seed=1)
    gallery.enroll(photos(people, 2), identities=NAMES, template_ids=[f"a{i}" for i in range(PEOPLE)])
    gallery.enroll(photos(people[::2], 3), identities=NAMES[::2], template_ids=[f"b{i}" for i in range(0, PEOPLE, 2)])
    gallery.enroll(photos(people[[0] * 18], 4), identities=["p0"] * 18, template_ids=[f"c{i}" for i in range(18)])
    gallery.enroll(unit_rows(30, DIM, seed=5), template_ids=[f"n{i}" for i in range(30)])
    return gallery


def test_a_calibration_counts_what_it_was_made_of(grid: Cluster) -> None:
    gallery = filled(grid)
    assert gallery.calibration() is None
    found = gallery.calibrate()
    assert found.gallery_size == len(gallery) == PEOPLE * 3 // 2 + 48
    assert (found.identities, found.labelled) == (PEOPLE, found.gallery_size - 30)
    assert (found.probes, found.genuine, found.left_out) == (PEOPLE, PEOPLE // 2, 0)
    assert found.impostors == PEOPLE * (PEOPLE - 1) // 2
    assert found.stale_reason(gallery.embedder, len(gallery)) is None
    kept = gallery.calibration()
    assert kept is not None
    assert kept.to_json() == found.to_json()


def test_top_scores_are_those_of_other_identities_and_of_nobody(grid: Cluster) -> None:
    """Against an exact search by hand, in NumPy, of the templates that were drawn."""
    gallery = filled(grid)
    sample = grid.coordinator.calibrations.draw(gallery.name, 2_000, 0)
    people = unit_rows(PEOPLE, DIM, seed=1)
    rows = [photos(people, 2), photos(people[::2], 3), photos(people[[0] * 18], 4), unit_rows(30, DIM, seed=5)]
    stored = np.concatenate(rows)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    names = np.array([*NAMES, *NAMES[::2], *["p0"] * 18, *[""] * 30])
    scores = sample.probes @ stored.T
    scores[np.array(sample.names)[:, None] == names] = -1
    found = gallery.calibrate()
    np.testing.assert_allclose(np.sort(found.top_scores), np.sort(scores.max(axis=1)), atol=1e-5)
    assert sample.own[sample.names.index("p0")] == 20
    assert sample.pairs.shape == (PEOPLE // 2, 2, DIM)


def test_the_sample_is_the_same_however_the_gallery_is_sharded(grid: Cluster) -> None:
    draws = [
        grid.coordinator.calibrations.draw(filled(grid, f"acme/s{shards}", shards).name, 100, 7) for shards in (1, 3, 5)
    ]
    assert len(draws[0].names) == 100
    for other in draws[1:]:
        assert other.names == draws[0].names
        np.testing.assert_array_equal(other.probes, draws[0].probes)
        np.testing.assert_array_equal(other.pairs, draws[0].pairs)
    assert grid.coordinator.calibrations.draw("acme/s1", 100, 8).names != draws[0].names


def test_a_search_takes_its_threshold_from_the_calibration(grid: Cluster) -> None:
    gallery = filled(grid)
    found = gallery.calibrate()
    strangers = photos(unit_rows(2_000, DIM, seed=99), 100)
    batch = gallery.search(strangers, k=1, target_fpir=0.1)
    assert batch.threshold == found.threshold_for_fpir(0.1)
    measured = np.mean([len(ids) > 0 for ids in batch.template_ids])
    assert measured == pytest.approx(0.1, abs=3 * np.sqrt(0.1 * 0.9 * (1 / PEOPLE + 1 / 2_000)))
    assert gallery.search(strangers[:1]).threshold is None
    assert gallery.search(strangers[:1], threshold=0.5).threshold == 0.5


def test_the_threshold_follows_the_gallerys_size(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "FRESH_S", 0.0)
    gallery = filled(grid)
    found = gallery.calibrate()
    gallery.enroll(unit_rows(400, DIM, seed=6))
    batch = gallery.search(unit_rows(1, DIM, seed=7), target_fpir=0.1)
    assert batch.threshold == found.threshold_for_fpir(0.1, len(gallery))
    assert batch.threshold > found.threshold_for_fpir(0.1)
    gallery.delete(template_ids=[f"a{i}" for i in range(PEOPLE)])
    assert gallery.search(unit_rows(1, DIM, seed=7), target_fpir=0.1).threshold < batch.threshold


def test_size_and_calibration_are_read_once_in_a_while(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = filled(grid)
    gallery.calibrate()
    asked = []
    stats = Router.stats
    monkeypatch.setattr(Router, "stats", lambda *args: asked.append(1) or stats(*args))
    probe = unit_rows(1, DIM, seed=7)
    threads = [threading.Thread(target=gallery.search, args=(probe,), kwargs={"target_fpir": 0.1}) for _ in range(4)]
    gallery.search(probe, target_fpir=0.1)
    assert len(asked) == 1
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    gallery.calibrate(seed=1)  # asks for the size itself
    gallery.search(probe, target_fpir=0.1)
    assert len(asked) == 3


def test_searches_go_on_while_the_coordinator_is_away(
    grid: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calibration, "FRESH_S", 0.0)
    gallery = filled(grid)
    found = gallery.calibrate()
    probe = unit_rows(1, DIM, seed=7)
    gallery.search(probe, target_fpir=0.1)

    def away(_: object) -> None:
        raise HostUnavailable("the coordinator does not answer")

    monkeypatch.setattr(grid.coordinator.calibrations, "of", away)
    assert gallery.search(probe, target_fpir=0.1).threshold == found.threshold_for_fpir(0.1)
    assert "the one known counts" in caplog.text
    grid.thresholds.forget(gallery._route.gallery_id)
    with pytest.raises(HostUnavailable):
        gallery.search(probe, target_fpir=0.1)


def test_what_cannot_be_told_is_refused(grid: Cluster) -> None:
    gallery = grid.gallery("acme/staff", create=True, dim=DIM)
    probe = unit_rows(1, DIM, seed=7)
    with pytest.raises(InvalidParameter, match="got both"):
        gallery.search(probe, threshold=0.3, target_fpir=0.01)
    with pytest.raises(NotEnoughData, match="acme/staff has not been calibrated"):
        gallery.search(probe, target_fpir=0.01)
    with pytest.raises(NotEnoughData, match=r"100 identities, 30 of them .* it has 0 identities"):
        gallery.calibrate()
    gallery.enroll(unit_rows(150, DIM, seed=1), identities=[f"p{i}" for i in range(150)])
    with pytest.raises(NotEnoughData, match="it has 150 identities, 0 of them with two"):
        gallery.calibrate()
    for samples in (99, 5_001, True, 1e3):
        with pytest.raises(InvalidParameter, match="samples"):
            gallery.calibrate(samples=samples)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="seed"):
        gallery.calibrate(seed=1 << 63)
    filled(grid, "acme/other").calibrate()
    for target in (0, 1, -1, float("nan"), "x"):
        with pytest.raises(InvalidParameter, match="target_fpir"):
            grid.gallery("acme/other").search(probe, target_fpir=target)
    with pytest.raises(NotEnoughData, match=r"target_fpir: 1e-05 at .* needs"):
        grid.gallery("acme/other").search(probe, target_fpir=1e-5)


def test_an_identity_too_large_to_be_passed_is_left_out(grid: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "MAX_K", 20)
    found = filled(grid).calibrate()
    assert (found.probes, found.left_out) == (PEOPLE - 1, 1)


def test_it_goes_with_its_gallery(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Cluster.open(home) as grid:
        filled(grid).calibrate()
    with Cluster.open(home) as grid:
        assert grid.gallery("acme/staff").calibration() is not None
        gallery_id = grid.gallery("acme/staff")._route.gallery_id
        grid.drop("acme/staff")
        assert grid.coordinator.calibrations.of(gallery_id) is None
        assert filled(grid).calibration() is None


def test_a_damaged_calibration_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Cluster.open(home) as grid:
        filled(grid).calibrate()
    catalog = Catalog(home / "catalog.db")
    with catalog.writing() as db:
        db.exec_driver_sql("UPDATE calibrations SET calibration = substr(calibration, 1, 100)")
    catalog.close()
    with Cluster.open(home) as grid:
        with pytest.raises(CorruptData, match=r"catalog\.db: [0-9a-f]{8}-[0-9a-f]{16}: no readable calibration"):
            grid.gallery("acme/staff").calibration()
        grid.gallery("acme/staff").calibrate()
        assert grid.gallery("acme/staff").calibration() is not None


def test_the_picture_is_self_contained_and_described(grid: Cluster) -> None:
    found = filled(grid).calibrate()
    for n in (None, 10_000):
        text = error_rates_svg(found, gallery="a/<b>&", n=n)
        root = ElementTree.fromstring(text)
        name = "{http://www.w3.org/2000/svg}"
        assert root.find(f"{name}title").text == "Error rates of a/<b>&"  # type: ignore[union-attr]
        assert "they are equal at" in root.find(f"{name}desc").text  # type: ignore[union-attr]
        assert {each.text for each in root.iter(f"{name}text")} >= {"FMR", "FNMR", "FPIR"}
        assert not [a for each in root.iter() for a in each.attrib if a == "style" or "href" in a]
        assert {each.tag.removeprefix(name) for each in root.iter()} <= {"svg", "title", "desc", "rect", "path", "text"}
        assert "nan" not in text
        assert "inf" not in text
