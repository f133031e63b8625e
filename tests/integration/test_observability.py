"""Metrics, traces and logs of a running service."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from cluster.service.gateway import Gateway
from cluster.service.logs import JsonFormatter
from cluster.service.tracing import Tracing
from coordinator.host_state import HostState
from coordinator.probes import Report, metrics_text
from tests.service import Running, faces_like, packed, post_msgpack, running

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ROOT / "cluster" / "service" / "dashboards"
GALLERY = "/v1/galleries/acme/staff"
NAME = re.compile(r"\b(?:facegrid|process)_[a-z_]+")
SERIES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}
SECRET = "somebody-in-particular"


class Wrong(Exception):
    """A bug."""


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, spans: InMemorySpanExporter) -> Iterator[Running]:
    """With every search repeated exactly, and spans kept in memory."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running(tmp_path_factory.mktemp("observed") / "home", recall_share=1.0) as s,
    ):
        patch.setattr("cluster.service.recall.CHECK_S", 0.0)
        patch.setattr("cluster.service.overview.FRESH_S", 0.0)
        tracing = Tracing(spans)
        for holder in (s.gateway.searches, s.gateway._work):
            patch.setattr(holder, "_tracing", tracing)
        s.gateway.tracing = tracing
        yield s


@pytest.fixture(scope="module")
def rows(service: Running) -> np.ndarray:
    """A trained gallery, and a tenant that was refused."""
    from coordinator.tenant_types import Quotas

    found = faces_like(3_000)
    service.tenant("acme", quotas=Quotas(templates=3_010, queries_per_s=100_000.0))
    with service.client(service.key("acme", "admin")) as admin:
        made = admin.post("/v1/galleries", json={"name": "acme/staff", "dim": 64, "shards": 2})
        assert made.status_code == 201, made.text
        body = {"embeddings": packed(found), "identities": [SECRET] * len(found)}
        assert post_msgpack(admin, f"{GALLERY}/faces", body).status_code == 200
        assert post_msgpack(admin, f"{GALLERY}/faces", body).status_code == 403
        assert admin.post(f"{GALLERY}/train").status_code == 200
    return found


def search(client: httpx.Client, rows: np.ndarray, **headers: str) -> httpx.Response:
    return client.post(f"{GALLERY}/search", json={"probes": rows[:1].tolist()}, headers=headers)


def scraped(service: Running) -> dict[str, Any]:
    with service.client() as operator:
        return {family.name: family for family in text_string_to_metric_families(operator.get("/metrics").text)}


