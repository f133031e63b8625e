"""`facegrid fsck`: every damage of every shard on this machine, and with --repair what can be mended is.

Works on files that nobody has open, and needs no shard to open: `shard.closed`. Floats come from another replica of the
same shard in this home, a search model from the catalog.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.checks import model_loader
from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid
from coordinator.directories import shard_directory
from shard.errors import CorruptData, FacegridError, HomeLocked, NotFound, UnknownGallery

if TYPE_CHECKING:
    from coordinator.catalog import Catalog
    from coordinator.home import Home
    from coordinator.types import GalleryRoute
    from shard.closed import ClosedShard
    from shard.damage import Damage
    from shard.types import FloatArray


@dataclass(frozen=True, slots=True)
class Fault:
    """One damage of one replica, or why it cannot be opened at all. Rows are first_row <= row < last_row."""

    gallery: str
    shard: int
    host: str
    part: str
    path: str
    what: str
    first_row: int | None
    last_row: int | None
    is_mendable: bool
    is_mended: bool


def fsck(
    context: typer.Context,
    gallery: Annotated[
        str | None, typer.Argument(metavar="[GALLERY]", help="Check this one only.", show_default=False)
    ] = None,
    is_repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; without it nothing is changed.")
    ] = False,
) -> None:
    """Read every shard on this machine and report every damage. Exits with 6 if damage is left."""
    invocation = invocation_of(context)
    faults: list[Fault] = []
    replicas = 0
    with _home(invocation) as (home, catalog):
        for route in _routes(catalog, gallery):
            for number in range(route.shards):
                hosts = _hosts(home, route, number)
                replicas += len(hosts)
                faults += _check_replicas(home.directory, catalog, route, number, hosts, is_repair=is_repair)
    left = sum(not fault.is_mended for fault in faults)
    mended = f", {len(faults) - left} mended, {left} left" if is_repair else ""
    invocation.output.result(
        {"is_sound": not left, "replicas": replicas, "damages": [asdict(fault) for fault in faults]},
        *([_grid(faults)] if faults else []),
        f"{replicas} replicas of shards checked: {len(faults)} damages{mended}",
    )
    raise typer.Exit(ExitCode.STORAGE if left else ExitCode.OK)


@contextlib.contextmanager
def _home(invocation: Invocation) -> Iterator[tuple[Home, Catalog]]:
    from cluster.config import key_source
    from coordinator.catalog import open_catalog
    from coordinator.home import Home, checked_directory

    invocation.check_home("fsck")
    settings = invocation.settings()
    directory = checked_directory(settings.home)
    if not (directory / "facegrid.json").exists():
        raise NotFound(f"no Facegrid home at {directory}; name another with --home or FACEGRID_HOME")
    service = key_source(settings).service()
    with (
        contextlib.closing(Home(directory)) as home,
        contextlib.closing(open_catalog(home, settings.catalog, service)) as found,
    ):
        yield home, found


def _routes(catalog: Catalog, gallery: str | None) -> list[GalleryRoute]:
    routes = catalog.galleries()
    found = [route for route in routes if gallery in (None, route.name)]
    if gallery is not None and not found:
        raise UnknownGallery(f"no gallery {gallery!r}")
    return found


def _hosts(home: Home, route: GalleryRoute, number: int) -> list[Path]:
    """Directories of the hosts on this machine that have the shard, or should have it."""
    here = [home.hosts_directory / name for name in home.local_hosts()]
    wanted = set(route.in_sync[number])
    return [h for h in here if h.name in wanted or shard_directory(h, route.gallery_id, number).is_dir()]


def _check_replicas(
    home: Path, catalog: Catalog, route: GalleryRoute, number: int, hosts: Sequence[Path], *, is_repair: bool
) -> Iterator[Fault]:
    """All replicas of one shard that are on this machine, open together, so that each can be mended from the others."""
    from shard.closed import ClosedShard

    def fault(host: Path, damage: Damage, *, is_mended: bool = False) -> Fault:
        path, rows = damage.path, (damage.first_row, damage.last_row)
        shown = str(path.relative_to(home)) if path.is_relative_to(home) else str(path)
        return Fault(
            route.name, number, host.name, damage.part, shown, damage.what, *rows, damage.is_mendable, is_mended
        )  # fmt: skip

    with contextlib.ExitStack() as undo:
        opened: dict[Path, ClosedShard] = {}
        try:
            key = catalog.keys.of_gallery(route.gallery_id)
        except FacegridError as error:
            # Nothing of an encrypted shard can be compared without its key.
            yield from (
                fault(host, _unopened(shard_directory(host, route.gallery_id, number), error)) for host in hosts
            )
            return
        for host in hosts:
            directory = shard_directory(host, route.gallery_id, number)
            loader = _restoring(host, catalog, route, key) if is_repair else model_loader(host, key)
            try:
                opened[host] = undo.enter_context(ClosedShard(directory, loader, key=key))
            except HomeLocked:
                raise
            except (FacegridError, OSError) as error:
                yield fault(host, _unopened(directory, error))
        for host, shard in opened.items():
            others = [other for other in opened.values() if other is not shard]
            for damage, is_mended in _checked(shard, others, is_repair=is_repair):
                yield fault(host, damage, is_mended=is_mended)
    if is_repair:
        for host in opened:
            directory = shard_directory(host, route.gallery_id, number)
            if (refusal := _opens(directory, host, key)) is not None:
                yield fault(host, refusal)


def _checked(shard: ClosedShard, others: Sequence[ClosedShard], *, is_repair: bool) -> Iterator[tuple[Damage, bool]]:
    """(damage, whether it was mended) of one replica."""
    from shard.check import check_shard
    from shard.mending import Fetch, mend

    found = check_shard(shard)
    left = {_place(damage): damage for damage in found}
    if is_repair and found:
        sources: list[Fetch | None] = [_fetch(shard, other) for other in others]
        reasons = mend(shard, found, sources.pop(0) if sources else None)
        for fetch in sources:
            stuck = [damage for damage in reasons if not damage.is_mendable]
            reasons = stuck + mend(shard, [damage for damage in reasons if damage.is_mendable], fetch)
        # What counts is what is found now.
        left = {_place(damage): damage for damage in check_shard(shard)}
        left.update((_place(damage), damage) for damage in reasons if _place(damage) in left)
    yield from ((damage, True) for damage in found if _place(damage) not in left)
    yield from ((damage, False) for damage in left.values())


def _place(damage: Damage) -> tuple[object, ...]:
    """What tells one damage from another, whatever is said of it."""
    return damage.path, damage.part, damage.first_row, damage.last_row, damage.span


def _fetch(shard: ClosedShard, other: ClosedShard) -> Callable[[int, int], FloatArray]:
    """Rows of another replica's files, of a segment that is cut and sealed alike; CorruptData if it has none."""
    import numpy as np

    def fetch(first: int, last: int) -> FloatArray:
        own = next(row for row in shard.store.segments() if row.first_row <= first < row.first_row + row.rows)
        for row in other.store.segments():
            is_same = (row.segment, row.first_row) == (own.segment, own.first_row) and not row.is_dropped
            is_sealed = own.is_sealed and row.is_sealed
            if is_same and last <= row.first_row + row.rows and (not is_sealed or row.floats_crc == own.floats_crc):
                stored, width = other.files(row).stored_floats(), other.dim
                try:
                    data = stored.read((first - row.first_row) * width * 4, (last - first) * width * 4)
                except OSError as error:
                    raise CorruptData(f"{stored.path} cannot be read: {error}", path=str(stored.path)) from error
                return np.frombuffer(data, "<f4", len(data) // (width * 4) * width).reshape(-1, width)
        raise CorruptData(f"{other.directory} has no segment like segment {own.segment} of {shard.directory}")

    return fetch


def _restoring(host: Path, catalog: Catalog, route: GalleryRoute, key: bytes | None) -> Callable[[str], Any]:
    """Loads a search model, of which a file that is missing or damaged is first written again from the catalog."""
    from coordinator.host_models import HostModels
    from shard.model import SearchModel

    load = model_loader(host, key)

    def restore(model_id: str) -> SearchModel:
        with contextlib.suppress(FacegridError, OSError):
            if (model := load(model_id)).model_id == model_id:
                return model
        data = catalog.model_data(route.gallery_id, model_id)
        model = SearchModel.from_bytes(data)
        if model.model_id != model_id:
            raise CorruptData(f"the catalog has model {model.model_id} as {model_id}")
        with HostModels(host / "models", host.name).storing(data, key) as stored:
            return stored

    return restore


def _opens(directory: Path, host: Path, key: bytes | None) -> Damage | None:
    """Why a shard cannot be opened, None if it can."""
    from shard.shard import Shard

    try:
        Shard(directory, model_loader(host, key), key=key).close()
    except (FacegridError, OSError) as error:
        return _unopened(directory, error)
    return None


def _unopened(directory: Path, error: Exception) -> Damage:
    from shard.damage import Damage

    return Damage(directory, "database", f"it cannot be opened: {error}")


def _grid(faults: Sequence[Fault]) -> Grid:
    columns = ("gallery", "shard", "host", "part", "rows", "state", "file", "what")
    rows = [
        (
            fault.gallery,
            fault.shard,
            fault.host,
            fault.part,
            None if fault.first_row is None or fault.last_row is None else f"{fault.first_row}-{fault.last_row - 1}",
            "mended" if fault.is_mended else "mendable" if fault.is_mendable else "left",
            fault.path,
            fault.what,
        )
        for fault in faults
    ]
    return Grid(columns, rows)
