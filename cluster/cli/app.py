"""The root of the command line: global options, the list of commands, and options that may stand anywhere."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Annotated, Any

import typer
import typer.main

from cluster.cli import (
    bench,
    calibration,
    cluster,
    dedup,
    doctor,
    enroll,
    erasure,
    exchange,
    find,
    fsck,
    galleries,
    identities,
    jobs,
    k8s,
    keys,
    models,
    search,
    serve,
    snapshots,
    status,
    templates,
    tenants,
    training,
)
from cluster.cli.invocation import Invocation, invocation_of
from cluster.cli.output import Output

_app = typer.Typer(
    name="facegrid",
    help="Face search in sharded galleries. Global options may stand before or after the command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_app.add_typer(galleries.app, name="gallery")
_app.add_typer(tenants.app, name="tenant")
_app.add_typer(keys.app, name="key")
_app.add_typer(cluster.app, name="cluster")
_app.add_typer(jobs.app, name="jobs")
_app.add_typer(dedup.app, name="dedup")
_app.add_typer(k8s.app, name="k8s")
_app.add_typer(snapshots.app, name="snapshot")
_app.add_typer(models.app, name="models")
_app.add_typer(bench.app, name="bench")
_app.add_typer(training.app, name="rollout")
_app.add_typer(identities.app, name="identity")
for _verb in (
    enroll.enroll,
    search.search,
    search.verify,
    find.find,
    templates.update,
    templates.delete,
    identities.identities,
    training.train,
    calibration.calibrate,
    calibration.calibration,
    status.status,
    doctor.doctor,
    fsck.fsck,
    serve.serve,
):
    _app.command()(_verb)
_app.command("list")(templates.list_templates)
_app.command("import")(exchange.import_file)
_app.command("export")(exchange.export_file)
_app.command("erasure-report")(erasure.erasure_report)
_app.command()(erasure.compact)
_app.command()(tenants.audit)


def version_text() -> str:
    """Facegrid's version and Python's."""
    return f"facegrid {facegrid_version()} (Python {platform.python_version()})"


def facegrid_version() -> str:
    """Version of the installed distribution."""
    try:
        return metadata.version("facegrid")
    except metadata.PackageNotFoundError:
        return "unknown (run from its source, not installed)"


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(version_text())
        raise typer.Exit


@_app.command()
def version(context: typer.Context) -> None:
    """Print the version."""
    document = {"version": facegrid_version(), "python": platform.python_version()}
    invocation_of(context).output.result(document, version_text())


@_app.callback()
def _root(
    context: typer.Context,
    home: Annotated[str | None, typer.Option(metavar="PATH", help="Home directory of galleries.")] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Service to work on, instead of a home.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="API key; others here can read it, rather use --key-file.")
    ] = None,
    key_file: Annotated[str | None, typer.Option(metavar="PATH", help="File with the API key.")] = None,
    runtime: Annotated[str | None, typer.Option(metavar="local|ray", help="Where shard hosts run.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster to join, or `local` to start one here.")
    ] = None,
    shard_hosts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Shard hosts in this process, or on a Ray that Facegrid starts itself."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="PATHS", help="Directories with network files, separated by `:`.")
    ] = None,
    detector: Annotated[str | None, typer.Option(metavar="NAME", help="Face detector of the registry.")] = None,
    embedder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Face embedder of the registry; the gallery's own if not given.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(metavar="NAME", help="SIMD kernel; the fastest if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")] = False,
    is_quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")] = False,
    verbosity: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say what happens; twice for all of it.")
    ] = 0,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    output = Output(as_json=as_json, is_quiet=is_quiet, verbosity=verbosity)
    output.capture_logs()
    given = {
        "home": home,
        "url": url,
        "key": key,
        "key_file": key_file,
        "runtime": runtime,
        "ray_address": ray_address,
        "shard_hosts": shard_hosts,
        "models": models,
        "detector": detector,
        "embedder": embedder,
        "kernel": kernel,
    }
    context.obj = Invocation(output, given)


@cache
def command() -> Any:
    """The whole command tree, as Typer's Click command."""
    return typer.main.get_command(_app)


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The arguments with global options moved to the front, so that they may stand after the command too.

    Everything after `--` stays where it is.
    """
    flags = {"--json", "--quiet", "-q", "--verbose"}
    valued = {name for option in command().params for name in option.opts} - flags - {"-v", "--version", "--help", "-h"}
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in flags or re.fullmatch(r"-v+", word) or word.partition("=")[0] in valued - {word}:
            front.append(word)
        elif word in valued:
            value = next(words, None)
            if value is None:
                return [*front, word]  # which Click complains about
            front += [word, value]
        else:
            rest.append(word)
    return [*front, *rest]
