"""`facegrid doctor`: checks everything that can be wrong on this machine and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.checks import Finding, check_extras, check_home, check_models, check_native, check_python
from cluster.cli.exits import ExitCode
from cluster.cli.invocation import Invocation, invocation_of
from shard.errors import InvalidParameter


def doctor(
    context: typer.Context,
    is_deep: Annotated[
        bool, typer.Option("--deep", help="Read everything of every shard and compare checksums.")
    ] = False,
) -> None:
    """Check this installation and the home. Exits with 1 if a check fails; a warning is no failure."""
    invocation = invocation_of(context)
    if invocation.given.get("url") is not None:
        invocation.check_home("doctor")
    findings = list(_findings(invocation, is_deep))
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    invocation.output.result(
        {"is_healthy": not failed, "findings": [asdict(finding) for finding in findings]},
        *(_line(finding) for finding in findings),
        f"{len(findings)} checks: {failed} failed, {warned} with a warning",
    )
    raise typer.Exit(ExitCode.NEGATIVE if failed else ExitCode.OK)


def _findings(invocation: Invocation, is_deep: bool) -> Iterator[Finding]:
    yield from check_python()
    try:
        settings = invocation.settings()
    except InvalidParameter as error:
        yield Finding("settings", "fail", str(error), "correct it; docs/configuration.md lists the settings")
        return
    yield Finding("settings", "ok", f"runtime {settings.runtime}, home {settings.home.absolute()}")
    yield from check_native(settings.kernel)
    yield from check_extras(settings.runtime)
    embedders: set[str] = set()
    for found in check_home(settings, is_deep=is_deep):
        if isinstance(found, Finding):
            yield found
        elif found.embedder is not None:
            embedders.add(found.embedder)
    yield from check_models(settings, embedders)


def _line(finding: Finding) -> str:
    remedy = "" if finding.remedy is None else f"\n      -> {finding.remedy}"
    return f"{finding.status:4}  {finding.check}: {finding.detail}{remedy}"
