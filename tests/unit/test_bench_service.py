"""Figures of the service benchmark against what can be worked out by hand; its load against a server of our own."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.service import targets, wrk
from benchmarks.service.__main__ import parse
from benchmarks.service.paced import paced, summary
from benchmarks.service.peers.catalogue import PEERS
from benchmarks.service.results import SearchLoad
from benchmarks.service.workload import JSON, MSGPACK, Workload, row_of, search_body, template_id
from cluster.service import media
from tests.faces_like import unit_rows


@pytest.fixture
def port() -> Iterator[int]:
    """A server on loopback that refuses every third request, then answers the others with two bytes."""
    loop = asyncio.new_event_loop()
    count = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            await reader.readexactly(int(size.split(b":")[1]))
            count += 1
            status = b"503 Busy" if count % 3 == 0 else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()  # the client has gone

    server = loop.run_until_complete(asyncio.start_server(guarded, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]

    async def ended() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(ended(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def target(port: int) -> wrk.Target:
    return wrk.Target("127.0.0.1", port, "/search", {"Content-Type": MSGPACK})


def load(
    per_s: float, *, p50_ms: float = 1.0, p99_ms: float = 10.0, connections: int = 1, statuses: int = 0
) -> wrk.Load:
    return wrk.Load(connections, round(per_s), 1.0, per_s, p50_ms, p99_ms, p99_ms, p99_ms, statuses, 0, 0.0)


def search(found: wrk.Load, *, queries: int = 1) -> SearchLoad:
    return SearchLoad("one", 10, 0.999, MSGPACK, queries, found, found.per_s * queries, 0.1, 0.0)


def test_recall_counts_rows_whose_score_is_good_enough_and_each_once() -> None:
    rows = unit_rows(50, 64, seed=1)
    rows[7] = rows[3]  # the same photo twice: either is right
    work = Workload("tiny", rows, np.arange(50), rows[:2].copy())
    best = np.argsort(-(work.probes @ rows.T), axis=1, kind="stable")[:, :2].tolist()
    assert work.recall(best, 2) == 1
    assert work.recall([[best[0][0], best[0][0]], best[1]], 2) == 0.75
    assert work.recall([best[0], []], 2) == 0.5
    assert Workload("tiny", rows, np.arange(50), rows[3:4].copy()).recall([[7]], 1) == 1


def test_bodies_are_what_the_service_reads() -> None:
    probes = unit_rows(3, 64, seed=2)
    for kind in (JSON, MSGPACK):
        body = media.decode(search_body(probes, 5, kind, recall=0.9), kind)
        np.testing.assert_array_equal(media.floats(body["probes"], what="probes"), probes)
        assert (body["k"], body["recall"]) == (5, 0.9)
    assert row_of(template_id(123)) == 123


def test_a_paced_client_counts_what_failed(port: int) -> None:
    found = summary(paced(target(port), [b"a", b"bc"], per_s=200, seconds=0.3), 200)
    assert (found.requests, found.errors) == (60, 20)
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms


def test_a_paced_client_survives_that_nobody_listens(port: int) -> None:
    nobody = wrk.Target("127.0.0.1", 1, "/", {})
    found = summary(paced(nobody, [b""], per_s=100, seconds=0.1), 100)
    assert (found.requests, found.errors) == (10, 10)
    assert np.isnan(found.p50_ms)


def test_what_wrk_printed_is_read_or_refused() -> None:
    line = (
        'Running\nLOAD {"requests": 10, "seconds": 2.0, "p50_ms": 1, "p90_ms": 2, "p99_ms": 3, "max_ms": 4,'
        ' "statuses": 1, "connect": 0, "read": 2, "write": 0, "timeouts": 1}\n'
    )
    found = wrk.read(wrk.parse(line), 64, 0.5)
    assert (found.per_s, found.errors, found.connections) == (5, 4, 64)
    with pytest.raises(wrk.LoadFailed, match="no figures"):
        wrk.parse("unable to connect")


def test_targets() -> None:
    fast, many = search(load(1_000)), search(load(3_100, connections=64))
    assert [item.is_met for item in targets.judged_searches([fast, many])] == [True, True]
    slow = search(load(1_000, p50_ms=1.6))
    late = search(load(3_100, p99_ms=61, connections=64))
    wrong = search(load(3_100, connections=64, statuses=1))
    assert [item.is_met for item in targets.judged_searches([slow, late, wrong])] == [False, False, False]
    good, poor = search(load(40), queries=256), search(load(39), queries=256)
    assert [item.is_met for item in targets.judged_searches([fast, many, good, poor])] == [True, True, True, False]


def test_options_name_peers() -> None:
    assert parse([]).peers == [peer.module for peer in PEERS]
    assert parse(["--peers", "none"]).peers == []
    assert parse(["--peers", "qdrant_edge,milvus_lite"]).peers == ["qdrant_edge", "milvus_lite"]
    with pytest.raises(SystemExit):
        parse(["--peers", "nobody"])
