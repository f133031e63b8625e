"""A client of a service is light: it loads neither engine nor service, nor anything but NumPy, httpx and msgpack."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys

BLOCKED = {
    "click", "cv2", "fastapi", "onnxruntime", "opentelemetry", "orjson", "prometheus_client", "pyarrow", "pydantic",
    "ray", "rich", "sqlalchemy", "starlette", "typer", "uvicorn",
}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())

import asyncio
from cluster import AsyncCluster, Cluster, FacegridError, RemoteCluster
from cluster.client import RetryPolicy

never = RetryPolicy(attempts=1)
with Cluster.connect("http://127.0.0.1:9", "key", retry=never) as grid:
    assert isinstance(grid, RemoteCluster)
    try:
        grid.gallery("acme/staff")
    except FacegridError as error:
        print(error.code)

async def main():
    async with AsyncCluster.connect("http://127.0.0.1:9", retry=never) as grid:
        try:
            await grid.gallery("acme/staff")
        except FacegridError as error:
            print(error.code)

asyncio.run(main())
heavy = {"coordinator.catalog", "coordinator.coordinator", "coordinator.router", "cluster.api", "cluster.gallery"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_client_needs_numpy_httpx_and_msgpack_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:3] == ["host_unavailable", "host_unavailable", "[]"]
    assert done.returncode == 0
