"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test fails because the machine is busy.
settings.register_profile("facegrid", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("facegrid")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos, embeddings and models: FACEGRID_DATA, or the folder beside the checkout."""
    path = Path(os.environ.get("FACEGRID_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"no real data in {path}; set FACEGRID_DATA")
    return path
