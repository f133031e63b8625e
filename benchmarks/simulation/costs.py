"""What things cost, read from the files of the runs that measured them. Nothing here is typed by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent.parent / "results"
COSTS = RESULTS / "simulation-costs.json"
ENGINES = ("engine-100k-one-k1.json", "engine-1m-k1.json", "engine-10m-one-k1.json")
TEN_OF_A_MILLION = "engine-1m-one-k10.json"


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds are of one core.

    templates, core_s: how much a query costs a host with so many templates, k=1, recall 0.999 (the default). k10: what
    a query for ten costs more, as a factor, at a million. recalls: what others cost, as a factor, at ten millions.
    disk_bytes, resident_bytes: of one template of 512 floats. measured: the document of `--measure`.
    """

    templates: tuple[float, ...]
    core_s: tuple[float, ...]
    k10: float
    recalls: dict[str, float]
    disk_bytes: float
    resident_bytes: float
    measured: dict[str, Any]

    def search_s(self, templates: float) -> float:
        """CPU seconds of a query at a host with so many templates: straight lines between the logs of what was
        measured, and on beyond as steep as the last."""
        x, y = np.log(self.templates), np.log(self.core_s)
        at = np.log(max(templates, 1.0))
        if at > x[-1]:
            return float(np.exp(y[-1] + (at - x[-1]) * (y[-1] - y[-2]) / (x[-1] - x[-2])))
        return float(np.exp(np.interp(at, x, y)))

    @property
    def by_probe(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """How hard probes are: the mean is 1."""
        return np.array(self.measured["search"]["by_probe"])

    @property
    def by_host(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """How unlike the hosts' times for one probe are: the mean is 1."""
        return np.array(self.measured["search"]["by_host"])

    @property
    def router_s(self) -> float:
        """CPU seconds of a router for one request to one host, sent and answered."""
        return float(self.measured["wire"]["router_cpu_s"])

    @property
    def decision_s(self) -> float:
        """CPU seconds of a router for its decisions about one request: whom to ask, when to hedge, what counts."""
        return float(self.measured["decide_s"])

    @property
    def host_s(self) -> float:
        """CPU seconds of a host for one request beside the search."""
        return float(self.measured["wire"]["host_cpu_s"])

    def merge_s(self, lists: int) -> float:
        """Seconds to merge the lists of ten of so many hosts."""
        sizes = sorted(int(size) for size in self.measured["merge"])
        times = [self.measured["merge"][str(size)] for size in sizes]
        return float(np.interp(lists, sizes, times))


def load(measured: dict[str, Any] | None = None, folder: Path = RESULTS) -> Costs:
    """The costs that the result files of this repository tell; measured: instead of the file of `--measure`."""
    points = sorted(_point(_read(folder / name)) for name in ENGINES)
    million = _facegrid(_read(folder / "engine-1m-k1.json"))
    largest = _facegrid(_read(folder / ENGINES[-1]))
    one, ten = _batch_core_s(million), _batch_core_s(_facegrid(_read(folder / TEN_OF_A_MILLION)))
    return Costs(
        templates=tuple(point[0] for point in points),
        core_s=tuple(point[1] for point in points),
        k10=ten / one,
        recalls={
            label.removeprefix("recall="): _batch_core_s(largest, label) / _batch_core_s(largest)
            for label in ("recall=0.9", "recall=0.99")
        },
        disk_bytes=million["disk_bytes"],
        resident_bytes=million["resident"]["searched_anonymous"],
        measured=_read(folder / COSTS.name) if measured is None else measured,
    )


def _point(document: dict[str, Any]) -> tuple[float, float]:
    return float(document["datasets"][0]["templates"]), _batch_core_s(_facegrid(document))


def _facegrid(document: dict[str, Any]) -> dict[str, Any]:
    """Of the first data set, one photo a person."""
    found: dict[str, Any] = next(peer for peer in document["datasets"][0]["peers"] if peer["name"] == "facegrid")
    return {**found, "cores": document["machine"]["cores"]}


def _batch_core_s(peer: dict[str, Any], label: str = "default") -> float:
    """Core seconds of a query at a setting, in batches on all cores; the median of the rounds."""
    row = next(row for row in peer["rows"] if label in row["labels"])
    return float(peer["cores"] / np.median(row["batch_per_second"]))


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
