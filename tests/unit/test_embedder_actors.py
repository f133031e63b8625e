"""Photos while there is no embedder: they wait for one, for a bounded time, and say what they waited for."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.service.auth import Principal
from cluster.service.embedders import CALLS_EACH, EmbedderActors
from cluster.service.face_pool import FacePool
from coordinator.tenant_types import KeyRecord
from shard.errors import ClusterNotReady, HostUnavailable

OPERATOR = Principal(KeyRecord("0" * 12, None, None, "root", ("admin",), (), 0.0, None, None), None)


def test_photos_that_find_no_embedder_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as long after it came as the others, though only some of them wait in a thread of their own."""
    monkeypatch.setattr("cluster.service.face_pool.WAIT_S", 0.3)
    actors = EmbedderActors(list)
    pool = FacePool(actors)
    began = time.monotonic()

    async def ask() -> list[object]:
        asked = [pool.faces(OPERATOR, b"photo", embedder="edgeface_xs") for _ in range(4 * CALLS_EACH)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    assert {type(error) for error in found} == {ClusterNotReady}
    assert 0.3 <= time.monotonic() - began < 10.0
    assert pool.images() == 0
    pool.close()


def test_a_control_store_that_is_away_ends_no_look() -> None:
    looks = 0

    def find() -> list[object]:
        nonlocal looks
        looks += 1
        raise HostUnavailable("no store") if looks % 2 else RuntimeError("Ray raises anything")

    actors = EmbedderActors(find, look_s=0.01)  # type: ignore[arg-type]
    until = time.monotonic() + 10.0
    while looks < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    actors.close()
