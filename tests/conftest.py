"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos, embeddings and models: FACEGRID_DATA, or the folder beside the checkout."""
    path = Path(os.environ.get("FACEGRID_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"no real data in {path}; set FACEGRID_DATA")
    return path
