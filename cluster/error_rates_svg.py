"""A calibration as a picture: FMR and FNMR over thresholds, and FPIR at the gallery's size.

One self-contained SVG: no style sheet, no script, no font or image from elsewhere, so that it may be shown under a
strict content security policy. Lines differ in their dashes too, and are named where they end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

from coordinator.error_rates import RateArray
from coordinator.gallery_calibration import Calibration

_WIDTH, _HEIGHT = 960, 420
_TOP, _BOTTOM, _PANEL, _LEFT, _GAP = 64, 356, 360, 72, 100
_INK, _GREY, _BLUE, _ORANGE, _GREEN = "#1a1a1a", "#d0d0d0", "#0b5cad", "#b34700", "#00695c"
_CURVE_POINTS = 200


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    colour: str
    dashes: str
    rates: RateArray
    interval: RateArray


def error_rates_svg(calibration: Calibration, *, gallery: str = "", n: int | None = None) -> str:
    """FMR and FNMR beside FPIR, with bands of 95 %, rates on a logarithmic axis.

    gallery: its name, for the title. n: templates to show FPIR at; those at calibration if None. InvalidParameter for
    n < 1. What is below the smallest rate that the sample can show is not drawn.
    """
    size = calibration.gallery_size if n is None else n
    table = calibration.table
    left = _Panel(_LEFT, table.thresholds, calibration.impostors, calibration.genuine)
    lines = [
        _Line("FMR", _BLUE, "", table.fmr, table.fmr_interval),
        _Line("FNMR", _ORANGE, "7 4", table.fnmr, table.fnmr_interval),
    ]
    ends = calibration.top_scores[[-1, 0]]
    grid: RateArray = np.linspace(float(ends[0]), float(ends[1]), _CURVE_POINTS)
    right = _Panel(_LEFT + _PANEL + _GAP, grid, calibration.probes, calibration.probes)
    fpir = _Line(
        "FPIR",
        _GREEN,
        "",
        np.array([calibration.fpir_at(t, n) for t in grid.tolist()]),
        np.array([calibration.fpir_interval(t, n) for t in grid.tolist()]),
    )
    title = f"Error rates of {gallery}" if gallery else "Error rates"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        ' role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="13">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(_described(calibration, size))}</desc>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *left.drawn(lines, f"1:1, {calibration.genuine:,} genuine and {calibration.impostors:,} impostor pairs"),
        *right.drawn([fpir], _searched(calibration, size)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _searched(calibration: Calibration, size: int) -> str:
    if size != calibration.gallery_size:
        return f"1:N, carried from N = {calibration.gallery_size:,} to {size:,} templates"
    return f"1:N, N = {size:,} templates, {calibration.probes:,} non-mated searches"


def _described(calibration: Calibration, size: int) -> str:
    """The picture in words."""
    said = [
        f"Left: false match rate falls and false non-match rate rises with the threshold; they are equal at"
        f" {calibration.eer_threshold:.3f}, where both are {calibration.eer:.2%}."
    ]
    said += [
        f"At FMR {point.target_fmr:g} the threshold is {point.threshold:.3f} and FNMR is {point.fnmr:.2%}."
        for point in calibration.points
        if point.threshold is not None and point.fnmr is not None
    ]
    low, high = (float(calibration.top_scores[i]) for i in (-1, 0))
    said.append(
        f"Right: the false positive identification rate at {size:,} templates falls from"
        f" {calibration.fpir_at(low, size):.0%} at threshold {low:.3f} to {calibration.fpir_at(high, size):.2g}"
        f" at {high:.3f}."
    )
    return " ".join(said)


class _Panel:
    """One pair of axes: thresholds to the right, rates up from a power of ten below 1 / trials."""

    def __init__(self, left: int, thresholds: RateArray, *trials: int) -> None:
        self._left, self._thresholds = left, thresholds
        self._low, self._high = float(thresholds[0]), max(float(thresholds[-1]), float(thresholds[0]) + 1e-6)
        self._decades = max(1, int(np.ceil(np.log10(max(trials)))))
        self._floor = 10.0**-self._decades

    def drawn(self, lines: Sequence[_Line], title: str) -> list[str]:
        """The elements of the panel."""
        parts = [_text(self._left, _TOP - 28, title, size=14)]
        parts += self._axes()
        for line in lines:
            parts += self._curve(line)
        return parts

    def _x(self, threshold: float) -> float:
        return self._left + _PANEL * (threshold - self._low) / (self._high - self._low)

    def _y(self, rate: float) -> float:
        return _TOP - (_BOTTOM - _TOP) * math.log10(max(rate, self._floor)) / self._decades

    def _axes(self) -> list[str]:
        right = self._left + _PANEL
        parts = []
        for decade in range(self._decades + 1):
            y = self._y(10.0**-decade)
            parts.append(f'<path d="M{self._left} {y:.1f}H{right}" stroke="{_GREY}"/>')
            parts.append(_text(self._left - 8, y + 4, "1" if decade == 0 else f"1e-{decade}", anchor="end"))
        for tick in _ticks(self._low, self._high):
            x = self._x(tick)
            parts.append(f'<path d="M{x:.1f} {_BOTTOM}v5" stroke="{_INK}"/>')
            parts.append(_text(x, _BOTTOM + 20, f"{tick:.2f}".rstrip("0").rstrip("."), anchor="middle"))
        parts.append(f'<path d="M{self._left} {_TOP}V{_BOTTOM}H{right}" fill="none" stroke="{_INK}"/>')
        parts.append(_text(self._left + _PANEL / 2, _BOTTOM + 42, "threshold (cosine)", anchor="middle"))
        return parts

    def _curve(self, line: _Line) -> list[str]:
        shown = np.flatnonzero(line.rates >= self._floor)
        if not len(shown):
            return []
        at = [self._x(float(t)) for t in self._thresholds[shown]]
        upper, lower = ([self._y(float(r)) for r in line.interval[shown, side]] for side in (1, 0))
        band = _path([*zip(at, upper, strict=True), *reversed(list(zip(at, lower, strict=True)))])
        curve = _path(list(zip(at, (self._y(float(r)) for r in line.rates[shown]), strict=True)))
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        falls = line.rates[shown[0]] > line.rates[shown[-1]]
        named = 0 if falls else -1
        x, y = at[named] + (6 if falls else -6), self._y(float(line.rates[shown[named]])) + (-6 if falls else 18)
        return [
            f'<path d="{band}Z" fill="{line.colour}" fill-opacity="0.15"/>',
            f'<path d="{curve}" fill="none" stroke="{line.colour}" stroke-width="2"{dashes}/>',
            _text(x, y, line.name, anchor="start" if falls else "end", colour=line.colour),
        ]


def _ticks(low: float, high: float) -> list[float]:
    """Some six round numbers between."""
    steps = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    step = float(steps[min(int(np.searchsorted(steps, (high - low) / 6)), len(steps) - 1)])
    return [float(tick) for tick in np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, colour: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )
