"""Fixtures that more than one folder of tests needs."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test fails because the machine is busy.
settings.register_profile("facegrid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("facegrid")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """The command line, run in this process, keeps the library's records to itself: the next test wants to see them."""
    loggers = [logging.getLogger(package) for package in ("cluster", "coordinator", "shard")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos, embeddings and models: FACEGRID_DATA, or the folder beside the checkout."""
    path = Path(os.environ.get("FACEGRID_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"no real data in {path}; set FACEGRID_DATA")
    return path
