"""Photos and embeddings a second of bulk enrollment, beside `enroll_folder`: python -m benchmarks.bulk DATA.

DATA: a folder with `photos` and `models` as FACEGRID_DATA has. Photos are made of those there: scaled to the 250 pixels
of LFW, with another brightness each time, so that no two are the same file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.api import Cluster

DIM, ROWS = 512, 100_000


def make_photos(source: Path, target: Path, count: int) -> None:
    """JPEG files of 250 pixels in folders of ten."""
    import cv2

    found = [cv2.imread(str(path)) for path in sorted(source.glob("img*.jpg"))]
    pictures = [picture for picture in found if picture is not None]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        scale = 250 / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        brighter = cv2.convertScaleAbs(small, alpha=1.0, beta=number // len(pictures))
        folder = target / f"p{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), brighter, [cv2.IMWRITE_JPEG_QUALITY, 90])


def timed(name: str, things: int, work: Callable[[], Any]) -> None:
    """Print how many things a second the work does."""
    start = time.perf_counter()
    found = work()
    took = time.perf_counter() - start
    print(f"{name:<34} {things / took:>10,.1f} a second   {took:>7.1f} s   {found}", flush=True)


def job(grid: Cluster, gallery: str, source: str, **values: Any) -> str:
    """Run a job; what its summary says."""
    record = grid.jobs.submit("enroll", gallery, {"sources": [source], **values})
    ended = grid.jobs.run(record.job_id)
    if ended.error is not None:
        raise SystemExit(ended.error)
    summary = grid.jobs.result(record.job_id).summary
    return f"{summary['enrolled']} enrolled, {summary['refused']} refused"


def measure(work: Path, models: Path, photos: Path, count: int, *, with_ray: bool) -> None:
    """All figures, one after the other."""
    settings: dict[str, Any] = {"models": str(models), "embedder": "edgeface_xs"}
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    np.save(work / "x.npy", rows)
    with Cluster.open(work / "home", **settings) as grid:
        for name in "abc":
            grid.gallery(f"acme/{name}", create=True)
        grid.gallery("acme/npy", create=True, dim=DIM)
        folder = grid.gallery("acme/a")
        timed("enroll_folder", count, lambda: f"{folder.enroll_folder(photos, progress=False).enrolled} enrolled")
        timed("job, 1 worker", count, lambda: job(grid, "acme/b", str(photos), workers=1))
        timed("job, 2 workers", count, lambda: job(grid, "acme/c", str(photos), workers=2))
        timed(f".npy, {DIM} dimensions", ROWS, lambda: job(grid, "acme/npy", str(work / "x.npy")))
    if with_ray:
        with Cluster.open(work / "ray", runtime="ray", **settings) as grid:
            grid.gallery("acme/a", create=True)
            grid.gallery("acme/npy", create=True, dim=DIM)
            timed("job on Ray, 2 actors", count, lambda: job(grid, "acme/a", str(photos), workers=2))
            timed(".npy on Ray", ROWS, lambda: job(grid, "acme/npy", str(work / "x.npy"), workers=2))


def main() -> None:
    """Read arguments and measure in a folder that is removed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--photos", type=int, default=640)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="facegrid-bulk-"))
    try:
        make_photos(given.data / "photos", work / "photos", given.photos)
        measure(work, given.data / "models", work / "photos", given.photos, with_ray=given.ray)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
