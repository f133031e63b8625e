"""Cron's five fields."""

import pytest

from cluster.cron import check_cron
from shard.errors import InvalidParameter


@pytest.mark.parametrize(
    "said",
    [
        "* * * * *",
        "0 3 * * 0",
        "59 23 31 12 6",
        "*/15 0-6/2 1,15 * ?",
        "5/15 * * JAN-mar,DEC Mon-FRI",
        "0\t3  * * 0",
    ],
)
def test_what_the_operator_takes(said: str) -> None:
    check_cron(said)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("", "five fields"),
        ("@daily", "five fields"),
        ("0 3 * * 0 2026", "five fields"),
        ("CRON_TZ=UTC 0 3 * * 0", "five fields"),
        ("TZ=UTC 3 * * 0", "minute"),
        ("60 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("1, * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("\u0663 * * * *", "minute"),
        (f"{'9' * 5000} * * * *", "minute"),
        (f"*/{'9' * 5000} * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 6-3 * * *", "hour"),
        ("0 *-3 * * *", "hour"),
        ("0 3 0 * *", "day of the month"),
        ("0 3 1-32 * *", "day of the month"),
        ("0 3 * 13 *", "month"),
        ("0 3 * mon *", "month"),
        ("0 3 * * 7", "day of the week"),
        ("0 3 * * jan", "day of the week"),
    ],
)
def test_what_it_does_not(said: str, names: str) -> None:
    with pytest.raises(InvalidParameter, match=f"^schedule: (expected cron's )?{names}") as refused:
        check_cron(said)
    assert len(str(refused.value)) < 250
