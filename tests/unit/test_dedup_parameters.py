"""What a dedup job may be asked for, and what it says of what it may not."""

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.dedup.parameters import DedupParameters

SNAPSHOT = "20260131T120000Z-0a1b2c3d"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "got neither"),
        ({"threshold": 0.5, "target_fpir": 0.01}, "got both"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"target_fpir": 1.0}, "target_fpir"),
        ({"threshold": 0.5, "mode": "quick"}, "mode"),
        ({"threshold": 0.5, "treshold": 0.4}, "treshold"),
        ({"threshold": 0.5, "floor": 0.3}, "analyse"),
        ({"threshold": 0.5, "floor": 0.6, "analyse": True}, "at most the threshold"),
        ({"threshold": 0.5, "min_group": 10, "max_group": 5}, "min_group"),
        ({"threshold": 0.5, "min_group": 1}, "min_group"),
        ({"threshold": 0.5, "other": "no slash"}, "other"),
        ({"threshold": 0.5, "snapshot": SNAPSHOT}, "store"),
        ({"threshold": 0.5, "store": "s3://me:secret@bucket/x"}, "credentials"),
        ({"threshold": 0.5, "store": "x", "snapshot": "yesterday"}, "snapshot id"),
        ({"threshold": 0.5, "store": "x", "snapshot": SNAPSHOT, "other": "acme/b"}, "other_snapshot"),
        ({"threshold": 0.5, "other_snapshot": SNAPSHOT}, "other_snapshot"),
        ({"threshold": 0.5, "workers": 0}, "workers"),
        ({"threshold": 0.5, "max_pairs": 0}, "max_pairs"),
        ({"threshold": 0.5, "cohesion": 1.1}, "cohesion"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DedupParameters(**given)


def test_an_analysis_needs_no_threshold() -> None:
    assert DedupParameters(analyse=True).threshold is None
    assert DedupParameters(analyse=True, threshold=0.5, floor=0.2).floor == 0.2


def test_modes_have_a_recall_of_their_own() -> None:
    assert DedupParameters(threshold=0.5).target_recall == 0.999
    assert DedupParameters(threshold=0.5, mode="fast").target_recall == 0.99
    assert DedupParameters(threshold=0.5, mode="fast", recall=0.95).target_recall == 0.95


def test_parameters_come_back_from_json() -> None:
    asked = DedupParameters(threshold=0.5, other="acme/list", store="x", snapshot=SNAPSHOT, other_snapshot=SNAPSHOT)
    assert DedupParameters.model_validate_json(asked.model_dump_json()) == asked