def total(families: dict[str, Any], name: str, **labels: str) -> float:
    return float(
        sum(
            sample.value
            for family in families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
    )


def test_what_is_told_is_what_happened(service: Running, rows: np.ndarray) -> None:
    with service.client(service.key("acme", "read")) as reader:
        before = scraped(service)
        for _ in range(5):
            assert search(reader, rows).status_code == 200
    # Pieces that were queued before one that is done are done; a check may be under way in another thread.
    _settled(service.gateway)
    after = scraped(service)
    for name in ("facegrid_search_wait_seconds_count", "facegrid_search_call_seconds_count"):
        assert total(after, name) - total(before, name) == 5
    assert total(after, "facegrid_index_calls_total") - total(before, "facegrid_index_calls_total") >= 5
    assert total(after, "facegrid_host_answer_seconds_count", kind="search") >= 5
    assert total(after, "facegrid_replicas", state="in_sync") == 2
    assert total(after, "facegrid_quota_limit", tenant="acme", what="templates") == 3_010
    assert total(after, "facegrid_quota_used", tenant="acme", what="templates") == 3_000
    assert total(after, "facegrid_limited_total", tenant="acme", code="quota_exceeded") == 1
    assert total(after, "facegrid_open_shards") >= 2
    assert total(after, "facegrid_control_up") == 1
    asked = total(after, "facegrid_recall_asked_total", gallery="acme/staff")
    assert asked >= 10
    assert 0.9 * asked <= total(after, "facegrid_recall_found_total", gallery="acme/staff") <= asked


def _settled(gateway: Gateway) -> None:
    """Wait until the search threads have nothing to do."""
    from cluster.service.scheduler import Piece

    done = threading.Event()
    gateway._search_turns.submit(("(recall)", "background"), 0.001, Piece(done.set, 10.0), is_background=True)
    assert done.wait(30)


def test_metrics_name_nobody_and_no_template(service: Running, rows: np.ndarray) -> None:
    with service.client() as operator:
        text = operator.get("/metrics").text
    assert SECRET not in text
    assert "fg_" not in text


def test_every_metric_is_documented_and_used_names_exist(service: Running, rows: np.ndarray) -> None:
    families = scraped(service)
    ours = {n + "_total" if f.type == "counter" else n for n, f in families.items() if n.startswith("facegrid_")}
    ours = {name for name in ours if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(facegrid_[a-z_]+)` \|", (ROOT / "docs/observability.md").read_text(), re.M))
    assert documented == ours, "docs/observability.md says what there is"
    # A family that has no series now may have some tomorrow: a replica is missing.
    known = {name + suffix for name, family in families.items() for suffix in SERIES[family.type]} | of_a_host()
    board = json.loads((BOARDS / "facegrid.json").read_text())
    rules = yaml.safe_load((BOARDS / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 20
    assert len(alerts) > 10
    for query in [*queries, *(rule["expr"] for rule in alerts)]:
        names = set(NAME.findall(query))
        assert names or query.startswith("up{"), query
        assert names <= known, query
    assert any(rule["expr"] == "absent(facegrid_control_up)" for rule in alerts), "what is gone has no series"
    watched = set(NAME.findall(" ".join(rule["expr"] for rule in alerts)))
    assert {f"facegrid_shard_host_{name}" for name in ("ready", "replicas", "disk_free_bytes")} <= watched
    guide = (ROOT / "docs/observability.md").read_text()
    assert all(f"`{rule['alert']}`" in guide for rule in alerts)


def of_a_host() -> set[str]:
    """Metrics of the probe port of an open shard host."""
    told = metrics_text("host-0", Report((), HostState(*range(9))))
    return {family.name for family in text_string_to_metric_families(told)}


def test_traces_follow_a_request_and_name_nobody(
    service: Running, rows: np.ndarray, spans: InMemorySpanExporter
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with service.client(service.key("acme", "read")) as reader:
        assert search(reader, rows, traceparent=f"00-{trace}-{parent}-01").status_code == 200
        assert search(reader, rows, traceparent="rubbish").status_code == 200
    with service.client() as operator:
        operator.get("/livez")  # the request before it on another connection has ended by then, span and all
    found = _of_trace(service, spans, int(trace, 16))
    request, wait, call, admit = (found[name] for name in ("search", "wait", "search call", "admit"))
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == parent
    for child in (wait, call, admit):
        assert child.parent is not None
        assert child.parent.span_id == request.context.span_id
        assert request.start_time <= child.start_time <= child.end_time <= request.end_time  # type: ignore[operator]
    assert call.attributes is not None
    assert call.attributes["facegrid.index_ms"] > 0  # type: ignore[operator]
    said = " ".join(str(dict(span.attributes or {})) for span in spans.get_finished_spans())
    assert SECRET not in said
    assert "fg_" not in said


def _of_trace(service: Running, spans: InMemorySpanExporter, trace_id: int) -> dict[str, ReadableSpan]:
    assert service.gateway.tracing is not None
    service.gateway.tracing._provider.force_flush()
    found: dict[str, ReadableSpan] = {}
    for span in spans.get_finished_spans():
        if span.context.trace_id == trace_id:
            is_call = span.name == "search" and "facegrid.probes" in (span.attributes or {})
            found["search call" if is_call else span.name] = span
    return found


def test_a_bug_is_logged_as_one_line_with_its_request_id(
    service: Running, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(JsonFormatter())
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]

    def fail(*_: object, **__: object) -> None:
        raise Wrong("a bug\nof two lines")

    monkeypatch.setattr("cluster.gallery.Gallery.list", fail)
    source = logging.getLogger("cluster.service.problems")  # what the command line did to others does not matter
    source.addHandler(handler)
    try:
        with service.client(service.key("acme", "read")) as reader:
            answer = reader.get(f"{GALLERY}/faces", headers={"X-Request-Id": "the-one"})
    finally:
        source.removeHandler(handler)
    assert answer.status_code == 500
    assert "Wrong" not in answer.text
    (told,) = [json.loads(line) for line in lines if "Wrong" in line]
    assert told["request_id"] == "the-one"
    assert "Traceback" in told["exception"]
    assert "\n" not in "".join(lines)


PROGRAM = """
import logging, sys, threading, warnings
from cluster.service.logs import log_json
log_json()
warnings.warn("a warning")
logging.getLogger("uvicorn.error").error("server: %s", "x\\ny")
logging.getLogger("ours").info("too few %s %s", 1)
logging.getLogger("ours").warning("half a pair: %s", "\\udc80")
def end(): raise ValueError("in a thread")
thread = threading.Thread(target=end); thread.start(); thread.join()
raise RuntimeError("at the end")
"""


def test_every_line_is_an_object_even_of_what_nobody_caught() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert len(lines) == 6
    assert all({"time", "level", "logger", "message", "request_id"} <= line.keys() for line in lines)
    assert ["in a thread" in lines[4]["exception"], "at the end" in lines[5]["exception"]] == [True, True]


def test_a_service_that_the_command_line_starts_logs_json_alone(tmp_path: Path) -> None:
    """What the library says too, which is notes for people in any other command."""
    command = [
        sys.executable,
        "-m",
        "cluster.cli",
        "--home",
        str(tmp_path / "home"),
        "serve",
        "--port",
        "0",
        "--json-logs",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "serving on" in process.stdout.readline()
        process.terminate()
        lines = [json.loads(line) for line in process.communicate(timeout=60)[1].splitlines()]
    assert process.returncode == 0
    assert "cluster.service.serve" in {line["logger"] for line in lines}


def test_without_an_endpoint_nothing_of_the_sdk_is_loaded() -> None:
    program = "import sys, cluster.service.gateway, cluster.service.app; sys.exit('opentelemetry.sdk' in sys.modules)"
    with warnings.catch_warnings():
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
