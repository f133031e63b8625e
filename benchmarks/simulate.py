"""A thousand hosts and a billion templates in virtual time, from measured costs.

    python -m benchmarks.simulate --measure      # times the primitives on this machine (a minute or two)
    python -m benchmarks.simulate                # simulates, writes the figures, the drawing and the tables of the page

Costs are in `benchmarks/results/simulation-costs.json` and in the files of the engine benchmark; figures go to
`benchmarks/results/simulation.json`, the drawing beside it, the tables into `docs/sizing.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.engine.machine import describe
from benchmarks.simulation import draw, page, scenarios
from benchmarks.simulation.costs import COSTS, RESULTS, load
from benchmarks.simulation.measure import measure, measure_join


def main() -> None:
    """Measure, or simulate and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time the primitives here instead of simulating")
    parser.add_argument("--measure-join", action="store_true", help="time the join of dedup again, and nothing else")
    parser.add_argument("--page", action="store_true", help="write the page again from the figures that are there")
    options = parser.parse_args()
    if options.measure:
        _write(COSTS, measure())
        return
    if options.measure_join:
        # One machine's costs must not be mixed with another's.
        known = json.loads(COSTS.read_text())
        if known["machine"]["cpu"] != describe()["cpu"]:
            parser.error(f"the other costs are of another machine, {known['machine']['cpu']}: use --measure")
        _write(COSTS, {**known, "join": measure_join()})
        return
    costs = load()
    if not options.page:
        _write(RESULTS / "simulation.json", scenarios.run(costs))
    figures = json.loads((RESULTS / "simulation.json").read_text())
    page.write(costs, figures)
    draw.draw(figures, RESULTS / "simulation.svg")


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
