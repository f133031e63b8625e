"""A release that was installed and is in use: what a step does to it is done under traffic, then all is checked."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.client import RemoteCluster
from tests.k8s.smoke.cluster import SmokeCluster, wait_until
from tests.k8s.smoke.faults import READY_S
from tests.k8s.smoke.podman import execute
from tests.k8s.smoke.traffic import DIM, Ledger, Traffic, connect, missing

GALLERY = "acme/staff"
SETTLE_S = 3.0
"""Seconds of traffic before a fault and after it."""


class Installed:
    """The release with a tenant, its key and a gallery of two replicas. figures: what was measured, by step."""

    def __init__(self, cluster: SmokeCluster) -> None:
        self.cluster = cluster
        self.ledger = Ledger()
        self.figures: dict[str, Any] = {}
        self.operator_key = ""
        self.key = ""

    def install(self) -> None:
        """All pods, in an order that one machine can take; then what an administrator does first."""
        began = time.monotonic()
        cluster = self.cluster
        cluster.wait_ready(cluster.start_head(), seconds=READY_S)
        control = cluster.start_control()
        for ordinal in range(cluster.release.replicas("shard")):
            cluster.start_shard(ordinal)
        cluster.wait_ready(control, *cluster.pods("shard"), seconds=READY_S)
        for _ in range(cluster.release.replicas("gateway")):
            cluster.start_gateway()
        cluster.wait_ready(*cluster.pods("gateway"), seconds=READY_S)
        self.figures["install"] = {"seconds": round(time.monotonic() - began, 1), "pods": len(cluster.kubelet.pods)}
        self.operator_key = self.in_control("cat", "/var/lib/facegrid/operator.key").strip()
        with self.client(self.operator_key) as operator:
            operator.tenants.create("acme")
            self.key = operator.tenants.create_key("acme", "smoke", scopes=("admin", "write", "read"))[1]
        with self.client() as client:
            client.gallery(GALLERY, create=True, dim=DIM, shards=4, replicas=2)

    def in_control(self, *command: str, statuses: tuple[int, ...] = (0,)) -> str:
        """Output of a command in the control pod, where an administrator gives them."""
        status, output = execute(self.cluster.pod("control").container, *command, timeout=300)
        assert status in statuses, f"{command}: status {status}: {output}"
        return output

    def client(self, key: str | None = None) -> RemoteCluster:
        return connect(self.cluster.url, self.key if key is None else key, self.cluster.gateway_authority)

    @contextlib.contextmanager
    def under_traffic(self, step: str) -> Iterator[None]:
        """Has a writer and a searcher go on while the body does something; then checks what was promised.

        Everything acknowledged since the installation is found, by an exact search, with its own score; no search gave
        a wrong answer; every shard has all its replicas again; the replicas are alike.
        """
        with Traffic(self.cluster.url, self.key, self.cluster.gateway_authority, GALLERY, self.ledger) as traffic:
            time.sleep(SETTLE_S)
            began = time.monotonic()
            yield
            done = time.monotonic()
            self.wait_whole()
            whole = time.monotonic()
            written = len(traffic.writer.answers)
            wait_until(lambda: len(traffic.writer.answers) > written + 2, 180, lambda: str(traffic.writer.errors[-3:]))
            time.sleep(SETTLE_S)
            ended = time.monotonic()
        self.figures[step] = {
            "seconds_until_ready": round(done - began, 1),
            "seconds_until_all_replicas": round(whole - began, 1),
            "longest_gap_of_writes_s": round(traffic.writer.longest_gap(began, ended), 2),
            "longest_gap_of_searches_s": round(traffic.searcher.longest_gap(began, ended), 2),
            "writes": len(traffic.writer.answers),
            "searches": len(traffic.searcher.answers),
            "failed_writes": [text for _, text in traffic.writer.errors],
            "failed_searches": [text for _, text in traffic.searcher.errors],
            "acknowledged_in_all": len(self.ledger.acknowledged),
        }
        print(step, json.dumps(self.figures[step]), flush=True)
        assert not traffic.wrong, traffic.wrong
        self.check()

    def wait_whole(self) -> None:
        """Until every shard has the replicas that its gallery asks for, and none is being copied."""
        with self.client(self.operator_key) as operator:
            wait_until(
                lambda: all(not shard.missing and not shard.joining for shard in operator.replicas()),
                READY_S,
                lambda: f"{operator.replicas()}\n{self.cluster.describe()}",
            )

    def check(self) -> None:
        """Nothing acknowledged is lost, and replicas are alike."""
        with self.client() as client:
            lost = missing(client, GALLERY, self.ledger.acknowledged)
        assert not lost, f"{len(lost)} of {len(self.ledger.acknowledged)} acknowledged templates are gone: {lost[:5]}"
        self.in_control("facegrid", "cluster", "compare")

    def write_figures(self, path: Path) -> None:
        document = {
            "format": 1,
            "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load_1m": round(os.getloadavg()[0], 1)},
            "replicas": 2,
            "not_exercised": self.cluster.not_exercised(),
            "steps": self.figures,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
