"""Ten thousand small galleries on one host: `benchmarks.galleries` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 900
_SOURCE = Path(__file__).resolve().parents[2]


def many_galleries(galleries: int, templates: int, folder: Path) -> dict[str, Any]:
    """Its document; CalledProcessError or TimeoutExpired if it fails."""
    result = folder / "galleries.json"
    command = [
        sys.executable, "-m", "benchmarks.galleries", "--galleries", str(galleries), "--templates", str(templates),
        "--folder", str(folder), "--json", str(result),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=LIMIT_S, cwd=_SOURCE, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(result.read_text())
    return found
