"""Two replicas of a shard: whether they hold the same at the same rows, and how one takes over what the other has."""

import numpy as np

from shard.catchup import changes_after
from shard.shard import Shard


def content(shard: Shard) -> dict[str, tuple[int, bytes, str | None, bytes | None, int]]:
    """Template id to its row, floats, labels and LSN: replicas hold the same at the same rows."""
    stored = shard.templates_between(0, shard.index.rows)
    floats = shard.gather(np.array([t.row for t in stored], np.int64))
    rows = zip(stored, floats, strict=True)
    return {t.template_id: (t.row, f.tobytes(), t.identity, t.metadata, t.lsn) for t, f in rows}


def layout(shard: Shard) -> list[tuple[object, ...]]:
    return [
        (s.segment, s.first_row, s.rows, s.capacity, s.is_sealed, s.is_dropped, s.floats_crc) for s in shard.segments
    ]


def assert_alike(a: Shard, b: Shard) -> None:
    assert content(a) == content(b)
    assert layout(a) == layout(b)
    assert a.position == b.position
    assert a.epochs() == b.epochs()
    assert len(a) == len(b) == b.index.live_rows
    assert a.buried(0, 1 << 40) == b.buried(0, 1 << 40)
    assert a.operations_after(0) == b.operations_after(0)


def catch_up(replica: Shard, source: Shard, *, damage: bool = False) -> int:
    """Pieces that it took."""
    for count in range(1, 10_000):
        changes = changes_after(source, *replica.progress())
        assert not changes.is_divergent
        if damage:
            changes.embeddings.flat[0] += np.float32(1e-3)
        replica.absorb(changes)
        if changes.is_last:
            return count
    raise AssertionError("it never ends")
