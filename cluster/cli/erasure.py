"""`facegrid erasure-report` and `facegrid compact`: what files still hold of deleted templates, and removing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid, time_text
from shard.errors import FacegridError, InvalidParameter

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.cli.invocation import AnyCluster
    from coordinator.types import ReplicaErasure

OptionalGallery = Annotated[
    str | None, typer.Argument(metavar="[GALLERY]", help="Gallery, as tenant/gallery.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of place in which bytes of deleted templates may be.

    key: its name in the document, entries: what the document has there, shown: the same for people. overdue: places
    that hold bytes past their deadline; unknown: those that could not be asked.
    """

    key: str
    entries: list[dict[str, Any]]
    shown: tuple[str | Grid, ...]
    overdue: int
    unknown: int


def erasure_report(context: typer.Context, gallery: OptionalGallery = None) -> None:
    """Say what is left of deleted templates, where, and until when. Exits with 1 if something is overdue or unknown."""
    from cluster.client import RemoteCluster

    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        if not isinstance(grid, RemoteCluster):
            grid.wait_until_idle()  # what was due when the home was opened is being removed just now
        now = time.time()
        # One section for each kind of place: replicas; hosts that are away; snapshots.
        sections = [_replicas(grid.erasure_report(gallery), now)]
        if not isinstance(grid, RemoteCluster):  # whose hosts and snapshots are its operator's to know
            sections += [_hosts_away(grid), _snapshots(grid, gallery, now)]
    overdue, unknown = sum(section.overdue for section in sections), sum(section.unknown for section in sections)
    document: dict[str, Any] = {"gallery": gallery, "at": now, "overdue": overdue, "unknown": unknown}
    document.update({section.key: section.entries for section in sections})
    shown = [part for section in sections for part in section.shown]
    invocation.output.result(document, *shown, _verdict(overdue, unknown))
    raise typer.Exit(ExitCode.NEGATIVE if overdue or unknown else ExitCode.OK)


def compact(
    context: typer.Context,
    gallery: OptionalGallery = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every gallery.")] = False,
    is_now: Annotated[bool, typer.Option("--now", help="Everything deleted so far; so if neither is given.")] = False,
    is_due: Annotated[bool, typer.Option("--due", help="Only what is near its deadline.")] = False,
) -> None:
    """Remove the bytes of deleted templates from the files of every replica. Exits with 1 if some are overdue still."""
    from cluster.progress import show_progress

    invocation = invocation_of(context)
    if (gallery is None) != is_all:
        raise InvalidParameter("compact: expected either a GALLERY or --all")
    if is_now and is_due:
        raise InvalidParameter("compact: expected --now or --due, got both")
    with (
        invocation.cluster() as grid,
        show_progress(invocation.output.wants_progress, "compacting") as tell,
    ):
        names = [gallery] if gallery is not None else [found.name for found in grid.galleries()]
        failures: list[FacegridError] = []
        for done, name in enumerate(names, start=1):
            try:
                if is_due:
                    _check_here(grid).erase_due(name)
                else:
                    grid.gallery(name).erase()
            except FacegridError as error:
                failures.append(error)  # the others are done first
            if tell is not None:
                tell(done, len(names))
        if failures:
            raise failures[0]
        left, now = [entry for name in names for entry in grid.erasure_report(name)], time.time()
    section = _replicas(left, now)
    document = {
        "galleries": names,
        "replicas": len(left),
        "dead_rows": sum(entry.dead_rows for entry in left),
        "clean": sum(entry.is_clean for entry in left),
        "overdue": section.overdue,
        "unknown": section.unknown,
    }
    clean = f"{document['clean']:,} of {len(left):,} replicas hold nothing of deleted templates"
    invocation.output.result(document, clean, _verdict(section.overdue, section.unknown))
    raise typer.Exit(ExitCode.NEGATIVE if section.overdue or section.unknown else ExitCode.OK)


def _check_here(grid: AnyCluster) -> Cluster:
    """The home; InvalidParameter for a service, which removes what is due by itself."""
    from cluster.client import RemoteCluster

    if isinstance(grid, RemoteCluster):
        raise InvalidParameter("compact --due works on a home, not over --url: a service does that by itself")
    return grid


def _replicas(found: Sequence[ReplicaErasure], now: float) -> Section:
    """The files of every replica, in sync or joining."""
    entries = [{**asdict(entry), "is_clean": entry.is_clean, "is_overdue": entry.is_overdue(now)} for entry in found]
    columns = ("gallery", "shard", "host", "in sync", "dead rows", "labels held", "oldest deletion", "due", "")
    rows = [
        (
            entry.gallery,
            entry.shard,
            entry.host,
            "yes" if entry.is_in_sync else "no",
            entry.dead_rows if entry.is_known else None,
            ("yes" if entry.holds_labels else "no") if entry.is_known else None,
            None if entry.oldest is None else time_text(entry.oldest),
            None if entry.due is None else time_text(entry.due),
            _remark(entry, now),
        )
        for entry in found
    ]
    return Section(
        "replicas",
        entries,
        (Grid(columns, rows),) if rows else ("no galleries",),
        overdue=sum(entry.is_overdue(now) for entry in found),
        unknown=sum(not entry.is_known for entry in found),
    )


def _remark(entry: ReplicaErasure, now: float) -> str:
    if not entry.is_known:
        return "unknown"
    if entry.is_overdue(now):
        return "overdue"
    return "clean" if entry.is_clean else ""


def _snapshots(grid: Cluster, gallery: str | None, now: float) -> Section:
    """Snapshots made of these galleries: each holds what was there when it was made, until it is deleted."""
    found = [record for record in grid.coordinator.snapshots.made() if gallery in (None, record.gallery)]
    is_late = [
        record.expires_at is not None and datetime.fromisoformat(record.expires_at).timestamp() < now
        for record in found
    ]
    entries = [{**asdict(record), "is_overdue": late} for record, late in zip(found, is_late, strict=True)]
    columns = ("snapshot", "gallery", "store", "made", "kept until", "")
    rows = [
        (r.snapshot_id, r.gallery, r.store, r.created_at, r.expires_at or "it is deleted", "overdue" if late else "")
        for r, late in zip(found, is_late, strict=True)
    ]
    said = "snapshots hold what was there when they were made, whatever was deleted since"
    return Section("snapshots", entries, (said, Grid(columns, rows)) if rows else (), sum(is_late), 0)


def _hosts_away(grid: Cluster) -> Section:
    """Hosts that are down: their disks may hold files of replicas that were given up, which no replica's entry tells.

    They count neither as overdue nor as unknown: a host that was emptied and taken away for good is among them.
    """
    from coordinator.types import DOWN

    away = [host for host in grid.hosts() if host.state == DOWN]
    entries = [{"host": host.host, "since": host.since} for host in away]
    shown = [
        f"{host.host} is down since {time_text(host.since)}: what its disk holds is removed when it is back"
        for host in away
    ]
    return Section("hosts_away", entries, tuple(shown), overdue=0, unknown=0)


def _verdict(overdue: int, unknown: int) -> str:
    if not overdue and not unknown:
        return "nothing is overdue"
    told = [f"{overdue:,} overdue"] if overdue else []
    told += [f"{unknown:,} could not be asked"] if unknown else []
    return ", ".join(told)
