"""`facegrid snapshot create | list | restore | abandon | verify | delete`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.galleries import GalleryName
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid, size_text
from shard.errors import ClusterError, EncryptedGallery, InvalidParameter, StorageError, UnknownGallery

if TYPE_CHECKING:
    from cluster.client.operations.snapshots import RemovedSnapshots
    from cluster.results import SnapshotInfo
    from coordinator.snapshots.store import DeleteReport, SnapshotStore

app = typer.Typer(name="snapshot", help="Make, list, restore, verify and delete snapshots.", no_args_is_help=True)

StoreUrl = Annotated[
    str, typer.Argument(metavar="STORE", help="Directory, or URL such as s3://bucket/prefix.", show_default=False)
]
OptionalStore = Annotated[
    str | None,
    typer.Argument(metavar="[STORE]", help="Directory, or URL such as s3://bucket/prefix.", show_default=False),
]
SnapshotId = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Id, as `facegrid snapshot list` shows it.", show_default=False)
]


@app.command()
def create(
    context: typer.Context,
    gallery: Annotated[
        str | None, typer.Argument(metavar="[GALLERY]", help="Gallery, as tenant/gallery.", show_default=False)
    ] = None,
    store: OptionalStore = None,
    is_of_all: Annotated[bool, typer.Option("--all", help="Of every gallery, instead of one.")] = False,
    keep_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Days after which it may be removed as expired.")
    ] = None,
) -> None:
    """Make a snapshot of a gallery, or of each; only what the store does not hold is written."""
    invocation = invocation_of(context)
    if is_of_all:
        gallery, store = _only_store(gallery, store)
    elif gallery is None:
        raise InvalidParameter("expected a GALLERY or --all")
    expires_at = None if keep_days is None else _in_days(keep_days)
    with _taking(invocation, store, expires_at) as take:
        if gallery is None:
            _take_all(invocation, take)
            return
        document, said = take.one(gallery)
    invocation.output.result(document, said)


def _only_store(gallery: str | None, store: str | None) -> tuple[None, str | None]:
    """What stands alone with --all is the store."""
    if store is not None:
        raise InvalidParameter(f"expected GALLERY or --all, got both: {gallery!r:.160}")
    return None, gallery


def _in_days(days: float) -> datetime:
    if not 0 < days <= 36_525:
        raise InvalidParameter(f"--keep-days: expected a number above 0, at most 36,525, got {days}")
    return datetime.now(timezone.utc) + timedelta(days=days)


@dataclass(frozen=True, slots=True)
class _Taking:
    """What makes snapshots: `one` of a gallery, as JSON and in words; `names` of all galleries that there are."""

    one: Callable[[str], tuple[dict[str, Any], str]]
    names: Callable[[], list[str]]


@contextlib.contextmanager
def _taking(invocation: Invocation, store: str | None, expires_at: datetime | None) -> Iterator[_Taking]:
    """By a service, into its own store, or by the home, into one that is named."""
    from cluster.cli.snapshot_words import created_here, created_there

    with invocation.service() as service:
        if service is not None:
            _check_no_store(store)
            there = service.snapshots
            yield _Taking(
                lambda name: created_there(there.create(name, expires_at=expires_at)),
                lambda: [gallery.name for gallery in service.galleries()],
            )
            return
    if store is None:
        raise InvalidParameter("expected a STORE; only a service (--url) has one of its own")
    with invocation.home("snapshot create") as grid:
        here, shown = grid.snapshots(store), invocation.output.wants_progress
        yield _Taking(
            lambda name: created_here(here.create(name, expires_at=expires_at, progress=shown)),
            lambda: [gallery.name for gallery in grid.galleries()],
        )


def _check_no_store(store: str | None) -> None:
    if store is not None:
        raise InvalidParameter(f"expected no STORE with --url: a service has one of its own; got {store!r:.160}")


def _take_all(invocation: Invocation, take: _Taking) -> None:
    """A snapshot of each gallery. One that fails does not keep the others from being made."""
    documents: list[dict[str, Any]] = []
    rows: list[tuple[str, str]] = []
    for name in take.names():
        try:
            document, said = take.one(name)
        except (EncryptedGallery, UnknownGallery) as error:  # the latter was dropped meanwhile
            document, said = {"skipped": str(error)}, f"left out: {error}"
        except (ClusterError, StorageError) as error:
            failure = {"code": error.code, "message": str(error)}
            document, said = {"error": failure}, f"failed [{error.code}]: {error}"
        documents.append({"gallery": name, **document})
        rows.append((name, said))
    shown = Grid(("gallery", "snapshot"), rows) if rows else "no galleries"
    invocation.output.result({"galleries": documents}, shown)
    if any("error" in document for document in documents):
        raise typer.Exit(ExitCode.PARTIAL)


@app.command("list")
def list_snapshots(
    context: typer.Context,
    store: OptionalStore = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", metavar="NAME", help="Snapshots of this gallery only.")
    ] = None,
) -> None:
    """List the snapshots in a store, oldest first, which needs no home; or those of a service's gallery."""
    from cluster.snapshots import snapshot_info

    invocation = invocation_of(context)
    if store is not None:
        found = [snapshot_info(manifest) for manifest in _store(store).snapshots(gallery)]
    else:
        found = _list_there(invocation, gallery)
    shown = _grid(found) if found else "no snapshots"
    invocation.output.result({"snapshots": [asdict(info) for info in found]}, shown)


def _list_there(invocation: Invocation, gallery: str | None) -> list[SnapshotInfo]:
    with invocation.service() as service:
        if service is None or gallery is None:
            raise InvalidParameter("expected a STORE, or --url and --gallery")
        return service.snapshots.list(gallery)


