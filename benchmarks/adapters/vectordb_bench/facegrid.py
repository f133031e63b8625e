"""Facegrid for VectorDBBench: a client of `facegrid serve` over HTTP, with msgpack bodies.

Every process of a benchmark opens connections of its own in `init`. Ids are the data set's numbers. Labels, where a
case filters by them, are identities, which a search may be confined to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgpack  # type: ignore[import-untyped]
import numpy as np
from vectordb_bench.backend.clients.api import VectorDB
from vectordb_bench.backend.filter import FilterOp

_MSGPACK = "application/msgpack"
_LOG = logging.getLogger(__name__)


class Facegrid(VectorDB):  # type: ignore[misc]
    """One gallery, named after the collection."""

    name = "Facegrid"
    supported_filter_types = [FilterOp.NonFilter, FilterOp.StrEqual]  # noqa: RUF012 as in the base class
    thread_safe = True

    def __init__(
        self,
        dim: int,
        db_config: dict[str, Any],
        db_case_config: Any,
        collection_name: str = "vector_bench_test",
        drop_old: bool = False,
        with_scalar_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make the gallery where there is none; drop_old: drop the one that is there first."""
        self._config = db_config
        self._search = {} if db_case_config is None else dict(db_case_config.search_param())
        self._with_labels = with_scalar_labels
        tenant = db_config.get("tenant", "bench")
        gallery = f"{tenant}/{collection_name.lower()}"
        self._path = f"/v1/galleries/{gallery}"
        self._client: httpx.Client | None = None
        body = {"name": gallery, "dim": dim, "shards": db_config.get("shards", 4)}
        if db_case_config is not None:
            body |= db_case_config.index_param()
        with self._connect() as client:
            if drop_old:
                _checked(client.delete(self._path), allowed=(404,))
                _checked(client.post("/v1/tenants", json={"name": tenant}), allowed=(403, 409))
                _checked(client.post("/v1/galleries", json=body))

    @contextmanager
    def init(self) -> Iterator[None]:
        """Open connections for what is done in the block."""
        self._client = self._connect()
        try:
            yield
        finally:
            self._client.close()
            self._client = None

    def need_normalize_cosine(self) -> bool:
        """Facegrid scales rows itself."""
        return False

    def prepare_filter(self, filters: Any) -> None:
        """Search among the rows of one label from now on, or among all."""
        self._search.pop("identities", None)
        if filters.type == FilterOp.StrEqual:
            self._search["identities"] = [filters.label_value]
        elif filters.type != FilterOp.NonFilter:
            raise ValueError(f"Facegrid: filters of type {filters.type} are not supported")

    def insert_embeddings(
        self,
        embeddings: list[list[float]],
        metadata: list[int],
        labels_data: list[str] | None = None,
        tenant_labels_data: list[str] | None = None,
        **kwargs: Any,
    ) -> tuple[int, Exception | None]:
        """How many were stored, all or none, and the error. A repeated call skips what is there."""
        body: dict[str, Any] = {
            "embeddings": _packed(embeddings),
            "template_ids": [str(number) for number in metadata],
            "if_exists": "skip",
        }
        if self._with_labels and labels_data is not None:
            body["identities"] = list(labels_data)
        try:
            self._post("faces", body)
        except (httpx.HTTPError, RuntimeError) as error:
            _LOG.warning("Facegrid: inserting %d rows failed: %s", len(metadata), error)
            return 0, error
        return len(metadata), None

    def search_embedding(self, query: list[float], k: int = 100, **kwargs: Any) -> list[int]:
        """Numbers of the k nearest, best first."""
        answer = self._post("search", {"probes": _packed([query]), "k": k, **self._search})
        return [int(template_id) for template_id in answer["template_ids"][0]]

    def optimize(self, data_size: int | None = None) -> None:
        """Train on what was inserted, and seal it; below 1,000 rows there is nothing to train, and search is exact."""
        assert self._client is not None, "init comes before optimize"
        _checked(self._client.post(f"{self._path}/train", json={}, timeout=None), allowed=(409,))
        _checked(self._client.post(f"{self._path}/flush", json={}, timeout=None))

    def _connect(self) -> httpx.Client:
        return httpx.Client(
            base_url=self._config["url"], headers={"Authorization": f"Bearer {self._config['api_key']}"}, timeout=60
        )

    def _post(self, verb: str, body: dict[str, Any]) -> Any:
        assert self._client is not None, "init comes before everything else"
        answer = self._client.post(
            f"{self._path}/{verb}",
            content=msgpack.packb(body),
            headers={"content-type": _MSGPACK, "accept": _MSGPACK},
        )
        return msgpack.unpackb(_checked(answer).content)


def _packed(rows: list[list[float]]) -> dict[str, Any]:
    array = np.ascontiguousarray(rows, dtype="<f4")
    return {"shape": list(array.shape), "data": array.tobytes()}


def _checked(answer: httpx.Response, *, allowed: tuple[int, ...] = ()) -> httpx.Response:
    if answer.is_error and answer.status_code not in allowed:
        raise RuntimeError(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
        )
    return answer
