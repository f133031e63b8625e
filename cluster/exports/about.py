"""What an exported file says of the gallery it is of, beside its templates."""

from __future__ import annotations

import json

from coordinator.snapshots.manifest import Manifest

EXPORT_FORMAT = 1


def about_json(manifest: Manifest) -> bytes:
    """A JSON object: the export's format and time, the gallery's name, dimension, embedder and number of templates."""
    document = {
        "format": EXPORT_FORMAT,
        "gallery": manifest.gallery,
        "dim": manifest.dim,
        "embedder": manifest.embedder,
        "templates": manifest.templates,
        "exported_at": manifest.created_at,
        "facegrid_version": manifest.facegrid_version,
    }
    return json.dumps(document).encode()
