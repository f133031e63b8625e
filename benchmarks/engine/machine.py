"""Where and on what a run ran: processor, cores, memory, commit. Reads /proc and asks git; nothing is guessed."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from shard.index import kernel, kernels

_FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq", "avx512vbmi", "gfni", "asimd", "sve")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, Any]:
    """cpu, cores, flags (those of SIMD that matter here), memory_bytes, system, python, numpy, facegrid's kernels."""
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cores": cores(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "facegrid_kernel": kernel(),
        "facegrid_kernels": kernels(),
    }


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def source(folder: Path) -> dict[str, Any]:
    """commit (None outside a repository), is_dirty: whether tracked files differ from it, facegrid's version."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": bool(changed), "facegrid": metadata.version("facegrid")}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None  # no git on this machine: the commit is not known, and the document says so
    return done.stdout.strip() if done.returncode == 0 else None
