"""The document of the dedup benchmark: steps that were measured at one time or another, and what comes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.dedup import targets

FORMAT = 1
"""Of the document; raised when a field is renamed or removed."""


class PathInResults(Exception):
    """The document has a path of this machine in it."""


def read(path: Path | None) -> targets.Steps:
    """Steps of a document that is there; none if there is none or if it is of another format."""
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_bytes())
    steps: targets.Steps = document["steps"] if document.get("format") == FORMAT else {}
    return steps


def document(steps: targets.Steps) -> dict[str, Any]:
    """All steps, and every figure with its target."""
    return {"format": FORMAT, "steps": steps, "judged": targets.document(targets.judged(steps))}


def write(path: Path, made: dict[str, Any], *private: Path) -> None:
    """Write it. PathInResults if one of the private folders, or of the home directory, is in it."""
    text = json.dumps(made, indent=1) + "\n"
    for folder in (*private, Path.home()):
        if len(folder.parts) > 1 and str(folder.absolute()) in text:
            raise PathInResults("expected figures only, got a path of this machine")
    path.write_text(text)


def text(steps: targets.Steps) -> str:
    """Machines, then figures."""
    parts = []
    for name, step in steps.items():
        machine = step["machine"]
        load = ", ".join(f"{value:.2f}" for value in step["load_before"])
        parts.append(
            f"{name}: {step['seconds']:.0f} s on {machine['cpu']}, {machine['cores']} cores, "
            f"load average before {load}; commit {step['source']['commit']}"
        )
    words = {True: "met", False: "NOT MET", None: "not judged"}
    parts += [
        f"[{words[item.is_met]}] {item.figure} (target: {item.target})\n    {item.measured}"
        for item in targets.judged(steps)
    ]
    return "\n".join(parts)
