"""`facegrid cluster status | drain | undrain | leave | compare | stop`: shard hosts and the replicas that they hold."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid, time_text
from shard.errors import InvalidParameter

if TYPE_CHECKING:
    from cluster.results import HostStatus, ShardReplicas

app = typer.Typer(name="cluster", help="Show and drain shard hosts, compare replicas.", no_args_is_help=True)

HostName = Annotated[str, typer.Argument(metavar="HOST", help="Shard host, by its name.", show_default=False)]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is done.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="The longest to wait; no limit if not given.")]


@app.command("status")
def show(context: typer.Context) -> None:
    """Show the shard hosts, the shards that lack replicas, and what is being copied."""
    invocation = invocation_of(context)
    with invocation.cluster() as grid:
        hosts, shards = grid.hosts(), grid.replicas()
    lacking = [shard for shard in shards if shard.missing]
    copying = [(shard.gallery, shard.shard, host) for shard in shards for host in shard.joining]
    document = {
        "hosts": [asdict(host) for host in hosts],
        "shards": len(shards),
        "lacking": [{**asdict(shard), "missing": shard.missing} for shard in lacking],
        "copying": [{"gallery": gallery, "shard": shard, "host": host} for gallery, shard, host in copying],
    }
    shown: list[str | Grid] = [_hosts_grid(hosts)]
    if lacking:
        shown += [f"{len(lacking):,} of {len(shards):,} shards lack replicas:", _lacking_grid(lacking)]
    else:
        shown.append(f"all of {len(shards):,} shards have their replicas in sync")
    if copying:
        shown += ["being copied:", Grid(("gallery", "shard", "to"), copying)]
    invocation.output.result(document, *shown)


@app.command()
def drain(context: typer.Context, host: HostName, is_not_awaited: NoWait = False, timeout: Timeout = None) -> None:
    """Empty a shard host: its replicas are copied to other hosts, then removed. It stays empty until undrained."""
    from cluster.progress import show_progress

    invocation = invocation_of(context)
    _check_waiting(is_not_awaited, timeout)
    with (
        invocation.home("cluster drain") as grid,
        show_progress(invocation.output.wants_progress, f"draining {host}") as tell,
    ):
        held = grid.drain(host, progress=tell, timeout_s=timeout, wait=not is_not_awaited)
        (now,) = [status for status in grid.hosts() if status.host == host]
    document = {"host": host, "state": now.state, "replicas": held, "left": now.replicas}
    if now.replicas:
        shown = f"{host} is {now.state}; {now.replicas:,} replicas are to leave it while the home is open"
    else:
        shown = f"{host} is {now.state} and empty; {held:,} replicas left it"
    invocation.output.result(document, shown)


@app.command()
def undrain(context: typer.Context, host: HostName) -> None:
    """Have a drained shard host hold shards again."""
    invocation = invocation_of(context)
    with invocation.home("cluster undrain") as grid:
        grid.undrain(host)
        (now,) = [status for status in grid.hosts() if status.host == host]
    invocation.output.result({"host": host, "state": now.state}, f"{host} is {now.state}")


@app.command()
def leave(
    context: typer.Context,
    host: HostName,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1.0, help="The longest to take.")] = 60.0,
) -> None:
    """Have a shard host close in order because its node is about to stop; other hosts go on without it meanwhile."""
    from coordinator.leave import leave as close

    invocation = invocation_of(context)
    address, home_id = _detached(invocation, "cluster leave")
    left = close(address, host, home_id, timeout_s=timeout)
    if left.missed is None:
        shown = f"{host} has closed; the coordinator could not be told: {left.fault}"
    else:
        shown = f"{host} has closed; others go on without {left.missed:,} of its replicas until it is back"
    invocation.output.result({"host": host, "missed": left.missed, "fault": left.fault}, shown)


@app.command()
def stop(context: typer.Context) -> None:
    """End the actors that a home left running on Ray (see the setting ray_detached), in order."""
    from coordinator.home import Home
    from coordinator.ray_stop import stop_home

    invocation = invocation_of(context)
    address, home_id = _detached(invocation, "cluster stop")
    # Whoever has the home open would start them anew: HomeLocked says that he is to end first.
    with contextlib.closing(Home(invocation.settings().home)):
        ended = stop_home(address, home_id)
    invocation.output.result({"ended": ended}, f"ended {len(ended):,} actors" if ended else "nothing was running")


@app.command()
def compare(context: typer.Context, is_not_awaited: NoWait = False, timeout: Timeout = None) -> None:
    """Compare the replicas of each shard; one that differs is copied anew. Exits with 1 if one did."""
    invocation = invocation_of(context)
    _check_waiting(is_not_awaited, timeout)
    with invocation.home("cluster compare") as grid:
        found = grid.compare(timeout_s=timeout, wait=not is_not_awaited)
    shown = found or ["the replicas of each shard are alike"]
    invocation.output.result({"differing": found}, *shown)
    raise typer.Exit(ExitCode.NEGATIVE if found else ExitCode.OK)


def _detached(invocation: Invocation, verb: str) -> tuple[str, str]:
    """The Ray cluster of the settings, and the id of their home."""
    from coordinator.actors import LOCAL
    from coordinator.home import home_id_of

    invocation.check_home(verb)
    settings = invocation.settings()
    if settings.ray_address == LOCAL:
        raise InvalidParameter(f"{verb}: expected --ray-address HOST:PORT of the Ray cluster, got {LOCAL!r}")
    return settings.ray_address, home_id_of(settings.home)


def _check_waiting(is_not_awaited: bool, timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise InvalidParameter(f"--timeout: expected a number of seconds above 0, got {timeout:g}")
    if timeout is not None and is_not_awaited:
        raise InvalidParameter("expected --timeout or --no-wait, got both")


def _hosts_grid(hosts: list[HostStatus]) -> Grid:
    columns = ("host", "state", "since", "replicas", "primaries")
    rows = [(host.host, host.state, time_text(host.since), host.replicas, host.primaries) for host in hosts]
    return Grid(columns, rows)


def _lacking_grid(lacking: list[ShardReplicas]) -> Grid:
    columns = ("gallery", "shard", "in sync", "on", "joining")
    rows = [
        (
            shard.gallery,
            shard.shard,
            f"{len(shard.in_sync)} of {shard.wanted}",
            ", ".join(shard.in_sync),
            ", ".join(shard.joining) or None,
        )
        for shard in lacking
    ]
    return Grid(columns, rows)
