"""Aligned crops to unit embeddings, in batches, through one onnxruntime session.

Owns the embedder's session and preprocessing; must not know images, detectors or galleries.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cluster.faces.align import CROP_SIDE
from cluster.faces.decode import ImageArray
from cluster.faces.registry import ModelSpec
from cluster.faces.session import Device, open_session
from shard.errors import InvalidEmbedding, ModelFileCorrupt
from shard.types import FloatArray


class Embedder:
    """An embedding network in a session. Safe to call from several threads at once."""

    def __init__(
        self, spec: ModelSpec, path: Path, *, threads: int = 0, device: Device = "cpu", batch_size: int = 32
    ) -> None:
        """threads: of one call, 0 for all cores. batch_size: crops of one call where the graph leaves it free.

        Raises ModelFileCorrupt where the file does not load or gives another dimension than the registry says.
        """
        self.spec = spec
        self._batch_size = spec.batch or batch_size
        self._session = open_session(path, input_name=spec.input_name, threads=threads, device=device)
        self._input = self._session.get_inputs()[0].name
        shape = self._session.get_outputs()[0].shape
        if shape[-1] != spec.dim:
            raise ModelFileCorrupt(f"{path}: expected embeddings of dimension {spec.dim}, the graph gives {shape}")

    def embed(self, crops: ImageArray) -> FloatArray:
        """Embeddings of aligned faces: (n, dim) float32, C-contiguous, unit L2 norm, in the crops' order.

        crops: (n, 112, 112, 3) uint8 RGB; n may be 0. Raises InvalidEmbedding where the network gives NaN, Inf or zero.
        """
        if crops.ndim != 4 or crops.shape[1:] != (CROP_SIDE, CROP_SIDE, 3) or crops.dtype != np.uint8:
            raise InvalidEmbedding(f"expected crops (n, 112, 112, 3) uint8, got {crops.shape} {crops.dtype}")
        assert self.spec.dim is not None
        out = np.empty((len(crops), self.spec.dim), np.float32)
        for start in range(0, len(crops), self._batch_size):
            batch = self._preprocessed(crops[start : start + self._batch_size])
            out[start : start + len(batch)] = self._session.run(None, {self._input: batch})[0]
        return _unit(out, self.spec.name)

    def _preprocessed(self, crops: ImageArray) -> FloatArray:
        ordered = crops[..., ::-1] if self.spec.channels == "BGR" else crops
        planes = ordered.transpose(0, 3, 1, 2).astype(np.float32)
        return np.ascontiguousarray((planes - np.float32(self.spec.mean)) * np.float32(self.spec.scale))


def _unit(embeddings: FloatArray, model: str) -> FloatArray:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] < 1e-6))
    if len(bad):
        raise InvalidEmbedding(f"model {model!r} gave a zero or non-finite embedding for crop {bad[0]} of {len(norms)}")
    return np.asarray(embeddings / norms, np.float32)
