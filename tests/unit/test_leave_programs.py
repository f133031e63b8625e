"""What programs that run before a node stops print, and how they exit; that they import little."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from cluster.service import leave as of_gateway
from coordinator import leave as of_host
from coordinator.leave import Left
from shard.errors import ClusterNotReady

HERE = ("--address", "head:6379")


def refuse(*_: object, **__: object) -> None:
    raise ClusterNotReady("no Ray cluster answers")


@pytest.mark.parametrize(
    ("main", "words"), [(of_host.main, (*HERE, "--host", "a")), (of_gateway.main, HERE)], ids=["host", "gateway"]
)
def test_an_error_is_one_line_and_a_failure(
    main: Callable[[Sequence[str]], int],
    words: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coordinator.leave_program.RaySession.join", refuse)
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"error": {"code": "cluster_not_ready", "message": "no Ray cluster answers"}}
    assert printed.count("\n") == 1


def test_what_has_left_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def leave(*given: object, timeout_s: float) -> Left:
        asked.extend((*given, timeout_s))
        return Left("a", 3)

    monkeypatch.setattr(of_host, "leave", leave)
    assert of_host.main((*HERE, "--host", "a", "--home-id", "h", "--timeout", "7")) == 0
    assert json.loads(capsys.readouterr().out) == {"host": "a", "missed": 3, "fault": ""}
    monkeypatch.setattr(of_gateway, "leave", lambda *given, timeout_s: [*given, str(timeout_s)])
    assert of_gateway.main(HERE) == 0
    assert json.loads(capsys.readouterr().out) == {"left": ["head:6379", "60.0"]}
    assert asked == ["head:6379", "a", "h", 7.0]


@pytest.mark.parametrize("module", ["coordinator.leave", "cluster.service.leave"])
def test_they_import_little(module: str) -> None:
    """A second of imports is a second less to leave in."""
    script = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"ray", "numpy", "fastapi", "sqlalchemy"} & set(ran.stdout.split())
