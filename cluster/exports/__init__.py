"""Export of a gallery to files that anybody can read: Parquet, or a .npy array with labels as JSON lines.

    from cluster.exports import export_gallery
    export_gallery(grid, "acme/staff", "staff.parquet")

What is written is one consistent state (`cluster.exports.consistent`), and is there as a whole or not at all. Importing
it gives the same float32 bits, ids, identities and metadata.
"""

from __future__ import annotations

from cluster.exports.run import EXPORT_FORMATS, ExportFormat, ExportReport, export_gallery

__all__ = ["EXPORT_FORMATS", "ExportFormat", "ExportReport", "export_gallery"]
