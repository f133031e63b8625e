"""A snapshot that was made, as JSON and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cluster.cli.output import size_text

if TYPE_CHECKING:
    from cluster.results import SnapshotInfo
    from coordinator.snapshots.create import CreateReport


def created_here(report: CreateReport) -> tuple[dict[str, Any], str]:
    """By an open home, which knows what was written."""
    from cluster.snapshots import snapshot_info

    info = snapshot_info(report.manifest)
    document = {
        "snapshot": asdict(info),
        "written": {"objects": report.written_objects, "bytes": report.written_bytes},
        "reused": {"objects": report.reused_objects, "bytes": report.reused_bytes},
        "seconds": report.seconds,
    }
    wrote = f"{size_text(report.written_bytes)} written, {size_text(report.reused_bytes)} were there"
    return document, f"{_head(info)}; {wrote}"


def created_there(info: SnapshotInfo) -> tuple[dict[str, Any], str]:
    """By a service."""
    return {"snapshot": asdict(info)}, f"{_head(info)}, {size_text(info.size)}"


def _head(info: SnapshotInfo) -> str:
    return f"{info.snapshot_id}: {info.templates:,} templates of {info.gallery}"
