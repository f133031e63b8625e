"""Cron's five fields, as Kubernetes and KubeRay's operator read them: robfig/cron's `ParseStandard`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shard.errors import InvalidParameter

_PART = re.compile(r"([*?]|\w+)(?:-(\w+))?(?:/(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Field:
    """low and high: the numbers that it may have. names: those that stand for low, low + 1 and so on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _DAYS),
)


def check_cron(text: str) -> None:
    """InvalidParameter unless these are five fields of numbers, names, ranges, steps and lists in their bounds."""
    said = text.split()
    if len(said) != len(_FIELDS):
        raise InvalidParameter(f"schedule: expected cron's five fields, such as '0 3 * * 0', got {text!r:.80}")
    for field, given in zip(_FIELDS, said, strict=True):
        if not all(_is_part(field, part) for part in given.split(",")):
            raise InvalidParameter(
                f"schedule: {field.name}: expected numbers of {field.low} to {field.high}, '*', ranges, steps or lists "
                f"of them, got {given!r:.80}"
            )


def _is_part(field: _Field, text: str) -> bool:
    found = _PART.fullmatch(text)
    if found is None:
        return False
    first, last, step = found.groups()
    if first in ("*", "?"):
        return last is None and _is_step(step)
    # 5/15 is 5-59/15.
    ends = [_number(field, one) for one in (first, last) if one is not None]
    return all(field.low <= end <= field.high for end in ends) and ends == sorted(ends) and _is_step(step)


def _is_step(text: str | None) -> bool:
    return text is None or int(text) > 0


def _number(field: _Field, text: str) -> int:
    """What a number or name says; -1 if it is neither."""
    if text.lower() in field.names:
        return field.low + field.names.index(text.lower())
    return int(text) if text.isdecimal() and len(text) <= 4 else -1
