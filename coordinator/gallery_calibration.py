"""`Calibration`: what a gallery's own templates say of its error rates, and the thresholds that follow.

A value that is stored as JSON beside the gallery. Not to be confused with `shard.calibration`, which is about how far a
search has to look for its recall. Knows no gallery and no clock.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coordinator.error_rates import (
    RULE_OF_THREE,
    ErrorTable,
    ImpostorScores,
    Interval,
    OperatingPoint,
    RateArray,
    carried,
    equal_error_rate,
    error_table,
    operating_points,
    threshold_at_rate,
    wilson,
)
from shard.errors import CorruptData, InvalidParameter, NotEnoughData

VERSION = 1
STALE_GROWTH = 2.0
"""A calibration is stale when the gallery has grown or shrunk by this factor since."""
CHECKED_FPIR = 0.1
"""Where carrying to another size is compared with what was measured there, or lower: see HIGHEST_FPIR."""
HIGHEST_FPIR = 0.9
"""The highest that is carried for that: there is little left to tell scores apart above it."""


@dataclass(frozen=True, slots=True)
class CarryCheck:
    """FPIR at a threshold in a gallery of `templates`, carried there from the whole gallery, and measured there."""

    templates: int
    threshold: float
    carried: float
    measured: float
    interval: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Error rates of one gallery. Scores and rates are float64; intervals are of 95 %.

    gallery_size: N, live templates, labelled or not, that the non-mated searches ran against. labelled, identities:
    templates that bear an identity, and how many identities. genuine_scores: (g,) scores of pairs of one identity, one
    pair each, ascending. impostors: pairs of different identities among `probes` templates, one each. top_scores:
    (probes,) the best score of each of them among templates that are not its own identity's, descending. left_out:
    identities with too many templates to be passed in a search. created_at: unix seconds.
    """

    embedder: str | None
    gallery_size: int
    labelled: int
    identities: int
    impostors: int
    left_out: int
    samples: int
    seed: int
    created_at: float
    eer: float
    eer_threshold: float
    table: ErrorTable
    points: tuple[OperatingPoint, ...]
    genuine_scores: RateArray
    top_scores: RateArray
    check: CarryCheck | None

    @property
    def thresholds(self) -> RateArray:
        """(t,) those of the table, ascending."""
        return self.table.thresholds

    @property
    def fmr(self) -> RateArray:
        """(t,) false match rate at `thresholds`."""
        return self.table.fmr

    @property
    def fnmr(self) -> RateArray:
        """(t,) false non-match rate at `thresholds`."""
        return self.table.fnmr

    @property
    def genuine(self) -> int:
        """Genuine pairs that FNMR was measured with."""
        return len(self.genuine_scores)

    def fnmr_at(self, threshold: float) -> float:
        """Share of genuine pairs below the threshold."""
        return float((self.genuine_scores < threshold).mean())

    @property
    def probes(self) -> int:
        """Non-mated searches that FPIR was measured with."""
        return len(self.top_scores)

    @property
    def worth(self) -> float:
        """How many independent searches the probes are worth.

        Every probe is a candidate too: two that look alike find each other, so that false positives come in pairs where
        both were drawn. Drawing p of all identities makes that p in so many, and all of them half as many searches.
        """
        return self.probes / (1 + self.probes / max(self.identities, self.probes))

    def fpir_at(self, threshold: float, n: int | None = None) -> float:
        """Share of non-mated searches of n templates (those at calibration if None) with a candidate from there on."""
        return float(carried(self._reaching(threshold) / self.probes, self._ratio(n)))

    def fpir_interval(self, threshold: float, n: int | None = None) -> Interval:
        """95 % interval of `fpir_at`; for another n also wide enough for probes that differ from each other.

        It assumes that templates which came since are like those that were there.
        """
        measured = wilson(self._reaching(threshold) / self.probes * self.worth, self.worth)
        there = carried(measured, self._ratio(n))
        return float(min(measured[0], there[0])), float(max(measured[1], there[1]))

    def threshold_for_fpir(self, target_fpir: float, n: int | None = None) -> float:
        """The threshold at which at most this share of non-mated searches of n templates has a candidate.

        n: those at calibration if None. Raises InvalidParameter for a target outside (0, 1) or n < 1, NotEnoughData if
        the target is below what the searches support: three expected false positives (rule of 3).
        """
        rate = self._rate_here(target_fpir, n)
        threshold = threshold_at_rate(self.top_scores, self.probes, rate)
        if threshold is None or rate * self.worth < RULE_OF_THREE - 1e-9:
            at = self.gallery_size if n is None else n
            raise NotEnoughData(
                f"target_fpir: {target_fpir:g} at {at:,} templates needs {math.ceil(RULE_OF_THREE / rate - 1e-9):,}"
                f" independent non-mated searches of {self.gallery_size:,}; the calibration's {self.probes:,} are worth"
                f" {int(self.worth):,}, enough for {self.lowest_fpir(n):.2g} and above"
            )
        return threshold

    def threshold_interval(self, target_fpir: float, n: int | None = None) -> Interval:
        """95 % interval of `threshold_for_fpir`: thresholds whose measured FPIR agrees with the target.

        The upper end is 1.0 where the sample sets no bound. Raises InvalidParameter.
        """
        rate = self._rate_here(target_fpir, n)
        bounds = wilson(np.arange(1, self.probes + 1) / self.probes * self.worth, self.worth)
        too_high = int(np.searchsorted(bounds[:, 0], rate, side="right"))  # so many reaching it are more than the rate
        too_low = int(np.searchsorted(bounds[:, 1], rate, side="left"))  # so few are less
        low = float(self.top_scores[min(too_high, self.probes - 1)])
        return low, 1.0 if too_low == 0 else float(self.top_scores[too_low - 1])

    def lowest_fpir(self, n: int | None = None) -> float:
        """The least target that `threshold_for_fpir` supports at n templates."""
        return float(carried(min(1.0, RULE_OF_THREE / self.worth), self._ratio(n)))

    def stale_reason(self, embedder: str | None, templates: int) -> str | None:
        """Why it should be made anew for a gallery of that embedder and size; None if it need not be."""
        if embedder != self.embedder:
            return f"it was made with embedder {self.embedder or 'unknown'}, the gallery's is {embedder or 'unknown'}"
        ratio = max(templates, 1) / self.gallery_size
        if not 1 / STALE_GROWTH < ratio < STALE_GROWTH:
            return f"it was made at {self.gallery_size:,} templates, there are {templates:,} now"
        return None

    def to_json(self) -> str:
        """As JSON text, which `from_json` reads."""
        document = {name: getattr(self, name) for name in _PLAIN}
        document["version"] = VERSION
        document["table"] = {name: getattr(self.table, name).tolist() for name in _COLUMNS}
        document["points"] = [asdict(point) for point in self.points]
        document["genuine_scores"] = self.genuine_scores.tolist()
        document["top_scores"] = self.top_scores.tolist()
        document["check"] = None if self.check is None else asdict(self.check)
        return json.dumps(document, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Calibration:
        """What `to_json` wrote; CorruptData, naming `where`, for anything else."""
        try:
            document = json.loads(text)
            if document["version"] != VERSION:
                raise ValueError(f"expected version {VERSION}, got {document['version']!r}")
            return cls(
                **{name: document[name] for name in _PLAIN},
                table=ErrorTable(**{name: np.array(document["table"][name], np.float64) for name in _COLUMNS}),
                points=tuple(_point(entry) for entry in document["points"]),
                genuine_scores=np.array(document["genuine_scores"], np.float64),
                top_scores=np.array(document["top_scores"], np.float64),
                check=None if document["check"] is None else CarryCheck(**_with_pairs(document["check"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"{where}: no readable calibration: {error}") from error

    def _reaching(self, threshold: float) -> int:
        return int((self.top_scores >= threshold).sum())

    def _ratio(self, n: int | None) -> float:
        if n is None:
            return 1.0
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise InvalidParameter(f"n: expected a number of templates from 1 up, got {n!r}")
        return float(n) / self.gallery_size

    def _rate_here(self, target_fpir: float, n: int | None) -> float:
        """The FPIR at the size of the calibration that makes the target at n templates."""
        if isinstance(target_fpir, bool) or not isinstance(target_fpir, (int, float, np.number)):
            raise InvalidParameter(f"target_fpir: expected a rate between 0 and 1, got {target_fpir!r}")
        if not 0 < target_fpir < 1:
            raise InvalidParameter(f"target_fpir: expected a rate between 0 and 1, got {target_fpir!r}")
        return float(carried(target_fpir, 1 / self._ratio(n)))


_PLAIN = (
    "embedder", "gallery_size", "labelled", "identities", "impostors", "left_out", "samples", "seed",
    "created_at", "eer", "eer_threshold",
)  # fmt: skip
_COLUMNS = ("thresholds", "fmr", "fmr_interval", "fnmr", "fnmr_interval")


def measured(
    genuine: RateArray,
    impostors: ImpostorScores,
    top_scores: RateArray,
    *,
    gallery_size: int,
    **facts: Any,
) -> Calibration:
    """The calibration that these scores make.

    genuine: (g,) float64. top_scores: (p,) float64 in any order. facts: the fields that are no rates.
    """
    eer, eer_threshold = equal_error_rate(genuine, impostors)
    ordered = np.sort(top_scores)[::-1]
    return Calibration(
        gallery_size=gallery_size,
        impostors=impostors.pairs,
        eer=eer,
        eer_threshold=eer_threshold,
        table=error_table(genuine, impostors),
        points=operating_points(genuine, impostors),
        genuine_scores=np.sort(genuine),
        top_scores=ordered,
        check=_check(ordered, gallery_size, impostors),
        **facts,
    )


def _check(top_scores: RateArray, gallery_size: int, impostors: ImpostorScores) -> CarryCheck | None:
    """Carry FPIR down to a gallery of the impostor templates alone, where it is measured too.

    None unless that gallery is half as large at most.
    """
    small = impostors.templates - 1
    if small < 1 or gallery_size < STALE_GROWTH * small:
        return None
    rate = min(float(carried(CHECKED_FPIR, gallery_size / small)), HIGHEST_FPIR)
    threshold = threshold_at_rate(top_scores, len(top_scores), rate)
    if threshold is None:
        return None
    reaching = int((impostors.maxima >= threshold).sum())
    there = carried(float((top_scores >= threshold).mean()), small / gallery_size)
    low, high = wilson(reaching / 2, impostors.templates / 2).tolist()  # pairs that find each other
    return CarryCheck(small, threshold, float(there), reaching / impostors.templates, (low, high))


def _point(entry: dict[str, Any]) -> OperatingPoint:
    return OperatingPoint(**_with_pairs(entry))


def _with_pairs(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
