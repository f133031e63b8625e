"""What a run may be asked for, and its checks. The command line of `__main__` and of `facegrid bench` fill it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine.datasets import PHOTOS, TRUTH_K
from benchmarks.engine.peers import PEERS
from shard.errors import InvalidParameter

SOURCE = Path(__file__).resolve().parents[2]
RESULTS = SOURCE / "benchmarks" / "results"
DATA = SOURCE.parent / "shared" / "data"
DEFAULT_RECALLS = (0.99, 0.998)
_SECONDS_PER_TEMPLATE, _LEAST_SECONDS, _MOST_SECONDS = 2e-6, 0.03, 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """A run. peers: name to `module:class`. recalls: recall@1 that every peer is tuned to. runs: rounds of timing.

    is_real: LFW too, from `data`. seconds: of one timing (default: by n). work: folder that keeps the data for the next
    run (default: a temporary one). charts, json: where the results go. max_build_seconds: a peer that takes longer is
    not built.
    """

    n: int = 20_000
    shapes: tuple[str, ...] = tuple(PHOTOS)
    is_real: bool = False
    peers: dict[str, str] = field(default_factory=lambda: dict(PEERS))
    recalls: tuple[float, ...] = DEFAULT_RECALLS
    runs: int = 3
    k: int = TRUTH_K
    seed: int = 1
    seconds: float | None = None
    max_build_seconds: float = 600.0
    json: Path | None = None
    charts: Path = RESULTS
    data: Path = DATA
    work: Path | None = None

    def __post_init__(self) -> None:
        """InvalidParameter for what cannot be run."""
        _expect(all(0 < recall < 1 for recall in self.recalls), "recalls", "between 0 and 1", self.recalls)
        _expect(self.runs >= 1, "runs", "at least 1", self.runs)
        _expect(1 <= self.k <= TRUTH_K, "k", f"1 to {TRUTH_K}", self.k)
        _expect(self.max_build_seconds > 0, "max-build-seconds", "more than 0", self.max_build_seconds)
        _expect(self.seconds is None or self.seconds > 0, "seconds", "more than 0", self.seconds)
        _expect(bool(self.shapes) or self.is_real, "shape", "a synthetic shape, or --real", self.shapes)

    @property
    def timing_seconds(self) -> float:
        """Of one timing in one round."""
        by_n = min(_MOST_SECONDS, max(_LEAST_SECONDS, self.n * _SECONDS_PER_TEMPLATE))
        return by_n if self.seconds is None else self.seconds

    @property
    def json_path(self) -> Path:
        """Where the document goes."""
        return self.json or RESULTS / f"engine-{size_name(self.n)}.json"


def _expect(is_met: bool, name: str, expected: str, got: object) -> None:
    if not is_met:
        raise InvalidParameter(f"{name}: expected {expected}, got {got}")


def size_name(n: int) -> str:
    """20000 as 20k, 1000000 as 1m, for file names."""
    for unit, name in ((1_000_000, "m"), (1_000, "k")):
        if n >= unit and n % unit == 0:
            return f"{n // unit}{name}"
    return str(n)


def named_peers(names: str | None) -> dict[str, str]:
    """The peers of a comma-separated list, all if None; InvalidParameter for one that is not known."""
    if names is None:
        return dict(PEERS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown or not wanted:
        raise InvalidParameter(f"peers: expected names among {', '.join(PEERS)}, got {', '.join(unknown) or 'none'}")
    return {name: target for name, target in PEERS.items() if name in wanted}


def named_shapes(shape: str) -> tuple[str, ...]:
    """`one`, `twenty`, or `both`; `none` for the real embeddings alone."""
    shapes = {"both": tuple(PHOTOS), "none": (), **{name: (name,) for name in PHOTOS}}
    if shape not in shapes:
        raise InvalidParameter(f"shape: expected one of {', '.join(sorted(shapes))}, got {shape}")
    return shapes[shape]


def recalls_of(text: str) -> tuple[float, ...]:
    """Comma-separated numbers, ascending; InvalidParameter."""
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise InvalidParameter(f"recalls: expected numbers separated by commas, got {text}") from None
