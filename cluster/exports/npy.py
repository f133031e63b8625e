"""A gallery as a directory: `embeddings.npy`, `labels.jsonl` with a line for each row, `gallery.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cluster.exports.about import about_json
from cluster.imports.npy import ABOUT, ARRAY, LABELS
from coordinator.snapshots.manifest import Manifest
from shard.errors import CorruptData
from shard.files import new_directory, new_file, write_file
from shard.types import EnrollBatch


def write_npy(path: Path, manifest: Manifest, batches: Iterator[EnrollBatch]) -> None:
    """embeddings.npy: (templates, dim) little-endian float32. WriteFailed."""
    shape = (manifest.templates, manifest.dim)
    rows = 0
    with new_directory(path) as directory:
        with new_file(directory / ARRAY) as floats, new_file(directory / LABELS) as labels:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(floats, header)
            for batch in batches:
                floats.write(batch.embeddings.astype("<f4", copy=False).tobytes())
                labels.write(b"".join(_lines(batch)))
                rows += len(batch)
        write_file(directory / ABOUT, about_json(manifest))
        if rows != manifest.templates:
            raise CorruptData(f"{manifest.gallery}: expected {manifest.templates} templates, read {rows}")


def _lines(batch: EnrollBatch) -> Iterator[bytes]:
    for template_id, identity, metadata in zip(batch.template_ids, batch.identities, batch.metadata, strict=True):
        # Metadata is JSON already, in one line; to parse it and write it again would only take time.
        pair = json.dumps({"template_id": template_id, "identity": identity}, ensure_ascii=False).encode()
        yield pair[:-1] + b', "metadata": ' + (metadata or b"null") + b"}\n"
