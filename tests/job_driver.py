"""A process that opens a home and runs one job, to be killed: `python -m tests.job_driver HOME JOB_ID`."""

import sys

from cluster import Cluster
from tests.job_kinds import register_kinds

if __name__ == "__main__":
    register_kinds()
    with Cluster.open(sys.argv[1]) as grid:
        print(grid.jobs.run(sys.argv[2]).state.value)
