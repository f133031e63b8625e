"""A process that keeps a home open on Ray, to be killed: `python -m tests.job_home HOME ADDRESS`; says when it is."""

import sys

import numpy as np

from cluster import Cluster
from tests.service import faces_like

if __name__ == "__main__":
    with Cluster.open(sys.argv[1], runtime="ray", ray_address=sys.argv[2]) as grid:
        faces = grid.gallery("acme/faces", create=True, dim=64)
        rows = faces_like(600, 64)
        faces.enroll(np.concatenate([rows, rows[:200] + 0.01]), identities=[f"p{i % 600}" for i in range(800)])
        print("open", flush=True)
        sys.stdin.read()
