"""Photos through the client and a real service: the same outcomes as through an open home."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import AsyncCluster, Cluster
from shard import errors
from tests.integration.served import awaited, serving

pytestmark = pytest.mark.data

EMBEDDER = "edgeface_xs"
PEOPLE = {"Ann": ["img1.jpg", "img2.jpg"], "Bob [red]x": ["img20.jpg"]}
HELD_OUT = "img4.jpg"


@pytest.fixture(scope="module")
def grid(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An open home with real networks."""
    home = tmp_path_factory.mktemp("photos") / "home"
    with Cluster.open(home, models=(data_dir / "models",), embedder=EMBEDDER, threads=2) as opened:
        yield opened


@pytest.fixture(scope="module", params=["blocking", "asyncio"])
def remote(request: pytest.FixtureRequest, grid: Cluster) -> Iterator[Any]:
    """A client of its service."""
    grid.tenants.ensure("acme")
    _, key = grid.tenants.create_key("acme", "all", scopes=("admin",))
    with serving(grid) as url:
        if request.param == "blocking":
            with Cluster.connect(url, key) as client:
                yield client
        else:
            with awaited(lambda: AsyncCluster.connect(url, key)) as client:
                yield client


@pytest.fixture
def both(grid: Cluster, remote: Any) -> Iterator[tuple[Any, Any]]:
    """Two galleries alike, one of the home, one of the client."""
    yield (
        grid.gallery("acme/own", create=True, embedder=EMBEDDER),
        remote.gallery("acme/remote", create=True, embedder=EMBEDDER),
    )
    for name in ("acme/own", "acme/remote"):
        grid.drop(name)


@pytest.fixture
def employees(data_dir: Path, tmp_path: Path) -> Path:
    """Three good photos, a text, and a photo of one person in another one's folder too."""
    for person, names in PEOPLE.items():
        (tmp_path / person).mkdir()
        for name in names:
            shutil.copy(data_dir / "photos" / name, tmp_path / person)
    (tmp_path / "Ann" / "text.jpg").write_text("not a photo")
    shutil.copy(data_dir / "photos" / "img1.jpg", tmp_path / "Bob [red]x" / "other.jpg")
    return tmp_path


def test_a_folder_a_search_and_a_verification(both: Any, grid: Cluster, remote: Any, employees: Path) -> None:
    reports = [gallery.enroll_folder(employees, progress=False) for gallery in both]
    assert reports[0].refused
    assert [(r.path, r.reason) for r in reports[1].refused] == [(r.path, r.reason) for r in reports[0].refused]
    assert (reports[1].photos, reports[1].enrolled, reports[1].skipped) == (5, 3, 0)
    assert reports[0].enrolled == 3
    again = both[1].enroll_folder(employees, progress=False)
    assert (again.enrolled, again.skipped, len(again.refused)) == (0, 3, 2)
    probe = employees / "Ann" / "img1.jpg"
    own, far = (gallery.search_image(probe, 3) for gallery in both)
    assert far.face == own.face
    assert [(c.score, c.template_id, c.identity) for c in far] == [(c.score, c.template_id, c.identity) for c in own]
    assert {c.metadata["source"] for c in far} == {c.metadata["source"] for c in own}
    a, b = employees / "Ann" / "img1.jpg", (employees / "Ann" / "img2.jpg").read_bytes()
    assert remote.verify(a, b) == grid.verify(a, b)
    assert remote.verify(a, b, threshold=0.9999).is_match is False


def test_one_photo_and_its_refusals(both: Any, data_dir: Path, tmp_path: Path) -> None:
    photo = data_dir / "photos" / HELD_OUT
    noise = tmp_path / "noise.jpg"
    noise.write_bytes(b"not a photo")
    blank = np.zeros(1000, np.uint8).tobytes()
    for gallery in both:
        first = gallery.enroll_image(photo, identity="Eve", metadata={"door": 4})
        assert (first.enrolled, first.skipped) == (1, 0)
        assert gallery.enroll_image(photo.read_bytes(), identity="Eve").skipped == 1
        assert gallery.get(first.template_ids[0]).metadata == {"door": 4}
    for verb in (
        lambda g: g.enroll_image(photo, identity="Mallory"),
        lambda g: g.enroll_image(noise),
        lambda g: g.enroll_image(blank),
        lambda g: g.enroll_image(tmp_path / "missing.jpg"),
        lambda g: g.search_image(noise),
        lambda g: g.search_image(blank),
        lambda g: g.search_image(photo, 0),
    ):
        said = []
        for gallery in both:
            with pytest.raises(errors.FacegridError) as caught:
                verb(gallery)
            said.append((type(caught.value), str(caught.value), getattr(caught.value, "reason", None)))
        assert said[1] == said[0]
