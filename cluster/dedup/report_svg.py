"""The pictures of a dedup report: how many pairs have which score, and how many groups are of which size.

Inline SVG whose colours are the page's, by class, so that they follow its light and dark. Counts are on a logarithmic
axis: pairs of strangers outnumber all others, and groups of two all larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cluster.dedup.result_columns import SAME_PERSON, SAME_PHOTO

KINDS = (
    ((SAME_PERSON,), "person", "same person"),
    ((SAME_PHOTO, "same_face"), "photo", "same photo or face"),
    (("two_faces",), "two", "two faces of one photo"),
)
"""Kinds of pairs that share a colour, its class, and what they are called."""
_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 16, 44
SIZES = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 7), (8, 10), (11, 20), (21, 50), (51, 100), (101, 1_000), (1_001, None))
"""Sizes of groups that share a bar."""


def scores_svg(
    scores: Mapping[str, Any], threshold: float, kinds: Sequence[tuple[tuple[str, ...], str, str]] = KINDS
) -> str:
    """Bars of the histogram of summary.json, one kind of pairs on top of the other."""
    begin, step = float(scores["begin"]), float(scores["step"])
    series = [[sum(counts) for counts in zip(*(scores[kind] for kind in alike), strict=True)] for alike, _, _ in kinds]
    totals = [sum(counts) for counts in zip(*series, strict=True)]
    axes = _Axes(max(totals, default=0))
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(totals))
    bars = []
    for i, counts in enumerate(zip(*series, strict=True)):
        for kind in reversed(range(len(kinds))):  # the lower ones are drawn over the upper ones
            if counts[kind]:
                said = f"{begin + i * step:.2f} to {begin + (i + 1) * step:.2f}: {counts[kind]:,} {kinds[kind][2]}"
                bars.append(axes.bar(_LEFT + i * width, width, sum(counts[: kind + 1]), kinds[kind][1], said))
    labels = [
        _text(_LEFT + i * width, _HEIGHT - 24, f"{begin + i * step:.2f}")
        for i in range(0, len(totals) + 1, max(1, len(totals) // 8))
    ]
    each = "; ".join(f"{sum(counts):,} {kinds[kind][2]}" for kind, counts in enumerate(series))
    said = f"Scores of {sum(totals):,} pairs from the threshold {threshold:.3f} up: {each}."
    middle = _text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "score (cosine)")
    return _svg("scores", "Pairs by score", said, [*axes.lines(), *bars, *labels, middle])


def sizes_svg(sizes: Mapping[str, int]) -> str:
    """Bars of the groups by size."""
    counts = [
        (_size_name(low, high), sum(n for size, n in sizes.items() if low <= int(size) <= (high or math.inf)))
        for low, high in SIZES
    ]
    while len(counts) > 1 and not counts[-1][1]:
        counts.pop()
    axes = _Axes(max((n for _, n in counts), default=0))
    width = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    parts = list(axes.lines())
    for i, (name, n) in enumerate(counts):
        x = _LEFT + i * width
        parts.append(axes.bar(x + width * 0.1, width * 0.8, n, "person", f"{n:,} groups of {name} templates"))
        parts.append(_text(x + width / 2, _HEIGHT - 24, name))
        if n:
            parts.append(_text(x + width / 2, axes.y(n) - 4, f"{n:,}"))
    said = "; ".join(f"{n:,} groups of {name}" for name, n in counts if n) or "No groups."
    middle = _text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "templates in the group")
    return _svg("sizes", "Groups by size", said, [*parts, middle])


def _size_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low:,}+"
    return str(low) if low == high else f"{low:,}\u2013{high:,}"


class _Axes:
    """Counts upwards, on powers of ten."""

    def __init__(self, most: int) -> None:
        self._decades = max(1, math.ceil(math.log10(max(most, 1)) + 0.15))

    def y(self, count: int) -> float:
        """A count of 1 stands a little above the axis, so that it is seen."""
        share = 0.0 if count < 1 else (math.log10(count) + 0.15) / (self._decades + 0.15)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def bar(self, x: float, width: float, count: int, kind: str, said: str) -> str:
        y = self.y(count)
        height = _HEIGHT - _BOTTOM - y
        return (
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(1.0, width - 1):.1f}" height="{height:.1f}">'
            f"<title>{escape(said)}</title></rect>"
        )

    def lines(self) -> Sequence[str]:
        found = [f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>']
        for decade in range(self._decades + 1):
            y = self.y(10**decade)
            found.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            found.append(_text(_LEFT - 6, y + 4, f"{10**decade:,}" if decade < 4 else f"1e{decade}", anchor="end"))
        return found


def _svg(name: str, title: str, said: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(said)}</desc>'
    )
    return "\n".join([head, *parts, "</svg>"])


def _text(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
