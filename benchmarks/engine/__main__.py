"""`python -m benchmarks.engine`: the engine benchmark; `facegrid bench engine` has the same options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.engine.command import execute, print_report
from benchmarks.engine.options import DATA, DEFAULT_RECALLS, RESULTS, Options, named_peers, named_shapes, recalls_of
from shard.errors import FacegridError, InvalidInput


def parse(arguments: Sequence[str] | None = None) -> tuple[Options, bool]:
    """Options of a command line, and whether to print JSON; exits with 2 if they do not parse. InvalidParameter."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.partition(":")[2].strip())
    parser.add_argument("--n", type=int, default=20_000, help="templates of the synthetic galleries (default 20000)")
    parser.add_argument(
        "--shape", default="both", help="photos of each person: one, twenty, both, or none (with --real)"
    )
    parser.add_argument("--real", action="store_true", help="the real embeddings of LFW too")
    parser.add_argument("--peers", help="names, separated by commas (default: all)")
    parser.add_argument(
        "--recalls", default=",".join(map(str, DEFAULT_RECALLS)), help="recall@1 that peers are tuned to"
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds of timing (default 3)")
    parser.add_argument("--k", type=int, default=10, help="candidates of a search, 1 to 10 (default 10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="of one timing in one round (default: by n)")
    parser.add_argument("--max-build-seconds", type=float, default=600.0, help="a peer that takes longer is not built")
    parser.add_argument("--json", type=Path, help="where the results go (default: benchmarks/results/engine-<n>.json)")
    parser.add_argument(
        "--charts", type=Path, default=RESULTS, help="folder for the charts (default: benchmarks/results)"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds lfw/, for --real")
    parser.add_argument("--work", type=Path, help="folder that keeps galleries and exact answers for the next run")
    parser.add_argument("--print-json", action="store_true", help="print the JSON document instead of tables")
    given = vars(parser.parse_args(arguments))
    shapes, peers = named_shapes(given.pop("shape")), named_peers(given.pop("peers"))
    recalls, is_real = recalls_of(given.pop("recalls")), given.pop("real")
    wants_json = given.pop("print_json")
    options = Options(shapes=shapes, peers=peers, recalls=recalls, is_real=is_real, **given)
    return options, wants_json


def main() -> None:
    """Run, with the steps on stderr and the report on stdout. Exits with 2 if the options are at fault, 1 otherwise."""
    try:
        options, wants_json = parse()
        result = execute(options, lambda text: print(text, file=sys.stderr, flush=True))
    except FacegridError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    if wants_json:
        print(json.dumps(asdict(result)))
    else:
        print_report(result)


if __name__ == "__main__":
    main()
