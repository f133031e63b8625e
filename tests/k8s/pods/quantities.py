"""Kubernetes quantities (`512Mi`, `1500m`) as numbers."""

from __future__ import annotations

from fractions import Fraction

from tests.k8s.pods.fields import Untranslatable

_SUFFIXES = {"": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000)}
_SUFFIXES |= {letter: Fraction(1000) ** power for power, letter in enumerate("kMGTPE", start=1)}
_SUFFIXES |= {f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


def quantity(text: str | int | float) -> Fraction:
    """The number that a quantity says: bytes of memory, cores of CPU. Raises Untranslatable for anything else."""
    whole = str(text).strip()
    digits = whole.rstrip("numkKMGTPEi")
    suffix = whole[len(digits) :]
    if suffix not in _SUFFIXES:
        raise Untranslatable(f"quantity {whole!r}: unknown suffix {suffix!r}")
    try:
        return Fraction(digits) * _SUFFIXES[suffix]
    except ValueError:
        raise Untranslatable(f"quantity {whole!r} is not a number with a suffix") from None


def rounded_up(number: Fraction) -> int:
    """As Kubernetes rounds: the next integer (`1500m` of CPU is 2)."""
    return -(-number.numerator // number.denominator)
