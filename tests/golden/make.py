"""Makes a golden directory of today's formats: `python -m tests.golden.make NAME`, once for each released format.

What is there is never made again, only added to: it stands for the files that users have. NAME is `shard-<format>`,
`encrypted-<format>` (of a shard under KEY) or `home-<format>`. shard-1 and shard-2 were made by the code of their time
(commits 975028c and bb28390), their databases written as SQL.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cluster import Cluster
from shard import segments
from shard.compaction import compact
from shard.search import search_shards
from shard.shard import Shard
from shard.training import train
from shard.types import EnrollBatch, FloatArray, SearchParams
from tests.faces_like import unit_rows

HERE = Path(__file__).parent
KEY = bytes(range(32))
"""Of encrypted-1."""
DIM, K = 64, 4


def labels(n: int, first: int) -> tuple[tuple[str | None, ...], tuple[bytes | None, ...]]:
    """Identities and metadata of n templates, some without."""
    identities = [("Ada", "Zoë", "李雷", None)[(first + i) % 4] for i in range(n)]
    metadata = [json.dumps({"n": first + i}).encode() if i % 3 else None for i in range(n)]
    return tuple(identities), tuple(metadata)


def enroll(shard: Shard, n: int, first: int) -> None:
    """Templates t<first>, …"""
    ids = tuple(f"t{first + i}" for i in range(n))
    batch = EnrollBatch(unit_rows(n, DIM, seed=first + 1), ids, *labels(n, first))
    shard.enroll(batch, operation=b"golden-%d" % first)


def make_shard(target: Path, key: bytes | None = None) -> None:
    """A dropped segment, two sealed ones with codes, an open tail, deleted rows, two epochs, remembered operations."""
    model = train(unit_rows(2_000, DIM, seed=99), code_bits=128)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "shard"
        with Shard.create(directory, dim=DIM, load_model={model.model_id: model}.__getitem__, key=key) as shard:
            shard.take_epoch(2, ["host-0", "host-1"], decides=True)
            enroll(shard, 12, 0)
            shard.activate(model)
            shard.flush()
            shard.delete(template_ids=["t1", "t4", "t5"])
            compact(shard)
            shard.take_epoch(5, ["host-1", "host-2"], decides=True)
            enroll(shard, 15, 12)
            shard.flush()
            enroll(shard, 24, 27)
            shard.flush()
            enroll(shard, 10, 51)
            shard.delete(template_ids=["t0", "t20", "t55"])
            shard.delete(identities=["nobody"])
            expected = shard_content(shard)
        target.mkdir()
        if key is None:
            copy(directory, target / "shard")
        else:
            shutil.copytree(directory, target / "shard", ignore=shutil.ignore_patterns("LOCK"))
        (target / f"{model.model_id}.model").write_bytes(model.to_bytes())
    write(target, expected)


def shard_content(shard: Shard) -> dict[str, Any]:
    """Everything that must be there when it is opened again."""
    stored = shard.templates_between(0, shard.index.rows)
    rows = np.array([t.row for t in stored])
    floats = shard.gather(rows)
    position = shard.position
    return {
        "position": [position.lsn, position.epoch, position.rows],
        "epochs": shard.epochs(),
        "configured": [shard.configured_epoch, list(shard.configured_hosts)],
        "segments": [[s.segment, s.first_row, s.rows, s.is_sealed, s.is_dropped] for s in shard.segments],
        "dead": [[row, lsn] for row, lsn, _ in shard.buried(0, 1 << 40)],
        "operations": [[o.decode(), *outcome] for o, *outcome in shard.operations_after(0)],
        "templates": [[t.row, t.template_id, t.identity, text(t.metadata), t.lsn] for t in stored],
        "floats": [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in floats],
        "identities": [[found.identity, found.templates] for found in shard.identities("", 100)],
        "model_id": None if shard.model is None else shard.model.model_id,
        "searches": searches(shard, floats[::5]),
    }


def searches(shard: Shard, probes: FloatArray) -> list[list[list[Any]]]:
    """Template ids, scores (exact: of float32) and keys of each probe's list."""
    found = search_shards([shard], probes, SearchParams(k=K, exact=True))
    return [
        [list(names), scores.tolist(), keys.tolist()]
        for names, scores, keys in zip(found.template_ids, found.scores, found.keys, strict=True)
    ]


def text(metadata: bytes | None) -> str | None:
    """Metadata as it is kept in expected.json."""
    return None if metadata is None else metadata.decode()


def make_home(target: Path) -> None:
    """A gallery of two shards in one home, with labels, and deleted templates."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "home"
        with Cluster.open(directory) as grid:
            gallery = grid.gallery("golden/faces", create=True, dim=DIM, shards=2, code_bits=128)
            identities, metadata = labels(40, 0)
            rows = unit_rows(40, DIM, seed=7)
            given = [None if m is None else json.loads(m) for m in metadata]
            ids = [f"t{i}" for i in range(40)]
            gallery.enroll(rows[:30], identities=identities[:30], template_ids=ids[:30], metadata=given[:30])
            gallery.flush()
            gallery.enroll(rows[30:], identities=identities[30:], template_ids=ids[30:], metadata=given[30:])
            gallery.delete(template_ids=["t3", "t17", "t35"])
            expected = home_content(grid)
        target.mkdir()
        copy(directory, target / "home")
        (target / "home" / "cluster.secret").write_text("0" * 64)
    write(target, expected)


def home_content(grid: Cluster) -> dict[str, Any]:
    """Everything that a user finds in it."""
    gallery = grid.gallery("golden/faces")
    ids = [name for i in range(40) if (name := f"t{i}") not in ("t3", "t17", "t35")]
    found = gallery.search(unit_rows(40, DIM, seed=7)[::6], k=K, exact=True)
    stats = gallery.stats()
    return {
        "home_id": grid.home.home_id,
        "galleries": [entry.name for entry in grid.galleries()],
        "stats": [stats.dim, stats.shards, stats.templates, stats.code_bits],
        "templates": [[t.template_id, t.identity, t.metadata] for t in gallery.templates(ids)],
        "identities": [[entry.identity, entry.templates] for entry in gallery.identities()],
        "searches": [
            [list(names), scores.tolist()] for names, scores in zip(found.template_ids, found.scores, strict=True)
        ],
    }


def copy(source: Path, target: Path) -> None:
    """The files of a closed shard or home: locks left out, databases as small as they can be, tails without holes."""
    for path in source.rglob("shard.db"):
        with sqlite3.connect(path) as db:
            tails = db.execute("SELECT segment, rows FROM segments WHERE NOT sealed").fetchall()
        db.close()
        for segment, rows in tails:
            with (path.parent / f"segment-{segment:06d}" / "floats.f32").open("r+b") as file:
                file.truncate(rows * DIM * 4)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("LOCK"))


def write(target: Path, expected: dict[str, Any]) -> None:
    """expected.json, a line for each field."""
    fields = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in expected.items()]
    (target / "expected.json").write_text("{\n" + ",\n".join(fields) + "\n}\n")


if __name__ == "__main__":
    segments.SEGMENT_ROWS = 1_024
    name = sys.argv[1]
    if name.startswith("encrypted-"):
        make_shard(HERE / name, KEY)
    else:
        (make_shard if name.startswith("shard-") else make_home)(HERE / name)
