"""onnxruntime is imported without its telemetry, which leaves an id in the cache and has a thread that sends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")


def files_left_by(code: str, home: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=home, check=True, timeout=120)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_onnxruntime_reports_to_nobody(tmp_path: Path) -> None:
    code = "from cluster.faces.extras import require_onnxruntime as need; need().get_available_providers()"
    assert files_left_by(code, tmp_path) == []
