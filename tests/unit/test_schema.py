"""A shard's database of format 1 is brought to today's, with everything in it."""

import sqlite3
from pathlib import Path

import pytest

from shard.keys import template_keys
from shard.schema import FORMAT_VERSION
from shard.shard import Shard
from shard.store import Store
from shard.training import train
from tests.faces_like import batch_of, unit_rows

DIM = 64
FORMAT_1 = """
CREATE TABLE old (
    row INTEGER PRIMARY KEY, template_id TEXT NOT NULL UNIQUE, identity TEXT, metadata BLOB, lsn INTEGER NOT NULL);
INSERT INTO old SELECT row, template_id, identity, metadata, lsn FROM templates;
DROP TABLE templates; DROP TABLE template_keys; DROP TABLE identity_rows;
DROP TABLE appends; DROP TABLE epochs; DROP TABLE operations;
ALTER TABLE segments DROP COLUMN dropped;
ALTER TABLE tombstones DROP COLUMN deleted_at;
ALTER TABLE old RENAME TO templates;
CREATE INDEX templates_by_identity ON templates (identity) WHERE identity IS NOT NULL;
UPDATE meta SET value = '1' WHERE key = 'format_version';
"""


def create(directory: Path) -> Shard:
    return Shard.create(directory, dim=DIM, load_model={}.__getitem__)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A shard of 30 templates, 3 deleted, written today with its labels put back into the tables of format 1."""
    directory = tmp_path / "s"
    with create(directory) as shard:
        shard.enroll(batch_of(unit_rows(20, DIM, seed=1), prefix="", identity="Ada"))
        shard.enroll(batch_of(unit_rows(10, DIM, seed=2), prefix="", first=20))
        shard.delete(template_ids=["0", "7", "29"])
    with sqlite3.connect(directory / "shard.db") as db:
        db.executescript(FORMAT_1)
    db.close()
    return directory


def test_format_1_becomes_todays_with_all_labels(old: Path) -> None:
    with sqlite3.connect(old / "shard.db") as db:
        before = db.execute("SELECT row, template_id, identity, metadata, lsn FROM templates ORDER BY row").fetchall()
    db.close()
    assert len(before) == 27
    ids = [template_id for _, template_id, *_ in before]
    with create(old) as shard:
        assert len(shard) == 27
        assert [r.template_id for r in shard.records([*ids, "7"])] == ids
        assert shard.existing(["0", "1", "29"]) == {"1"}
        assert [(found.identity, found.templates) for found in shard.identities("", 10)] == [("Ada", 18)]
        assert shard.delete(template_ids=["1"]) == 1
        assert [(found.identity, found.templates) for found in shard.identities("", 10)] == [("Ada", 17)]
    with sqlite3.connect(old / "shard.db") as db:
        after = db.execute("SELECT row, template_id, identity, metadata, lsn FROM templates ORDER BY row").fetchall()
        assert after == [row for row in before if row[1] != "1"]
        stated = db.execute("SELECT value FROM meta WHERE key = 'format_version'").fetchone()
        assert stated == (str(FORMAT_VERSION),)
        assert db.execute("SELECT count(*) FROM template_keys").fetchone() == (26,)
    db.close()


def test_a_shard_of_an_older_format_is_rolled_out_to_and_back(tmp_path: Path) -> None:
    """It names no kept models; its codes are those of the model in use."""
    old, new = (train(unit_rows(1_200, DIM, seed=seed), code_bits=128) for seed in (3, 4))
    models = {model.model_id: model for model in (old, new)}.__getitem__
    directory = tmp_path / "s"
    with Shard.create(directory, dim=DIM, load_model=models) as shard:
        shard.enroll(batch_of(unit_rows(1_200, DIM, seed=1)))
        shard.activate(old)
        shard.flush()
    with sqlite3.connect(directory / "shard.db") as db:
        db.executescript(FORMAT_1)
        db.execute("DELETE FROM meta WHERE key = 'kept_models'")
    db.close()
    with Shard(directory, models) as shard:
        assert shard.model_ids() == {old.model_id}
        assert shard.prepare(new) == 1
        assert shard.model_ids() == {old.model_id, new.model_id}
        shard.activate(new)
        assert shard.prepare(old) == 0, "its codes are kept"
        shard.activate(old)
        shard.discard([])
        assert shard.model_ids() == {old.model_id}


def test_ids_that_share_a_key_are_told_apart(tmp_path: Path) -> None:
    with create(tmp_path / "s") as shard:
        shard.enroll(batch_of(unit_rows(3, DIM, seed=1), prefix=""))
    with sqlite3.connect(tmp_path / "s" / "shard.db") as db:
        # As if the id of row 1 hashed to the key of "0": no such pair is known.
        db.execute("UPDATE templates SET key = (SELECT key FROM templates WHERE row = 0) WHERE row = 1")
        db.execute("UPDATE template_keys SET key = (SELECT key FROM templates WHERE row = 0) WHERE row = 1")
    db.close()
    store = Store(tmp_path / "s" / "shard.db")
    key = template_keys(["0"])
    assert store.existing(["0"], key) == {"0"}
    assert [record.template_id for record in store.records(["1"], key)] == ["1"]
    assert store.rows_to_delete(["0"], []) == [0]
    store.close()
