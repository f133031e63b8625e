"""Which parts of a corpus are joined with which, and in which order. Pure.

A block is a pair of parts, and its name that of its checkpoint. The order goes tile by tile: blocks that follow each
other have parts in common, so that workers keep what they made of a part for as long as it is of use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.dedup.corpus import Part

PREFIX = "pairs-"
TILE = 4
"""Parts of each side of a tile. Sketches of two sides, of some 26 MiB each, fit into what a worker may keep."""


@dataclass(frozen=True, slots=True)
class PartPair:
    """Two parts to be joined, left <= right; left == right: the pairs within one."""

    left: Part
    right: Part

    @property
    def name(self) -> str:
        """Of the block and of its checkpoint."""
        return f"{PREFIX}{self.left.number:04}-{self.right.number:04}"


def part_pairs(parts: Sequence[Part], *, is_cross: bool = False, tile: int = TILE) -> Iterator[PartPair]:
    """Every pair of parts that may have pairs of rows, each once, tile by tile.

    All i <= j, or with is_cross those of the first input with those of the second.
    """
    lefts = [part for part in parts if part.input == 0] if is_cross else parts
    rights = [part for part in parts if part.input == 1] if is_cross else parts
    for first_left in range(0, len(lefts), tile):
        for first_right in range(0 if is_cross else first_left, len(rights), tile):
            for turn, left in enumerate(lefts[first_left : first_left + tile]):
                # There and back, so that what was used last is used next.
                for right in rights[first_right : first_right + tile][:: -1 if turn % 2 else 1]:
                    if is_cross or left.number <= right.number:
                        yield PartPair(left, right)
