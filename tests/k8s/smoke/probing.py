"""A kubelet's probes: an HTTP address of the pod, a TCP port, or a command in its container."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request

from tests.k8s.pods.containers import Probe
from tests.k8s.smoke.podman import execute


def succeeds(probe: Probe, container: str, address: str) -> tuple[bool, str]:
    """Whether the probe succeeds within its timeout, and what was seen. HTTP: 200 to 399, certificates not verified."""
    if probe.command is not None:
        # podman takes tenths of a second to enter a container, which a kubelet's timeout does not cover.
        status, output = execute(container, *probe.command, timeout=probe.timeout + 3)
        return status == 0, f"status {status}: {output[-300:]}"
    try:
        if probe.http is not None:
            scheme, path, port = probe.http
            return _http(f"{scheme}://{address}:{port}{path}", probe.timeout)
        assert probe.tcp_port is not None
        with socket.create_connection((address, probe.tcp_port), timeout=probe.timeout):
            return True, "connected"
    except (OSError, TimeoutError) as error:
        return False, repr(error)


def _http(url: str, timeout: float) -> tuple[bool, str]:
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=timeout, context=unverified) as answer:
            return True, f"{answer.status}"
    except urllib.error.HTTPError as error:
        return False, f"{error.code}: {error.read()[:200]!r}"
