"""Configuration of Facegrid for VectorDBBench: where the service is, and how it is searched."""

from __future__ import annotations

from pydantic import BaseModel, SecretStr
from vectordb_bench.backend.clients.api import DBCaseConfig, DBConfig, MetricType


class FacegridConfig(DBConfig):  # type: ignore[misc]
    """A running `facegrid serve`. api_key: an operator's, or one of the tenant with the scope admin."""

    url: str
    api_key: SecretStr
    tenant: str = "bench"
    shards: int = 4

    def to_dict(self) -> dict[str, object]:
        """What the client gets as `db_config`."""
        return {
            "url": self.url,
            "api_key": self.api_key.get_secret_value(),
            "tenant": self.tenant,
            "shards": self.shards,
        }


class FacegridCaseConfig(BaseModel, DBCaseConfig):  # type: ignore[misc]
    """recall: recall@k to aim at, below 1; code_bits: 128, 256, 512 or 1024."""

    metric_type: MetricType | None = None
    recall: float = 0.999
    code_bits: int = 512

    def index_param(self) -> dict[str, object]:
        """What a gallery is made with."""
        if self.metric_type not in (None, MetricType.COSINE, MetricType.IP, MetricType.DP):
            raise ValueError(f"Facegrid searches by cosine: expected COSINE, or IP of units, got {self.metric_type}")
        return {"code_bits": self.code_bits}

    def search_param(self) -> dict[str, object]:
        """What each search is asked with."""
        return {"recall": self.recall}
