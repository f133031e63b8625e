"""The data plane in front of a real shard host: the same answers as the host gives in process, whatever is stacked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.dataplane.client import ClientLoop, DataClient
from coordinator.dataplane.server import DataServer
from coordinator.host import ShardHost
from coordinator.messages import (
    DataRequest,
    DeleteRequest,
    DropGallery,
    EnrollRequest,
    FlushRequest,
    IdentitiesRequest,
    RecordsRequest,
    Reply,
    SearchReply,
    SearchRequest,
    StatsRequest,
)
from shard.errors import DuplicateTemplate, FacegridError, InvalidEmbedding, InvalidParameter, UnknownGallery
from shard.types import CandidateBatch, EnrollBatch, SearchParams
from tests.faces_like import unit_rows
from tests.hosts import create_alone

GALLERY = "0123456789abcdef"
DIM, ROWS, SHARDS = 64, 400, (0, 1, 2, 3)
EPOCHS = (1, 1, 1, 1)
SECRET = b"0123456789abcdef0123456789abcdef"
SOON = 20.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ShardHost]:
    opened = ShardHost("a", tmp_path / "a")
    for shard in SHARDS:
        create_alone(opened, GALLERY, shard, DIM)
    yield opened
    opened.close()


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def client(request: pytest.FixtureRequest, host: ShardHost) -> Iterator[DataClient]:
    if request.param:
        pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'facegrid[cluster]'")
    server = DataServer(host, SECRET, use_uvloop=request.param)
    loop = ClientLoop(use_uvloop=request.param)
    running = DataClient("a", server.address, SECRET, loop)
    yield running
    running.close()
    loop.close()
    server.close()


def send(client: DataClient, request: DataRequest) -> Reply:
    return client.submit(request, time.monotonic() + SOON).result(SOON)


def enroll(shard: int, rows: np.ndarray) -> EnrollRequest:
    ids = tuple(f"t{shard}-{i}" for i in range(len(rows)))
    identities = tuple(None if i % 3 else f"person {i}" for i in range(len(rows)))
    metadata = tuple(b'{"i":1}' if i % 2 else None for i in range(len(rows)))
    return EnrollRequest(GALLERY, shard, 1, b"", EnrollBatch(rows, ids, identities, metadata), False)


@pytest.fixture
def filled(client: DataClient) -> DataClient:
    for shard in SHARDS:
        send(client, enroll(shard, unit_rows(ROWS, DIM, seed=shard)))
    return client


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        return type(value), [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return tuple(plain(entry) for entry in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    "request_",
    [
        SearchRequest(GALLERY, SHARDS, unit_rows(7, DIM, seed=20), SearchParams(10, exact=True), EPOCHS),
        SearchRequest(GALLERY, (1, 3), unit_rows(1, DIM, seed=21), SearchParams(1_000), (1, 1)),
        RecordsRequest(GALLERY, SHARDS, ("t0-1", "t3-2", "nobody"), EPOCHS),
        IdentitiesRequest(GALLERY, SHARDS, "", 50, EPOCHS),
        StatsRequest(GALLERY, SHARDS, EPOCHS),
    ],
    ids=lambda request: type(request).__name__,
)
def test_answers_are_those_of_the_host_in_process(filled: DataClient, host: ShardHost, request_: DataRequest) -> None:
    assert plain(send(filled, request_)) == plain(host.execute(request_))


def test_writes_are_durable_and_visible_when_answered(filled: DataClient, host: ShardHost) -> None:
    assert send(filled, DeleteRequest(GALLERY, SHARDS, EPOCHS, b"", ("t0-0", "t2-5"), ())).deleted == 2  # type: ignore[union-attr]
    send(filled, FlushRequest(GALLERY, SHARDS, EPOCHS))
    assert send(filled, RecordsRequest(GALLERY, SHARDS, ("t0-0", "t2-5"), EPOCHS)).records == ()  # type: ignore[union-attr]
    counts = [stats.templates for stats in send(filled, StatsRequest(GALLERY, SHARDS, EPOCHS)).stats]  # type: ignore[union-attr]
    assert counts == [ROWS - 1, ROWS, ROWS - 1, ROWS]


def test_stacked_searches_of_many_callers_are_those_of_one(filled: DataClient, host: ShardHost) -> None:
    probes = unit_rows(300, DIM, seed=22)
    params = SearchParams(5, exact=True)
    with ThreadPoolExecutor(32) as callers:
        replies = list(
            callers.map(
                lambda i: send(filled, SearchRequest(GALLERY, SHARDS, probes[i : i + 1], params, EPOCHS)), range(300)
            )
        )
    whole = host.execute(SearchRequest(GALLERY, SHARDS, probes, params, EPOCHS))
    assert isinstance(whole, SearchReply)
    for i, reply in enumerate(replies):
        assert isinstance(reply, SearchReply)
        one = whole.candidates
        part = CandidateBatch(*[getattr(one, f.name)[i : i + 1] for f in dataclasses.fields(CandidateBatch)])
        assert plain(reply.candidates) == plain(part)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (enroll(0, unit_rows(2, DIM, seed=1)), DuplicateTemplate),
        (SearchRequest(GALLERY, SHARDS, unit_rows(1, 128, seed=1), SearchParams(5), EPOCHS), InvalidEmbedding),
        (SearchRequest("f" * 16, (0,), unit_rows(1, DIM, seed=1), SearchParams(5), (1,)), UnknownGallery),
    ],
    ids=["duplicate", "dimension", "gallery"],
)
def test_a_bad_request_among_good_ones_fails_alone(
    filled: DataClient, bad: DataRequest, error: type[FacegridError]
) -> None:
    good = SearchRequest(GALLERY, SHARDS, unit_rows(1, DIM, seed=3), SearchParams(5, exact=True), EPOCHS)
    deadline = time.monotonic() + SOON
    futures = [filled.submit(request, deadline) for request in (good, bad, good, good)]
    with pytest.raises(error):
        futures[1].result(SOON)
    first, *rest = [plain(futures[i].result(SOON)) for i in (0, 2, 3)]
    assert rest == [first, first]


@pytest.mark.parametrize("name", ["", "..", "../../etc", "0123456789ABCDEF", "0123456789abcdef/", "\0" * 16])
def test_a_gallery_id_that_is_no_id_never_becomes_a_path(filled: DataClient, host: ShardHost, name: str) -> None:
    with pytest.raises(InvalidParameter, match="gallery id"):
        send(filled, StatsRequest(name, (0,), (1,)))
    with pytest.raises(InvalidParameter, match="gallery id"):
        host.execute(DropGallery(name))
