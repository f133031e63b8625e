"""The fork servers and what their children need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import workload
from tests.crash.faults import build_shim
from tests.crash.forkserver import ForkServer


@pytest.fixture(scope="session")
def case_root() -> Iterator[Path]:
    """Where cases keep their shards: in memory if it can be, where a killed process leaves its pages too."""
    shared = Path("/dev/shm")
    directory = tempfile.mkdtemp(prefix="facegrid-", dir=shared if os.access(shared, os.W_OK) else None)
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the models that children load."""
    directory = tmp_path_factory.mktemp("models")
    workload.save_models(directory)
    return directory


@pytest.fixture(scope="session")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A fork server with `faults.c` before the system calls of its children."""
    directory = tmp_path_factory.mktemp("forkserver")
    with ForkServer(directory / "stderr", build_shim(directory)) as server:
        yield server


@pytest.fixture
def case(case_root: Path) -> Iterator[Path]:
    """A place for the shard of one case."""
    yield case_root / "shard"
    shutil.rmtree(case_root / "shard", ignore_errors=True)
