"""Homes: where one may be made."""

from pathlib import Path

import pytest

from coordinator.home import Home
from shard.errors import CorruptData


def test_the_root_of_a_new_volume_becomes_a_home(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    home = Home(tmp_path)
    home.close()
    again = Home(tmp_path)
    assert again.home_id == home.home_id
    assert again.local_hosts() == ()
    again.close()


def test_a_volume_that_holds_something_does_not(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "lost+found.tar").write_bytes(b"somebody's")
    with pytest.raises(CorruptData, match="not empty"):
        Home(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lost+found", "lost+found.tar"}
