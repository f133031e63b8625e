"""When is scanning all floats faster than reranking the survivors of codes? Sets the shares in `shard/search.py`.

    python -m benchmarks.exact_or_cascade [ROWS]

Prints, for one probe and for a batch, the time of the cascade at growing shares of rows reranked, as a ratio to the
exact scan in the same run. The codes are random: the time does not depend on what they are.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.synthetic import EDGEFACE, SyntheticGallery
from shard.index import Index, search_indexes

_PLANES, _K = 4, 10
_SHARES = (0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.6, 0.8)


def main() -> None:
    """Measure and print a table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    floats, _ = SyntheticGallery(EDGEFACE, rows).rows(0, rows)
    codes = np.random.default_rng(0).integers(0, 256, (rows, _PLANES * 16), dtype=np.uint8)
    with tempfile.NamedTemporaryFile() as file:
        floats.tofile(file)
        file.flush()
        index = Index(EDGEFACE.dim)
        index.open_segment(file.name, rows)
        index.append(np.arange(rows, dtype=np.uint64), None)
        index.set_codes(_PLANES, [codes])
        print("share of rows reranked  " + "".join(f"{share:>7.0%}" for share in _SHARES))
        for probes in (1, 8, 256):
            print(
                f"{probes:>4} probes, × exact  " + "".join(f"{r:7.2f}" for r in _ratios(index, floats, codes, probes))
            )


def _ratios(index: Index, floats: np.ndarray, codes: np.ndarray, probes: int) -> list[float]:
    few, few_codes = floats[:probes].copy(), codes[:probes].copy()
    exact = _fastest(lambda: search_indexes([index], few, [None], [(0, 0)], _K))
    shares = [(index.rows // 2 + int(index.rows * share) // 2, int(index.rows * share)) for share in _SHARES]
    return [_fastest(partial(search_indexes, [index], few, [few_codes], [share], _K)) / exact for share in shares]


def _fastest(call: Callable[[], object], runs: int = 5) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
