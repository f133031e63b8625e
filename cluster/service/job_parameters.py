"""What of a kind's parameters may be set over HTTP, and what they may say there.

A list of what may be, not of what may not: a parameter that is new is the operator's, on the home, until it is here.
What says how much of this machine is used, which guards are off, or which store of the operator's is read, stays out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.service.job_sources import allowed_source
from coordinator.tenant_types import TenantRecord
from shard.errors import InvalidParameter, PermissionDenied

_READING = ("sources", "unit_photos", "unit_rows")
OPEN: dict[str, frozenset[str]] = {
    "dedup": frozenset(
        {
            "threshold", "target_fpir", "mode", "recall", "other", "analyse", "floor", "min_group", "max_group",
            "cohesion", "merge_same_photo", "same_photo_bits", "keep",
        }
    ),
    "enroll": frozenset({*_READING, "keep_thumbnails"}),
    "reembed": frozenset({*_READING, "into", "embedder", "shards", "code_bits"}),
    "calibrate": frozenset({"samples", "seed"}),
}  # fmt: skip
_FILES = ("url", "manifest", "labels", "identities", "template_ids")
"""Fields of a source that name a file."""
_WORDS = (
    "kind", "image_column", "embedding_column", "identity_column", "template_id_column", "metadata_column"
)  # fmt: skip


def checked_parameters(
    kind: str, parameters: Mapping[str, Any], tenant: TenantRecord, roots: Sequence[str]
) -> dict[str, Any]:
    """The parameters, if they may be set over HTTP; what else they have to be is their model's to say.

    roots: the setting `bulk_sources`. Raises InvalidParameter, PermissionDenied.
    """
    for name in parameters:
        if name not in OPEN[kind]:
            known = ", ".join(sorted(OPEN[kind]))
            raise InvalidParameter(f"parameters.{name:.80}: over HTTP a job of kind {kind} has {known}")
    checked = dict(parameters)
    if "sources" in OPEN[kind]:
        _check_sources(parameters.get("sources"), tenant, roots)
    if kind == "enroll":
        asked = parameters.get("keep_thumbnails")
        if asked and not tenant.keeps_thumbnails:
            raise PermissionDenied(f"parameters.keep_thumbnails: tenant {tenant.name!r} keeps none")
        checked["keep_thumbnails"] = tenant.keeps_thumbnails if asked is None else asked
    return checked


def _check_sources(sources: Any, tenant: TenantRecord, roots: Sequence[str]) -> None:
    """That every file and URL that the sources name is below a root."""
    if not isinstance(sources, list):
        raise InvalidParameter("parameters.sources: expected a list of texts or objects")
    for number, source in enumerate(sources):
        what = f"parameters.sources.{number}"
        fields = {"url": source} if isinstance(source, str) else source
        if not isinstance(fields, dict):
            raise InvalidParameter(f"{what}: expected a text or an object")
        for name, value in fields.items():
            if name in _FILES:
                if value is None:
                    continue
                if not isinstance(value, str):
                    raise InvalidParameter(f"{what}.{name}: expected text, got {type(value).__name__}")
                allowed_source(value, roots, tenant, what=f"{what}.{name}")
            elif name not in _WORDS:
                raise InvalidParameter(f"{what}.{name:.80}: over HTTP a source has {', '.join((*_FILES, *_WORDS))}")
