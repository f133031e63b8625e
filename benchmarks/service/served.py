"""The service under test: `facegrid serve` in a process of its own, tenants, keys and galleries made over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgpack  # type: ignore[import-untyped]

from benchmarks.service.workload import MSGPACK, Workload, identity, packed, row_of, search_body, template_id
from benchmarks.service.wrk import Target

_SOURCE = Path(__file__).resolve().parents[2]
STOP_S = 30
_ENROLL = 5_000
"""Templates of one request."""


class ServiceFailed(Exception):
    """It did not start, or answered what it should not; the message says what."""


class Served:
    """A running service on a fresh home. A context manager: it is stopped by SIGTERM, and killed if that fails."""

    def __init__(self, home: Path, log: Path) -> None:
        """Start it and wait until it listens; ServiceFailed."""
        command = [sys.executable, "-m", "cluster.cli", "--home", str(home), "--json", "serve", "--port", "0"]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=_SOURCE)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()  # ends with the process, so this cannot wait for ever
        if not said.strip():
            self.stop()
            raise ServiceFailed(f"facegrid serve ended with {self.process.returncode}: {log.read_text()[-800:]}")
        told = json.loads(said)
        self.url: str = told["url"]
        self._operator = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {Path(told['operator_key_file']).read_text().strip()}"},
            timeout=300,
        )

    def tenant(self, name: str) -> str:
        """Make a tenant; a key of it that may read and write."""
        self._post("/v1/tenants", {"name": name})
        made = self._post(f"/v1/tenants/{name}/keys", {"name": "benchmark", "scopes": ["write"]})
        secret: str = made["secret"]
        return secret

    def fill(self, gallery: str, workload: Workload, shards: int) -> float:
        """Make a gallery, enroll every row and train it; templates enrolled a second, durable, over HTTP."""
        body = {"name": gallery, "dim": workload.rows.shape[1], "shards": shards}
        self._post("/v1/galleries", body)
        path, spent = f"/v1/galleries/{gallery}", 0.0
        for begin in range(0, len(workload.rows), _ENROLL):
            stop = min(len(workload.rows), begin + _ENROLL)
            payload = msgpack.packb(
                {
                    "embeddings": packed(workload.rows[begin:stop]),
                    "template_ids": [template_id(row) for row in range(begin, stop)],
                    "identities": [identity(int(person)) for person in workload.people[begin:stop]],
                }
            )
            since = time.perf_counter()
            answer = self._operator.post(f"{path}/faces", content=payload, headers={"Content-Type": MSGPACK})
            spent += time.perf_counter() - since
            _checked(answer)
        self._post(f"{path}/train", {})
        self._post(f"{path}/flush", {})
        return len(workload.rows) / spent

    def target(self, gallery: str, key: str, kind: str) -> Target:
        """Where searches of a gallery go."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        headers = {"Authorization": f"Bearer {key}", "Content-Type": kind, "Accept": kind}
        return Target(parts.hostname, parts.port, f"/v1/galleries/{gallery}/search", headers)

    def found(self, gallery: str, workload: Workload, probes: int, k: int, **options: Any) -> list[list[int]]:
        """Rows found for the first probes, one request each."""
        answers = []
        for i in range(probes):
            body = search_body(workload.probes[i : i + 1], k, MSGPACK, **options)
            headers = {"Content-Type": MSGPACK, "Accept": MSGPACK}
            answer = self._operator.post(f"/v1/galleries/{gallery}/search", content=body, headers=headers)
            _checked(answer)
            answers.append([row_of(name) for name in msgpack.unpackb(answer.content)["template_ids"][0]])
        return answers

    def cpu_s(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return _checked(self._operator.post(path, json=body))

    def stop(self) -> None:
        """Stop it in order, or by force after STOP_S."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._operator.close()
        self.stop()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _checked(answer: httpx.Response) -> Any:
    if answer.status_code >= 300:
        raise ServiceFailed(f"{answer.request.url}: {answer.status_code} {answer.text[:300]}")
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.json() if is_json else None
