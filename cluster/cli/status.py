"""`facegrid status`: the home as it is now."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import typer

from cluster.cli.invocation import invocation_of
from cluster.cli.output import Grid


def status(context: typer.Context) -> None:
    """Show the home, its runtime, shard hosts and galleries, the kernel in use and versions."""
    from cluster.cli.app import facegrid_version
    from cluster.cli.galleries import gallery_grid
    from shard.index import kernel

    invocation = invocation_of(context)
    with invocation.cluster() as grid:
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
