"""The command line, `facegrid`: one module per group of commands, `main` the entry point.

Translates arguments to calls of `cluster` and results to tables or JSON; decides nothing about faces or galleries.
Commands import the engine when they run, so that `facegrid --help` is quick.
"""

from __future__ import annotations

from cluster.cli.run import main, run

__all__ = ["main", "run"]