def _grid(found: list[SnapshotInfo]) -> Grid:
    columns = ("snapshot", "gallery", "created", "expires", "templates", "shards", "size")
    rows = [
        (i.snapshot_id, i.gallery, i.created_at, i.expires_at, i.templates, i.shards, size_text(i.size)) for i in found
    ]
    return Grid(columns, rows)


@app.command()
def restore(
    context: typer.Context,
    store: StoreUrl,
    snapshot: SnapshotId,
    into: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new gallery; as it was.")] = None,
    shards: Annotated[int | None, typer.Option(metavar="N", help="Its shards; as many as there were.")] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Copies of each shard; as there were.")] = None,
    if_exists: Annotated[
        str, typer.Option(metavar="error|skip", help="Where that gallery was restored from this snapshot before.")
    ] = "error",
) -> None:
    """Make a new gallery of a snapshot, and the home if there is none; repeated, it goes on where it stopped."""
    invocation = invocation_of(context)
    if if_exists not in ("error", "skip"):
        raise InvalidParameter(f"--if-exists: expected 'error' or 'skip', got {if_exists!r}")
    _store(store).snapshot(snapshot)  # before a home is made for nothing
    with invocation.home("snapshot restore", create=True) as grid:
        report = grid.snapshots(store).restore(
            snapshot,
            into=into,
            shards=shards,
            replicas=replicas,
            if_exists="skip" if if_exists == "skip" else "error",
            progress=invocation.output.wants_progress,
        )
    invocation.output.result(
        asdict(report),
        f"restored: {report.gallery}, {report.templates:,} templates in {report.shards} shards"
        f" ({report.enrolled:,} enrolled now)",
    )


@app.command()
def abandon(
    context: typer.Context,
    name: GalleryName,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a gallery whose restore was interrupted and is not to be completed."""
    invocation = invocation_of(context)
    with invocation.home("snapshot abandon") as grid:
        invocation.confirm(f"Remove the half restored gallery {name}?", is_confirmed=is_confirmed)
        grid.abandon_restore(name)
    invocation.output.result({"abandoned": name}, f"removed the half restored {name}")


@app.command()
def verify(context: typer.Context, store: StoreUrl, snapshot: SnapshotId) -> None:
    """Read every object of a snapshot and compare digests and counts; needs no home."""
    from cluster.progress import show_progress
    from coordinator.snapshots.read import verify_snapshot

    invocation = invocation_of(context)
    opened = _store(store)
    with show_progress(invocation.output.wants_progress, "verifying templates") as tell:
        report = verify_snapshot(opened, opened.snapshot(snapshot), progress=tell)
    verdict = "damaged" if report.damage else "sound"
    summary = f"{verdict}: {report.objects:,} objects, {size_text(report.size)}, {report.templates:,} templates"
    invocation.output.result({**asdict(report), "is_sound": not report.damage}, *report.damage, summary)
    if report.damage:
        raise typer.Exit(ExitCode.NEGATIVE)


@app.command()
def delete(
    context: typer.Context,
    store: OptionalStore = None,
    snapshot: Annotated[
        str | None, typer.Argument(metavar="[SNAPSHOT]", help="Id of the snapshot.", show_default=False)
    ] = None,
    is_expired: Annotated[bool, typer.Option("--expired", help="Every snapshot that has expired, instead.")] = False,
    is_confirmed: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a snapshot, or all that have expired, and objects that no other snapshot needs."""
    invocation = invocation_of(context)
    if (snapshot is None) == (not is_expired):
        raise InvalidParameter("expected either a SNAPSHOT or --expired")
    question = f"Delete snapshot {snapshot}?" if snapshot else "Delete all snapshots that have expired?"
    invocation.confirm(question, is_confirmed=is_confirmed)
    report = _delete(invocation, store, snapshot) if store is not None else _delete_there(invocation)
    document: dict[str, Any] = {"deleted": report.snapshot_ids, "objects": report.objects, "bytes": report.size}
    names = ", ".join(report.snapshot_ids) or "no snapshot"
    invocation.output.result(document, f"deleted {names}: {report.objects:,} objects, {size_text(report.size)}")


def _delete_there(invocation: Invocation) -> RemovedSnapshots:
    """Those of a service that have expired: of the key's tenant, or of all tenants with an operator's key."""
    from cluster.client.operations.snapshots import RemovedSnapshots

    with invocation.service() as service:
        if service is None:
            raise InvalidParameter("expected a STORE; only a service (--url) has one of its own")
        own = service.whoami().get("tenant")
        tenants = [own] if isinstance(own, str) else [tenant.name for tenant in service.tenants.all()]
        found = [service.snapshots.delete_expired(tenant) for tenant in tenants]
    ids = tuple(one for removed in found for one in removed.snapshot_ids)
    return RemovedSnapshots(ids, sum(one.objects for one in found), sum(one.size for one in found))


def _delete(invocation: Invocation, url: str, snapshot: str | None) -> DeleteReport:
    """By way of the home, whose catalog remembers snapshots; of the store alone where there is no home."""
    if not (invocation.settings().home / "facegrid.json").exists():
        store = _store(url)
        return store.delete_expired() if snapshot is None else store.delete(snapshot)
    with invocation.home("snapshot delete") as grid:
        snapshots = grid.snapshots(url)
        return snapshots.delete_expired() if snapshot is None else snapshots.delete(snapshot)


def _store(url: str) -> SnapshotStore:
    from coordinator.snapshots.store import SnapshotStore

    return SnapshotStore.open(url)
