"""Import into a gallery: FaceFlash indexes, deepface pickles, .npy arrays, Parquet, folders of photos.

    from cluster.imports import import_into
    report = import_into(grid.gallery("acme/staff"), "old-index/")

One file a format; each yields batches of bounded size (`cluster.imports.records`) and knows nothing of galleries.
"""

from __future__ import annotations

from cluster.imports.formats import FORMATS, Format
from cluster.imports.records import RefusedRecord
from cluster.imports.run import ImportReport, import_into

__all__ = ["FORMATS", "Format", "ImportReport", "RefusedRecord", "import_into"]
