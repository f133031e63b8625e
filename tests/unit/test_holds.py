"""Identities that are held, by a clock of the test's; and what a shard does with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shard.errors import HostBusy, UnknownModel
from shard.holds import FRESH_S, RECENT_S, Holds
from shard.model import SearchModel
from shard.shard import Shard
from tests.faces_like import batch_of, unit_rows
from tests.replicas import assert_alike


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_identity_is_held_until_its_time() -> None:
    clock = Clock()
    holds = Holds(clock)
    holds.check(["ann", None])
    holds.hold("ann", 10)
    holds.check(["bob", None])
    with pytest.raises(HostBusy, match="'ann'"):
        holds.check(["bob", None, "ann"])
    clock.now += 9.9
    holds.hold("ann", 10)
    clock.now += 9.9
    with pytest.raises(HostBusy):
        holds.check(["ann"])
    clock.now += 0.2
    holds.check(["ann"])
    holds.hold("ann", 10)
    holds.hold("ann", 0)
    holds.check(["ann"])


def test_how_long_departures_are_told() -> None:
    clock = Clock()
    holds = Holds(clock)
    assert (holds.are_recent, holds.are_fresh) == (False, False)
    holds.hold("ann", 10)
    assert (holds.are_recent, holds.are_fresh) == (True, False)
    holds.leave()
    assert (holds.are_recent, holds.are_fresh) == (True, True)
    clock.now += FRESH_S
    assert (holds.are_recent, holds.are_fresh) == (True, False)
    clock.now += 10 + RECENT_S - FRESH_S
    assert (holds.are_recent, holds.are_fresh) == (False, False)


def no_model(model_id: str) -> SearchModel:
    raise UnknownModel(model_id)


def test_a_shard_lets_templates_go(tmp_path: Path) -> None:
    rows = unit_rows(6, 64, seed=1)
    with (
        Shard.create(tmp_path / "a", dim=64, load_model=no_model) as shard,
        Shard.create(tmp_path / "b", dim=64, load_model=no_model) as backup,
    ):
        shard.on_commit = backup.apply
        shard.enroll(batch_of(rows[:4], identity="ann"))
        shard.enroll(batch_of(rows[4:], identity="bob", first=4))
        page = shard.move_out("ann", (), hold_s=60, limit=3, operation=b"1")
        assert page.template_ids == ("t0", "t1", "t2")
        np.testing.assert_array_equal(page.floats, rows[:3])
        for work in (
            lambda: shard.delete(template_ids=["t0"]),
            lambda: shard.delete(identities=["ann"]),
            lambda: shard.amend(["t3"], [b"{}"]),
            lambda: shard.enroll(batch_of(rows[:1], prefix="x", identity="ann")),
        ):
            with pytest.raises(HostBusy, match="ann"):
                work()
        assert shard.write_error is None
        assert shard.delete(template_ids=["t5"]) == 1
        assert not backup.has_fresh_departures
        # t4 is somebody else's, and stays.
        last = shard.move_out("ann", ("t0", "t2", "t4"), hold_s=60, limit=9, operation=b"2")
        assert last.template_ids == ("t1", "t3")
        assert backup.has_fresh_departures
        assert shard.has_fresh_departures
        # Repeated, it is done once: t0 has come back meanwhile.
        shard.move_out("ann", (), hold_s=0, limit=0, operation=b"3")
        shard.enroll(batch_of(rows[:1], identity="ann"))
        again = shard.move_out("ann", ("t0", "t2", "t4"), hold_s=0, limit=9, operation=b"2")
        assert again.template_ids == ("t1", "t3", "t0")
        assert_alike(shard, backup)
