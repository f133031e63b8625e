"""`facegrid serve`: the HTTP service on an open home."""

from __future__ import annotations

import contextlib
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
    from cluster.service.embedder_group import EmbedderOptions
    from cluster.service.process import GatewayOptions
    from cluster.service.serve import Service

OPERATOR_KEY = "operator.key"
"""File in the home that holds the first operator key, mode 0600."""


def serve(
    context: typer.Context,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; 127.0.0.1, or of each gateway's node with --follow-nodes."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for one that is free.")] = 8080,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="TLS certificate.")] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
    snapshot_store: Annotated[
        str | None, typer.Option(metavar="URL", help="Where tenants' snapshots go; without it they can make none.")
    ] = None,
    gateways: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Gateway actors, with --runtime ray; 1 unless nodes are followed."),
    ] = None,
    embedders: Annotated[
        int, typer.Option(min=0, max=1024, help="Actors that embed photos, with --runtime ray; 0: the gateways do.")
    ] = 0,
    max_embedders: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Up to so many while photos wait; as many as --embedders if not given."),
    ] = None,
    embedder_gpus: Annotated[float, typer.Option(min=0, max=64, help="GPUs of each embedder.")] = 0.0,
    follow_nodes: Annotated[
        bool,
        typer.Option(
            "--follow-nodes",
            help="A gateway on each node that offers `facegrid_gateway`, embedders on those that offer"
            " `facegrid_embedder`, as nodes come and go; by default if one does at the start.",
            show_default=False,
        ),
    ] = False,
    detached: Annotated[
        bool | None,
        typer.Option(
            "--detached/--no-detached",
            help="Leave all actors running at the end, with --runtime ray.",
            show_default=False,
        ),
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Logs as JSON lines on stderr.")] = False,
) -> None:
    """Serve the home's galleries over HTTP, until SIGTERM or Ctrl-C.

    The first time, a key of the operator is made and written to `operator.key` in the home.
    """
    invocation = invocation_of(context).with_settings(ray_detached=detached)
    most = embedders if max_embedders is None else max_embedders
    if embedder_gpus and not most:
        raise InvalidParameter("--embedder-gpus: expected with --embedders, got none")
    if most < embedders:
        raise InvalidParameter(f"--max-embedders: expected at least as many as --embedders, {embedders}; got {most}")
    if (certificate is None) != (private_key is None):
        raise InvalidParameter("expected --certificate and --private-key together, got one of them")
    try:
        from cluster.service.embedder_group import EmbedderOptions, offers_embedders
        from cluster.service.logs import log_json
        from cluster.service.process import GatewayOptions
        from cluster.service.serve import Listen
        from cluster.service.serve import serve as run
    except ImportError as error:
        raise MissingExtra(f"the service needs {error.name}; pip install 'facegrid[service]'") from error
    if json_logs:
        invocation.output.release_logs()
        log_json()
    listen = Listen("127.0.0.1" if host is None else host, port, _text(certificate), _text(private_key))
    with invocation.home("serve", create=True, may_join=False) as grid:
        keyed = _first_key(grid)
        if grid.ray is None:
            if gateways not in (None, 1) or most or follow_nodes:
                raise InvalidParameter(
                    "--gateways, --embedders, --follow-nodes: expected none of them where the shards are in this"
                    " process; see --runtime ray"
                )
            run(grid, listen, snapshot_store=snapshot_store, ready=lambda service: _tell(invocation, service, keyed))
            return
        if _follows(grid, gateways, follow_nodes):
            listen, gateways = replace(listen, host=host or "", is_shared=port != 0), None
        else:
            gateways = gateways or 1
            listen = replace(listen, is_shared=gateways > 1)
        options = GatewayOptions(listen, gateways, snapshot_store, json_logs, has_embedders=most > 0)
        wanted = EmbedderOptions(embedders, most, embedder_gpus, follow_nodes or offers_embedders(grid))
        _serve_on_ray(invocation, grid, options, wanted, keyed)


def _follows(grid: Cluster, gateways: int | None, follow_nodes: bool) -> bool:
    """Whether there is to be a gateway on each node that offers to run one. InvalidParameter for a number of them."""
    from cluster.service.gateways import offers_gateways

    if follow_nodes and gateways is not None:
        raise InvalidParameter(f"--gateways: expected none with --follow-nodes, got {gateways}")
    return follow_nodes or (gateways is None and offers_gateways(grid))


def _serve_on_ray(
    invocation: Invocation, grid: Cluster, options: GatewayOptions, wanted: EmbedderOptions, keyed: Path | None
) -> None:
    """Start the embedders and the gateways, and wait for a signal."""
    from cluster.service.embedder_group import Embedders
    from cluster.service.gateways import Gateways

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    grid.jobs.start()
    with contextlib.ExitStack() as looking:
        # Where there are to be none, those that another process has left are ended.
        embedders = Embedders(grid, wanted) if wanted.most or grid.settings.ray_detached else None
        gateways = looking.enter_context(contextlib.closing(Gateways(grid, options)))
        if embedders is not None:
            looking.enter_context(contextlib.closing(embedders)).follow(gateways.photos)
        urls, count = gateways.urls, len(gateways.states())
        document = {
            "urls": urls,
            "gateways": count,
            "embedders": wanted.fewest,
            "operator_key_file": None if keyed is None else str(keyed),
        }
        made = "" if keyed is None else f"; the operator's key is in {keyed}"
        where = ", ".join(urls) if urls else "nodes that offer facegrid_gateway, as they come,"
        invocation.output.result(document, f"serving on {where} by {count} gateways{made}")
        stopped.wait()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _first_key(grid: Cluster) -> Path | None:
    """Make the operator's key if there is none at all; the file that it was written to."""
    if any(key.allows("admin", None) for key in grid.tenants.keys(None)):
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
