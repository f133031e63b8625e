"""Renders of the chart, one test a row: what they are called in reports."""

import pytest

from tests.k8s import matrix


@pytest.fixture(params=matrix.NAMES)
def row(request: pytest.FixtureRequest) -> str:
    """Name of a row of the matrix, or of an example."""
    return str(request.param)
