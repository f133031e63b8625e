"""Facegrid for ann-benchmarks: an embedded gallery of one shard in a temporary directory.

The knob is the recall that is asked for; 1 is an exhaustive search. Angular data sets only: scores are cosines.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
from ann_benchmarks.algorithms.base.module import BaseANN

from cluster import Cluster, Gallery
from shard.types import MAX_PROBES, MIN_DIM

_BATCH = 32_768


class Facegrid(BaseANN):  # type: ignore[misc]
    """Enrolled durably, trained and sealed in `fit`; ids are the row numbers."""

    def __init__(self, metric: str, method_param: dict[str, Any]) -> None:
        """method_param: code_bits (128, 256, 512, 1024) and shards, as a gallery has them."""
        if metric != "angular":
            raise NotImplementedError(f"Facegrid searches by cosine: expected the metric angular, got {metric}")
        self._param = {"code_bits": 512, "shards": 1, **method_param}
        self._recall = 0.999
        self.name = f"Facegrid({self._param})"
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._cluster: Cluster | None = None
        self._gallery: Gallery | None = None
        self.res: list[npt.NDArray[np.int64]] = []

    def fit(self, X: npt.NDArray[Any]) -> None:
        """X: (n, dim); rows of fewer than 64 dimensions are filled up with zeros, which changes no cosine."""
        self.done()
        self._directory = tempfile.TemporaryDirectory(prefix="facegrid-ann-")
        self._cluster = Cluster.open(self._directory.name, runtime="local")
        dim = max(MIN_DIM, X.shape[1])
        gallery = self._cluster.gallery("ann/benchmarks", create=True, dim=dim, **self._param)
        for start in range(0, len(X), _BATCH):
            rows = _rows(X[start : start + _BATCH])
            # A row of zeros has no angle to anything, and no template.
            some = np.flatnonzero(rows.any(axis=1))
            if len(some):
                gallery.enroll(rows[some], template_ids=[str(start + row) for row in some.tolist()])
        self._cluster.wait_until_idle()
        if len(gallery) >= 1_000:
            gallery.train()
        gallery.flush()
        self._gallery = gallery

    def set_query_arguments(self, recall: float) -> None:
        """recall: recall@k to aim at; from 1 on, every float is scanned."""
        self._recall = float(recall)
        self.name = f"Facegrid({self._param}, recall={recall})"

    def query(self, v: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
        """Row numbers of the n nearest to one vector, best first."""
        return self._search(_rows(v[None, :]), n)[0]

    def batch_query(self, X: npt.NDArray[Any], n: int) -> None:
        """All queries in as few calls as there may be; `get_batch_results` has the answers."""
        rows = _rows(X)
        self.res = []
        for start in range(0, len(rows), MAX_PROBES):
            self.res += self._search(rows[start : start + MAX_PROBES], n)

    def get_batch_results(self) -> list[npt.NDArray[np.int64]]:
        """Row numbers of each query of the last batch."""
        return self.res

    def get_additional(self) -> dict[str, Any]:
        """Bytes of codes in memory and on disk."""
        if self._gallery is None:
            return {}
        stats = self._gallery.stats()
        return {"code_bytes": stats.code_bytes, "disk_bytes": stats.disk_bytes}

    def done(self) -> None:
        """Close the gallery and remove its directory."""
        if self._cluster is not None:
            self._cluster.close()
        if self._directory is not None:
            self._directory.cleanup()
        self._cluster, self._directory, self._gallery = None, None, None

    def _search(self, rows: npt.NDArray[np.float32], n: int) -> list[npt.NDArray[np.int64]]:
        assert self._gallery is not None, "fit comes before query"
        some = rows.any(axis=1)
        answers = [np.empty(0, np.int64)] * len(rows)
        if some.any():
            options: dict[str, Any] = {"exact": True} if self._recall >= 1 else {"recall": self._recall}
            found = self._gallery.search(rows[some], n, **options)
            for position, ids in zip(np.flatnonzero(some).tolist(), found.template_ids, strict=True):
                answers[position] = np.array([int(template_id) for template_id in ids], dtype=np.int64)
        return answers


def _rows(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    rows = np.ascontiguousarray(values, dtype=np.float32)
    missing = MIN_DIM - rows.shape[1]
    return rows if missing <= 0 else np.pad(rows, ((0, 0), (0, missing)))
