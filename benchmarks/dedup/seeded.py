"""A gallery with seeded duplicates, in a real home: made once in a folder, and reused from there.

Of every 40 people 36 have one photo, and one each has 2, 3, 4 and 5: 50 templates, and 20 pairs that are one person.
People are made up (`benchmarks.synthetic`, EdgeFace-like); the job is told no identities. Template ids are scattered,
so that photos of one person lie in different shards.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from cluster import Cluster
from shard.files import remove_tree
from shard.types import FloatArray, RowArray

GALLERY = "bench/faces"
COUNTS = tuple(photos for many in (2, 3, 4, 5) for photos in (*(1,) * 9, many))
"""Photos of each of 40 people, again and again."""
PER_CYCLE = sum(COUNTS)
MADE = f"of {len(COUNTS)} people {COUNTS.count(1)} with one photo, one each with 2, 3, 4 and 5; {EDGEFACE.name}-like"
_SCATTER = 2_654_435_761  # odd: its multiples modulo 2**32 differ
_GENERATED, _BATCH = 65_536, 50_000


@dataclass(frozen=True, slots=True)
class Seeded:
    """n templates by a seed, below a folder that keeps what was made. n: a multiple of PER_CYCLE."""

    folder: Path
    n: int
    seed: int

    def _source(self) -> SyntheticGallery:
        return SyntheticGallery(EDGEFACE, self.n // PER_CYCLE * len(COUNTS), COUNTS, seed=self.seed)

    def rows(self) -> FloatArray:
        """(n, 512) float32, mapped from a file that is made where there is none."""
        path = self.folder / f"rows-{self.n}-{self.seed}.f32"
        shape = (self.n, EDGEFACE.dim)
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            made = np.memmap(unfinished, "<f4", "w+", shape=shape)
            for start, (block, _) in zip(range(0, self.n, _GENERATED), self._source().blocks(_GENERATED), strict=True):
                made[start : start + _GENERATED] = block
            made.flush()
            unfinished.rename(path)
        return np.memmap(path, "<f4", "r", shape=shape)

    def home(self, shards: int) -> Path:
        """A home that has the templates in a gallery of so many shards, made where there is none."""
        home = self.folder / f"home-{self.n}-{self.seed}-{shards}"
        finished = home.with_suffix(".complete")
        if not finished.exists():
            with contextlib.suppress(FileNotFoundError):
                remove_tree(home)
            _enroll(home, self.rows(), shards)
            finished.touch()
        return home


def _enroll(home: Path, rows: FloatArray, shards: int) -> None:
    with Cluster.open(home) as grid:
        gallery = grid.gallery(GALLERY, create=True, shards=shards, dim=rows.shape[1])
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            gallery.enroll(part, template_ids=[template_id(row) for row in range(start, start + len(part))])
        grid.wait_until_idle()
        gallery.flush()


def template_id(row: int) -> str:
    """Scattered like the hash of a photo; the row can be read from it."""
    return f"{row * _SCATTER % 2**32:08x}-{row:08d}"


def seeded_pairs(n: int) -> tuple[RowArray, RowArray]:
    """Every pair of rows of one person, left < right, (pairs,) int64 each."""
    ends = np.cumsum(COUNTS)
    within = [
        (a, b)
        for end, photos in zip(ends.tolist(), COUNTS, strict=True)
        for a in range(end - photos, end)
        for b in range(a + 1, end)
    ]
    cycles = np.arange(n // PER_CYCLE, dtype=np.int64)[:, None] * PER_CYCLE
    left, right = np.array(within, np.int64).T
    return (cycles + left).ravel(), (cycles + right).ravel()
