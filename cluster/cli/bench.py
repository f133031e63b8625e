"""`facegrid bench engine`: the engine benchmark of the source tree, run as a program of its own.

Nothing in the product imports `benchmarks`, and the wheel leaves it out; this command finds it beside the product, or
says where to get it. The benchmark starts and measures processes, so it begins in a fresh one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.invocation import Invocation, invocation_of
from shard.errors import FacegridError, InvalidParameter, MissingExtra

app = typer.Typer(name="bench", help="Measure Facegrid beside other libraries.", no_args_is_help=True)

_PROGRAM = "benchmarks.engine"
_INVALID = 2  # what the program exits with when its options are at fault


@app.command()
def engine(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where the results go, as JSON.")] = None,
    n: Annotated[int | None, typer.Option(metavar="N", help="Templates of the synthetic galleries; 20,000.")] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="SHAPE", help="Photos of each person: one, twenty, both, none; both.")
    ] = None,
    is_real: Annotated[bool, typer.Option("--real", help="The real embeddings of LFW too.")] = False,
    peers: Annotated[str | None, typer.Option(metavar="NAMES", help="Separated by commas; all.")] = None,
    recalls: Annotated[
        str | None, typer.Option(metavar="RECALLS", help="recall@1 that peers are tuned to; 0.99,0.998.")
    ] = None,
    runs: Annotated[int | None, typer.Option(metavar="N", help="Rounds of timing; 3.")] = None,
    k: Annotated[int | None, typer.Option("--k", metavar="N", help="Candidates of a search, 1 to 10; 10.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of galleries and probes; 1.")] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Of one timing in one round; by N if not given.")
    ] = None,
    max_build_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="A peer that takes longer is not built; 600.")
    ] = None,
    charts: Annotated[Path | None, typer.Option(metavar="FOLDER", help="For the charts; benchmarks/results.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Holds lfw/, for --real.")] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keeps galleries and exact answers for the next run.")
    ] = None,
) -> None:
    """Measure the engine beside its peers, on the same data and at equal recall. Needs the source tree."""
    given = {
        "--json": file,
        "--n": n,
        "--shape": shape,
        "--peers": peers,
        "--recalls": recalls,
        "--runs": runs,
        "--k": k,
        "--seed": seed,
        "--seconds": seconds,
        "--max-build-seconds": max_build_seconds,
        "--charts": charts,
        "--data": data,
        "--work": work,
    }
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    _run(invocation_of(context), [*options, *(["--real"] if is_real else [])])


def _run(invocation: Invocation, options: list[str]) -> None:
    """Run the program: its steps become notes; its tables, or in JSON mode its document, the result."""
    output = invocation.output
    command = [sys.executable, "-m", _PROGRAM, *options, *(["--print-json"] if output.as_json else [])]
    _check_program()
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE if output.as_json else None, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last = line.rstrip("\n") or last
            output.note(line.rstrip("\n"))
        document = process.stdout.read() if process.stdout is not None else ""
    if process.returncode == _INVALID:
        raise InvalidParameter(last)
    if process.returncode:
        raise FacegridError(f"the benchmark ended with {process.returncode}: {last}")
    if output.as_json:
        output.result(json.loads(document))


def _check_program() -> None:
    try:
        is_here = importlib.util.find_spec(_PROGRAM) is not None
    except ModuleNotFoundError:
        is_here = False
    if not is_here:
        raise MissingExtra(
            "the benchmarks are in the source tree and not in the wheel: in a clone of the repository, install with "
            "`pip install -e '.[bench]'` and run this again, or `make bench-engine`"
        )
