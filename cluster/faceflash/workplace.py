"""Where a `FaceFlash` keeps its gallery: a home in a temporary directory, made when it is needed."""

from __future__ import annotations

import tempfile

from cluster.api import Cluster
from cluster.config import load_settings
from cluster.gallery import Gallery


class Workplace:
    """A private home with one gallery at a time, made when it is needed."""

    def __init__(self, code_bits: int) -> None:
        self._code_bits = code_bits
        self.embedder = load_settings().embedder
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._cluster: Cluster | None = None
        self._gallery: Gallery | None = None
        self._made = 0

    def cluster(self) -> Cluster:
        """The open home."""
        if self._cluster is None:
            self._directory = tempfile.TemporaryDirectory(prefix="facegrid-faceflash-")
            self._cluster = Cluster.open(self._directory.name, runtime="local")
        return self._cluster

    def gallery(self) -> Gallery:
        """The gallery in use, at first an empty one of the embedder's dimension."""
        if self._gallery is None:
            self._gallery = self.fresh(None)
        return self._gallery

    def fresh(self, dim: int | None) -> Gallery:
        """Another empty gallery; dim: None for the embedder's."""
        self._made += 1
        name = f"faceflash/index-{self._made}"
        return self.cluster().gallery(name, create=True, dim=dim, shards=1, code_bits=self._code_bits)

    def use(self, gallery: Gallery) -> None:
        """Go on with this one, and drop the one before."""
        if self._gallery is not None:
            self.cluster().drop(self._gallery.name)
        self._gallery = gallery

    def close(self) -> None:
        """Close the home and remove it."""
        if self._cluster is not None:
            self._cluster.close()
        if self._directory is not None:
            self._directory.cleanup()
