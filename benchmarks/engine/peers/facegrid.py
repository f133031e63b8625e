"""Facegrid itself: one durable shard, searched in process through `shard.search`, labels included."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.engine.peer import Budget, Curve, Peer, Setting, Source, blocks
from shard.model import SearchModel
from shard.search import search_shards
from shard.shard import ModelLoader, Shard
from shard.training import MAX_SAMPLE, train
from shard.types import CandidateBatch, EnrollBatch, FloatArray, RowArray, SearchParams

_BLOCK = 25_000
_PROMISES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)


class Facegrid(Peer):
    """Enrolled durably, then trained, encoded and sealed. The knob is the recall asked for."""

    distribution: ClassVar[str] = "facegrid"
    how: ClassVar[str] = "one shard, 512 bits, defaults; the knob is `recall`; answers carry ids and identities"

    def build(self, source: Source, folder: Path, budget: Budget) -> None:
        """Enroll in blocks of 25,000, train on a sample, encode, seal: all that a gallery goes through."""
        models = folder / "models"
        models.mkdir()
        with Shard.create(folder / "shard", dim=source.rows.shape[1], load_model=_loader(models)) as shard:
            for block in blocks(len(source.rows), _BLOCK):
                shard.enroll(_batch(source, block))
            model = train(shard.sample(MAX_SAMPLE, 0))
            (models / model.model_id).write_bytes(model.to_bytes())
            shard.activate(model)
            shard.flush()

    def open(self, folder: Path, threads: int) -> None:
        """Reopen the shard; threads are rayon's, from the environment that the worker was started with."""
        self._shards = [Shard(folder / "shard", _loader(folder / "models"))]

    def fixed(self) -> dict[str, Setting]:
        """The default recall, three promises, exact search."""
        promises: dict[str, Setting] = {f"recall={recall}": {"recall": recall} for recall in (0.9, 0.99, 0.999)}
        return {"default": {}, **promises, "exact": {"exact": 1}}

    def curves(self) -> list[Curve]:
        """Rising promises."""
        return [[{"recall": recall} for recall in _PROMISES]]

    def use(self, setting: Setting, k: int) -> None:
        """Search with what SearchParams has."""
        if "recall" in setting:
            self._params = SearchParams(k=k, recall=setting["recall"])
        else:
            self._params = SearchParams(k=k, exact=bool(setting.get("exact")))

    def one(self, probe: FloatArray) -> object:
        """A batch of one."""
        return search_shards(self._shards, probe[None], self._params)

    def many(self, probes: FloatArray) -> object:
        """One call."""
        return search_shards(self._shards, probes, self._params)

    def rows(self, answer: object) -> RowArray:
        """Template ids are row numbers."""
        assert isinstance(answer, CandidateBatch)
        found = np.full(answer.scores.shape, -1, dtype=np.int64)
        for i, ids in enumerate(answer.template_ids):
            found[i, : len(ids)] = [int(template_id) for template_id in ids]
        return found


def _batch(source: Source, block: slice) -> EnrollBatch:
    numbers = range(block.start, block.stop)
    return EnrollBatch(
        embeddings=np.ascontiguousarray(source.rows[block]),
        template_ids=tuple(map(str, numbers)),
        identities=tuple(f"person-{i}" for i in source.identities[block].tolist()),
        metadata=(None,) * len(numbers),
    )


def _loader(folder: Path) -> ModelLoader:
    """Loads a model that `build` saved."""
    return lambda model_id: SearchModel.from_bytes((folder / model_id).read_bytes())
