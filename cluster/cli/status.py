"""`facegrid status`: the home as it is now."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Grid

if TYPE_CHECKING:
    from cluster.client import RemoteCluster


def status(context: typer.Context) -> None:
    """Show the home, its runtime, shard hosts and galleries, the kernel in use and versions; or a service."""
    from cluster.cli.app import facegrid_version
    from cluster.cli.galleries import gallery_grid
    from shard.index import kernel

    invocation = invocation_of(context)
    with invocation.service() as service:
        if service is not None:
            _service(invocation, service)
            return
    with invocation.home("status") as grid:
        galleries = [gallery.stats() for gallery in grid.galleries()]
        document: dict[str, Any] = {
            "home": grid.home.directory,
            "home_id": grid.home.home_id,
            "runtime": grid.settings.runtime,
            "hosts": list(grid.coordinator.hosts()),
            "host_states": {host.host: host.state for host in grid.hosts()},
            "kernel": kernel(),
            "version": facegrid_version(),
            "python": platform.python_version(),
            "templates": sum(stats.templates for stats in galleries),
            "galleries": [asdict(stats) for stats in galleries],
        }
    hosts = ", ".join(f"{host} ({state})" for host, state in document["host_states"].items())
    facts = [(key, str(value)) for key, value in document.items() if not isinstance(value, (list, dict))]
    galleries_shown = gallery_grid(galleries) if galleries else "no galleries"
    invocation.output.result(document, Grid(("", ""), [*facts, ("hosts", hosts)]), galleries_shown)


def _service(invocation: Invocation, service: RemoteCluster) -> None:
    """What a key sees of a service."""
    from cluster.cli.app import facegrid_version
    from cluster.cli.galleries import gallery_grid

    who = service.whoami()
    galleries = [gallery.stats() for gallery in service.galleries()]
    document: dict[str, Any] = {
        "url": service.url,
        "key": who,
        "version": facegrid_version(),
        "python": platform.python_version(),
        "templates": sum(stats.templates for stats in galleries),
        "galleries": [asdict(stats) for stats in galleries],
    }
    facts = [(name, str(value)) for name, value in document.items() if not isinstance(value, (list, dict))]
    facts += [(f"key {name}", ", ".join(v) if isinstance(v, list) else str(v)) for name, v in who.items()]
    invocation.output.result(document, Grid(("", ""), facts), gallery_grid(galleries) if galleries else "no galleries")
