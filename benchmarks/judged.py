"""A figure of a benchmark beside what it was to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure against its target. Both are texts with units; is_met is None where it could not be measured."""

    figure: str
    target: str
    measured: str
    is_met: bool | None
