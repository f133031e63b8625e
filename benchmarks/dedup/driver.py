"""A process that runs one dedup job, to be measured or killed: `python -m benchmarks.dedup.driver HOME REQUEST`.

REQUEST, JSON: `parameters` of a new job of the gallery, or the `resume` of a job by its id; `ray` names a cluster. Says
what it does in lines of JSON: that the home is open and the job there, then how it ended.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.dedup.seeded import GALLERY
from benchmarks.resident import resident
from cluster import Cluster


def main() -> None:
    """See above."""
    home, request = sys.argv[1], json.loads(sys.argv[2])
    options = {"runtime": "ray", "ray_address": request["ray"]} if request.get("ray") else {}
    with Cluster.open(home, **options) as grid:
        idle = resident().anonymous
        began = time.perf_counter()
        job_id = request.get("resume") or grid.jobs.submit("dedup", GALLERY, request["parameters"]).job_id
        _say({"job_id": job_id, "idle_anonymous": idle})
        done = grid.jobs.run(job_id)
        found: dict[str, Any] = {"state": done.state.value, "seconds": time.perf_counter() - began, "error": done.error}
        if done.state.value == "succeeded":
            result = grid.jobs.result(job_id)
            found |= {"files": list(result.files), "phases": result.run["attempts"][-1]["phases"]}
        _say(found)


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
