"""Prints real and synthetic embeddings side by side: `python -m benchmarks.synthetic_report FOLDER [--scale N]`.

FOLDER holds the real embeddings (NAME.npy, identities.txt). The synthetic gallery has the same shape: as many people,
with as many photos. --scale adds the difficulty of a one-photo-per-person gallery of N people, and how long it took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.difficulty import Difficulty, identification, split_by_photo
from benchmarks.face_statistics import measure, read_labelled
from benchmarks.synthetic import EDGEFACE, LFW_LONG_TAIL, MOBILEFACENET, Profile, SyntheticGallery
from shard.types import FloatArray, RowArray


def difficulty(embeddings: FloatArray, identities: RowArray, *, seed: int = 0) -> Difficulty:
    """Identification with one photo of each person in the gallery and the others as probes."""
    gallery, probes = split_by_photo(identities, seed=seed)
    return identification(embeddings[gallery], identities[gallery], embeddings[probes], identities[probes])


def compare(folder: Path, profile: Profile, seed: int) -> None:
    """Print a Markdown table of every statistic and of the difficulty, real beside synthetic."""
    like_lfw = SyntheticGallery(profile, len(LFW_LONG_TAIL), LFW_LONG_TAIL, seed=seed)
    sides = [read_labelled(folder, profile.name), like_lfw.rows(0, len(like_lfw))]
    real, made = (measure(*side) for side in sides)
    print(f"\n| {profile.name} | real | synthetic |\n| --- | --- | --- |")
    for name, values in real.items():
        print(f"| {name} | {_cells(values)} | {_cells(made[name])} |")
    hard = [difficulty(*side, seed=seed) for side in sides]
    print(f"| rank-1, rank-5 % | {' | '.join(f'{100 * d.rank1:.1f} {100 * d.rank5:.1f}' for d in hard)} |")
    print(f"| Hamming rank 50 90 99 % | {' | '.join(_cells(d.hamming_ranks) for d in hard)} |")


def at_scale(profile: Profile, people: int, seed: int) -> None:
    """Print what a larger gallery with one photo of each person costs to make and how hard it is."""
    synthetic = SyntheticGallery(profile, people, seed=seed)
    started = time.perf_counter()
    gallery, identities = synthetic.rows(0, people)
    seconds = time.perf_counter() - started
    hard = identification(gallery, identities, *synthetic.probes(2000, seed=seed))
    print(f"\n{profile.name}, {people:,} people made in {seconds:.1f} s: {hard}")


def _cells(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3f}" if abs(value) < 3 else f"{value:.1f}".removesuffix(".0") for value in values)


def main() -> None:
    """Print the tables of both profiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for profile in (EDGEFACE, MOBILEFACENET):
        compare(given.folder, profile, given.seed)
        if given.scale:
            at_scale(profile, given.scale, given.seed)


if __name__ == "__main__":
    main()
