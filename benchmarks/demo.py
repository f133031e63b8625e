"""`make demo`: the main job on real faces, then a gallery of 100,000 synthetic templates.

First half: photos of people are enrolled, held-out photos of the same people are searched, pairs are verified, and the
two photos in the gallery that look most alike are found; `demo/report.html` shows it. Photos and networks come from
FACEGRID_DATA, or `--photos` (folders of `<identity>/<photo>`) and `--models`, else from packages on PyPI. Second half:
`benchmarks.synthetic_demo`. Everything is deleted at the end but the report.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import demo_report, synthetic_demo
from benchmarks.demo_photos import DemoPhotos, find_photos
from benchmarks.demo_report import Found, Pair
from cluster import Cluster, FacegridError, Gallery

ROOT = Path(__file__).resolve().parents[1]
_CONSOLE = Console(highlight=False, soft_wrap=True)
_SHOWN = 8


def main() -> int:
    """Run both halves; the exit code is 0 if everything that could run did."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--photos", type=Path, help="folder of <identity>/<photo>, two photos or more of each person")
    parser.add_argument("--models", type=Path, help="folder with network files")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FACEGRID_DATA", ROOT.parent / "shared/data")))
    parser.add_argument("--templates", type=int, default=100_000, help="size of the synthetic gallery")
    parser.add_argument("--output", type=Path, default=ROOT / "demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="facegrid-demo-") as scratch:
        try:
            photos = find_photos(Path(scratch), arguments.data, arguments.photos, arguments.models)
        except FacegridError as error:
            _CONSOLE.print(f"no real faces: {error}\n", markup=False)
        else:
            run_faces(photos, Path(scratch) / "faces-home", arguments.output)
        synthetic_demo.run(Path(scratch) / "synthetic-home", arguments.templates, _CONSOLE)
    return 0


def run_faces(photos: DemoPhotos, home: Path, output: Path) -> None:
    """Enroll, search, verify and find a duplicate, then write the report."""
    _CONSOLE.print(f"[bold]Real faces[/bold]: {photos.origin}", highlight=False)
    with Cluster.open(home, models=(photos.models,), detector=photos.detector, embedder=photos.embedder) as grid:
        gallery = grid.gallery("demo/people", create=True, shards=4)
        started = time.monotonic()
        report = gallery.enroll_folder(photos.gallery)
        _CONSOLE.print(
            f"  enrolled  {report.enrolled} of {report.photos} photos in {time.monotonic() - started:.1f} s,"
            f" {sum(1 for _ in gallery.identities())} people; refused {len(report.refused)}"
        )
        for refusal in report.refused:
            _CONSOLE.print(f"            {refusal.path.name}: {refusal.reason}", markup=False)
        found = search_held_out(gallery, photos)
        pairs = verify_pairs(grid, photos)
        twins = most_alike(gallery, photos)
        path = demo_report.write(output, photos, found, pairs, twins, report.refused, grid.faces.threshold or 0.0)
    _CONSOLE.print(f"  report    {os.path.relpath(path)}\n", markup=False)


def search_held_out(gallery: Gallery, photos: DemoPhotos) -> list[Found]:
    """Search every held-out photo; print how often the right person came first."""
    found = []
    started = time.monotonic()
    for probe in photos.held_out:
        try:
            found.append(Found(probe, gallery.search_image(probe.path, k=5)))
        except FacegridError as error:
            _CONSOLE.print(f"            {probe.path.name}: {error}", markup=False)
    seconds = time.monotonic() - started
    right = sum(1 for one in found if one.is_right)
    _CONSOLE.print(
        f"  searched  {len(found)} held-out photos in {seconds:.1f} s: rank-1 right for {right} of {len(found)}"
    )
    table = Table("held-out photo", "person", "best match", "score", box=None, padding=(0, 2), show_edge=False)
    for one in found[:_SHOWN]:
        best = one.search[0] if len(one.search) else None
        table.add_row(
            one.probe.path.name,
            one.probe.identity,
            best.identity if best else "-",
            f"{best.score:.3f}" if best else "-",
        )
    _CONSOLE.print(table)
    return found


def verify_pairs(grid: Cluster, photos: DemoPhotos) -> list[Pair]:
    """Verify the pairs at the embedder's default threshold; print how many came out right."""
    pairs = [Pair(a, b, same, grid.verify(a, b)) for a, b, same in photos.pairs]
    right = sum(pair.verification.is_match == pair.is_same for pair in pairs)
    threshold = pairs[0].verification.threshold if pairs else 0.0
    _CONSOLE.print(f"  verified  {len(pairs)} pairs at cosine {threshold:.3f}: {right} right")
    return pairs


def most_alike(gallery: Gallery, photos: DemoPhotos) -> Pair | None:
    """The two enrolled photos that look most alike: each photo's best match that is not itself."""
    best: Pair | None = None
    for path in sorted(path for path in photos.gallery.rglob("*") if path.is_file()):
        try:
            search = gallery.search_image(path, k=2, exact=True)
        except FacegridError:  # refused at enrollment too, and listed there
            continue
        for candidate in search:
            source = candidate.metadata and photos.gallery / candidate.metadata["source"]
            if source and source != path and (best is None or candidate.score > best.score):
                best = Pair.of(path, source, candidate.score, same=source.parent == path.parent)
    if best is not None:
        _CONSOLE.print(
            f"  duplicate {best.a.name} and {best.b.name}: cosine {best.score:.3f},"
            f" {'the same person' if best.is_same else 'labelled as different people'}"
        )
    return best


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
