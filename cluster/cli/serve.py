"""`facegrid serve`: the HTTP service on an open home."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.invocation import Invocation, invocation_of
from shard.errors import InvalidParameter, MissingExtra

if TYPE_CHECKING:
    from cluster.api import Cluster
    from cluster.service.process import GatewayOptions
    from cluster.service.serve import Service

OPERATOR_KEY = "operator.key"
"""File in the home that holds the first operator key, mode 0600."""


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for one that is free.")] = 8080,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="TLS certificate.")] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    snapshot_store: Annotated[
        str | None, typer.Option(metavar="URL", help="Where tenants' snapshots go; without it they can make none.")
    ] = None,
    gateways: Annotated[int, typer.Option(min=1, max=1024, help="Gateway actors, with --runtime ray.")] = 1,
    embedders: Annotated[
        int, typer.Option(min=0, max=1024, help="Actors that embed photos, with --runtime ray; 0: the gateways do.")
    ] = 0,
    embedder_gpus: Annotated[float, typer.Option(min=0, max=64, help="GPUs of each embedder.")] = 0.0,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Logs as JSON lines on stderr.")] = False,
) -> None:
    """Serve the home's galleries over HTTP, until SIGTERM or Ctrl-C.

    The first time, a key of the operator is made and written to `operator.key` in the home.
    """
    invocation = invocation_of(context)
    if embedder_gpus and not embedders:
        raise InvalidParameter("--embedder-gpus: expected with --embedders, got none")
    if (certificate is None) != (private_key is None):
        raise InvalidParameter("expected --certificate and --private-key together, got one of them")
    try:
        from cluster.service.logs import log_json
        from cluster.service.process import GatewayOptions
        from cluster.service.serve import Listen
        from cluster.service.serve import serve as run
    except ImportError as error:
        raise MissingExtra(f"the service needs {error.name}; pip install 'facegrid[service]'") from error
    if json_logs:
        log_json()
    listen = Listen(host, port, _text(certificate), _text(private_key), is_shared=gateways > 1)
    with invocation.home("serve", create=True) as grid:
        keyed = _first_key(grid)
        grid.jobs.start()
        if grid.ray is not None:
            options = GatewayOptions(listen, gateways, snapshot_store, json_logs)
            _serve_on_ray(invocation, grid, options, keyed, embedders, embedder_gpus)
            return
        if gateways > 1 or embedders:
            raise InvalidParameter(
                "--gateways, --embedders: expected 1 and 0 where the shards are in this process; see --runtime ray"
            )
        run(grid, listen, snapshot_store=snapshot_store, ready=lambda service: _tell(invocation, service, keyed))


def _serve_on_ray(
    invocation: Invocation, grid: Cluster, options: GatewayOptions, keyed: Path | None, embedders: int, gpus: float
) -> None:
    """Start the embedders and the gateways, and wait for a signal."""
    from cluster.service.embedders import Embedders
    from cluster.service.gateways import Gateways

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    if embedders:
        options = replace(options, embedders=Embedders(grid, embedders, gpus=gpus).names)
    scheme = "http" if options.listen.certificate is None else "https"
    urls = sorted({f"{scheme}://{host}:{port}" for host, port in Gateways(grid, options).addresses})
    made = "" if keyed is None else f"; the operator's key is in {keyed}"
    document = {
        "urls": urls,
        "gateways": options.gateways,
        "embedders": embedders,
        "operator_key_file": None if keyed is None else str(keyed),
    }
    grid.jobs.start()
    invocation.output.result(document, f"serving on {', '.join(urls)} by {options.gateways} gateways{made}")
    stopped.wait()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _first_key(grid: Cluster) -> Path | None:
    """Make the operator's key if there is none at all; the file that it was written to."""
    if grid.tenants.keys(None):
        return None
    _, secret = grid.tenants.create_key(None, "first operator", scopes=("admin",))
    path = grid.home.directory / OPERATOR_KEY
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{secret}\n")
    return path


def _tell(invocation: Invocation, service: Service, keyed: Path | None) -> None:
    """One line (or document) when it listens, for people and for who started it."""
    made = "" if keyed is None else f"; the operator's key is in {keyed}"
    document = {"url": service.url, "operator_key_file": None if keyed is None else str(keyed)}
    invocation.output.result(document, f"serving on {service.url}{made}")
