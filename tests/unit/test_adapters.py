"""The adapters for ann-benchmarks and VectorDBBench, through the interfaces that these document.

Neither package is installed here; what of them the adapters use is written down from their documentation: the base
class of ann-benchmarks' algorithms, and `VectorDB` with its configurations and filters of VectorDBBench.
"""

import abc
import copy
import importlib
import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from tests.faces_like import unit_rows
from tests.service import running

ADAPTERS = Path(__file__).resolve().parents[2] / "benchmarks" / "adapters"


def module_of(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Have `import name` give a module of these contents."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        parent = types.ModuleType(".".join(parts[:i]))
        parent.__path__ = []
        if parent.__name__ not in sys.modules:
            monkeypatch.setitem(sys.modules, parent.__name__, parent)
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def adapter(monkeypatch: pytest.MonkeyPatch, name: str) -> types.ModuleType:
    full = f"benchmarks.adapters.{name}"
    monkeypatch.delitem(sys.modules, full, raising=False)
    return importlib.import_module(full)


# ann-benchmarks


class BaseANN:
    """What ann-benchmarks calls, in this order: __init__(metric, …), fit, set_query_arguments, query or batch, done."""

    name: str

    def done(self) -> None: ...

    def get_memory_usage(self) -> float | None:
        return 0.0

    def fit(self, X: Any) -> None: ...

    def query(self, q: Any, n: int) -> Any:
        return []

    def batch_query(self, X: Any, n: int) -> None: ...

    def get_batch_results(self) -> Any: ...

    def get_additional(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name


@pytest.fixture
def ann(monkeypatch: pytest.MonkeyPatch) -> Any:
    module_of(monkeypatch, "ann_benchmarks.algorithms.base.module", BaseANN=BaseANN)
    return adapter(monkeypatch, "ann_benchmarks.module")


def neighbours(rows: Any, probes: Any, k: int) -> list[set[int]]:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return [set(np.argsort(-(unit @ probe))[:k].tolist()) for probe in probes]


@pytest.mark.parametrize(("dim", "rows"), [(100, 1_500), (25, 300)])
def test_ann_benchmarks(ann: Any, dim: int, rows: int) -> None:
    X = (unit_rows(rows, max(dim, 64), 1)[:, :dim] * 3).astype(np.float64)
    X[7] = 0
    probes = unit_rows(20, max(dim, 64), 2)[:, :dim]
    algorithm = ann.Facegrid("angular", {"code_bits": 256, "shards": 2})
    assert isinstance(algorithm, BaseANN)
    try:
        algorithm.fit(X)
        expected = neighbours(X, probes, 10)
        for recall in (0.9, 0.999, 1.0):
            algorithm.set_query_arguments(recall)
            assert str(recall) in str(algorithm)
            found = [algorithm.query(probe, 10) for probe in probes]
            assert all(len(ids) == len(set(ids.tolist())) == 10 for ids in found)
            hits = sum(len(set(ids.tolist()) & want) for ids, want in zip(found, expected, strict=True))
            assert hits >= (200 if recall == 1.0 else 180)
        algorithm.batch_query(probes, 10)
        assert [set(ids.tolist()) for ids in algorithm.get_batch_results()] == expected
        assert list(algorithm.query(np.zeros(dim), 3)) == []
        assert algorithm.get_additional()["disk_bytes"] > 0
    finally:
        algorithm.done()
        algorithm.done()


def test_ann_benchmarks_is_told_which_metrics_there_are(ann: Any) -> None:
    with pytest.raises(NotImplementedError, match="angular"):
        ann.Facegrid("euclidean", {})


def test_ann_benchmarks_configuration_names_the_class(ann: Any) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (entry,) = yaml.safe_load((ADAPTERS / "ann_benchmarks" / "config.yml").read_text())["float"]["angular"]
    assert hasattr(ann, entry["constructor"])
    assert entry["base_args"] == ["@metric"]
    for group in entry["run_groups"].values():
        for argument in group["arg_groups"]:
            algorithm = ann.Facegrid("angular", argument)
            for (recall,) in zip(*group["query_args"], strict=True):
                algorithm.set_query_arguments(recall)


# VectorDBBench


class MetricType(str, Enum):
    L2 = "L2"
    COSINE = "COSINE"
    IP = "IP"
    DP = "DP"


class FilterOp(str, Enum):
    NumGE = "NumGE"
    StrEqual = "Label"
    NonFilter = "NonFilter"


class DBConfig(abc.ABC, pydantic.BaseModel):
    db_label: str = ""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]: ...


class DBCaseConfig(abc.ABC):
    @abc.abstractmethod
    def index_param(self) -> dict[str, Any]: ...

    @abc.abstractmethod
    def search_param(self) -> dict[str, Any]: ...


class VectorDB(abc.ABC):
    """Made once for a case, copied into processes; `init` is entered before any of the other methods."""

    @abc.abstractmethod
    def __init__(
        self, dim: int, db_config: Any, db_case_config: Any, collection_name: str, drop_old: bool = False, **kwargs: Any
    ) -> None: ...

    @abc.abstractmethod
    def init(self) -> Any: ...

    @abc.abstractmethod
    def insert_embeddings(self, embeddings: Any, metadata: list[int], **kwargs: Any) -> tuple[int, Any]: ...

    @abc.abstractmethod
    def search_embedding(self, query: list[float], k: int = 100) -> list[int]: ...

    @abc.abstractmethod
    def optimize(self, data_size: int | None = None) -> None: ...


@pytest.fixture
def vdb(monkeypatch: pytest.MonkeyPatch) -> Any:
    base = {"VectorDB": VectorDB, "DBConfig": DBConfig, "DBCaseConfig": DBCaseConfig, "MetricType": MetricType}
    module_of(monkeypatch, "vectordb_bench.backend.clients.api", **base)
    module_of(monkeypatch, "vectordb_bench.backend.filter", FilterOp=FilterOp)
    found = adapter(monkeypatch, "vectordb_bench.facegrid")
    return types.SimpleNamespace(client=found.Facegrid, config=adapter(monkeypatch, "vectordb_bench.config"))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("FACEGRID_HOME", raising=False)
    with running(tmp_path / "home", runtime="local") as service:
        yield service


def test_vectordb_bench(vdb: Any, service: Any) -> None:
    rows = unit_rows(1_200, 64, 3)
    config = vdb.config.FacegridConfig(url=service.url, api_key=service.operator, shards=2).to_dict()
    case = vdb.config.FacegridCaseConfig(metric_type="COSINE", recall=0.9999, code_bits=256)
    first = vdb.client(64, config, case, collection_name="VDBBench", drop_old=True, with_scalar_labels=True)
    labels = [f"label_{i % 3}" for i in range(1_200)]
    with first.init():
        for start in range(0, 1_200, 500):
            part = slice(start, start + 500)
            numbers = list(range(1_200))[part]
            inserted = first.insert_embeddings(rows[part].tolist(), numbers, labels_data=labels[part])
            assert inserted == (len(numbers), None)
        first.optimize(1_200)
    other = copy.deepcopy(vdb.client(64, config, case, collection_name="VDBBench"))
    with other.init():
        expected = neighbours(rows, rows[:20], 5)
        for probe, want in zip(rows[:20], expected, strict=True):
            found = other.search_embedding(probe.tolist(), k=5)
            assert set(found) == want
        other.prepare_filter(types.SimpleNamespace(type=FilterOp.StrEqual, label_value="label_1"))
        assert {number % 3 for number in other.search_embedding(rows[0].tolist(), k=100)} == {1}
        other.prepare_filter(types.SimpleNamespace(type=FilterOp.NonFilter))
        assert other.search_embedding(rows[0].tolist(), k=1) == [0]
        with pytest.raises(ValueError, match="not supported"):
            other.prepare_filter(types.SimpleNamespace(type=FilterOp.NumGE))
        count, error = other.insert_embeddings([[0.0] * 64], [9_999])
        assert count == 0
        assert "zeros" in str(error)
    again = vdb.client(64, config, case, collection_name="VDBBench", drop_old=True)
    with again.init():
        assert again.search_embedding(rows[0].tolist(), k=5) == []
        again.optimize()  # nothing to train


def test_vectordb_bench_is_told_what_is_not_supported(vdb: Any, service: Any) -> None:
    with pytest.raises(ValueError, match="by cosine"):
        vdb.config.FacegridCaseConfig(metric_type="L2").index_param()
    config = vdb.config.FacegridConfig(url=service.url, api_key="fg_wrong").to_dict()
    with pytest.raises(RuntimeError, match="401"):
        vdb.client(64, config, vdb.config.FacegridCaseConfig(), collection_name="x", drop_old=True)
