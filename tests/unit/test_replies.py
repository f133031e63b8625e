"""Requests with an idempotency key while the catalog is away: carried out, answered alike, and told to it later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cluster.service import replies as module
from cluster.service.replies import Replies
from coordinator.catalog import Catalog
from coordinator.idempotency import Idempotency, KnownRequest
from shard.errors import HostUnavailable, UnknownTenant

T = TypeVar("T")
A, B = b"digest a", b"digest b"


class Store:
    """The catalog's own, which can be away."""

    def __init__(self, catalog: Catalog) -> None:
        self._kept = Idempotency(catalog)
        self.is_away, self.asked = False, 0
        self.fails: set[str] = set()

    def begin(self, owner: str, key: str, digest: bytes, within_s: float | None = None) -> KnownRequest | None:
        self._check(key)
        return self._kept.begin(owner, key, digest)

    def finish(self, owner: str, key: str, reply: bytes, within_s: float | None = None) -> None:
        self._check(key)
        self._kept.finish(owner, key, reply)

    def _check(self, key: str) -> None:
        self.asked += 1
        if self.is_away:
            raise HostUnavailable("the coordinator is away")
        if key in self.fails:
            raise UnknownTenant("dropped meanwhile")


class Control:
    is_away = False

    def found_away(self) -> None:
        self.is_away = True

    def found_back(self) -> None:
        self.is_away = False


async def run(call: Callable[[], T]) -> T:
    return call()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    catalog = Catalog(tmp_path / "catalog.db")
    yield Store(catalog)
    catalog.close()


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def replies(store: Store, control: Control) -> Replies:
    return Replies(store, control)  # type: ignore[arg-type]


def begin(replies: Replies, key: str, digest: bytes = A, *, is_repeatable: bool = True) -> KnownRequest | None:
    return asyncio.run(replies.begin(run, "acme", key, digest, is_repeatable=is_repeatable))


def finish(replies: Replies, key: str, reply: bytes = b"reply", digest: bytes = A) -> None:
    asyncio.run(replies.finish(run, "acme", key, digest, reply))


def test_where_the_catalog_is_there_it_is_told_at_once(replies: Replies, store: Store) -> None:
    assert begin(replies, "k") is None
    finish(replies, "k")
    assert begin(replies, "k") == KnownRequest(A, b"reply")
    assert store.asked == 3


def test_a_request_goes_on_and_is_told_later(replies: Replies, store: Store, control: Control) -> None:
    store.is_away = True
    assert begin(replies, "k") == KnownRequest(A, None), "as one that was begun before: nobody knows"
    assert control.is_away
    finish(replies, "k")
    assert begin(replies, "k") == begin(replies, "k", B) == KnownRequest(A, b"reply")
    assert store.asked == 1, "whoever was found away is not asked by every request"
    assert not replies.tell()
    store.is_away = False
    assert replies.tell()
    assert store.begin("acme", "k", A) == KnownRequest(A, b"reply")
    assert begin(Replies(store, Control()), "k") == KnownRequest(A, b"reply"), "so other gateways know it"  # type: ignore[arg-type]


def test_what_must_not_be_done_twice_waits(replies: Replies, store: Store) -> None:
    store.is_away = True
    for _ in range(2):
        with pytest.raises(HostUnavailable):
            begin(replies, "k", is_repeatable=False)
    assert store.asked == 2


def test_one_that_was_begun_is_answered_though_it_cannot_be_remembered_now(replies: Replies, store: Store) -> None:
    assert begin(replies, "k") is None
    store.is_away = True
    finish(replies, "k")
    store.is_away = False
    assert begin(replies, "k") == KnownRequest(A, b"reply")
    assert replies.tell()
    assert store.begin("acme", "k", A) == KnownRequest(A, b"reply")


def test_one_that_is_under_way_is_known_to_be(replies: Replies, store: Store) -> None:
    store.is_away = True
    begin(replies, "k")
    store.is_away = False
    assert replies.tell()
    assert store.begin("acme", "k", A) == KnownRequest(A, None)
    finish(replies, "k")
    assert store.begin("acme", "k", A) == KnownRequest(A, b"reply")


def test_the_first_answer_stands(replies: Replies, store: Store) -> None:
    """Another gateway went on with a request of that key too, and told it first."""
    store.is_away = True
    for key in ("same", "other"):
        begin(replies, key)
        finish(replies, key, b"mine")
    store.is_away = False
    for key, digest in (("same", A), ("other", B)):
        assert store.begin("acme", key, digest) is None
        store.finish("acme", key, b"theirs")
    assert replies.tell()
    assert store.begin("acme", "same", A) == KnownRequest(A, b"theirs")
    assert store.begin("acme", "other", A) == KnownRequest(B, b"theirs")


def test_one_that_cannot_be_told_keeps_no_other_from_it(
    replies: Replies, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.is_away = True
    for key in ("gone", "k"):
        begin(replies, key)
        finish(replies, key)
    store.is_away, store.fails = False, {"gone"}
    assert replies.tell()
    assert store.begin("acme", "k", A) == KnownRequest(A, b"reply")
    assert "cannot be remembered" in caplog.text
    asked = store.asked
    assert replies.tell()
    assert store.asked == asked


def test_as_many_as_fit_go_on(replies: Replies, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNTOLD", 2)
    store.is_away = True
    begin(replies, "a")
    begin(replies, "b")
    with pytest.raises(HostUnavailable):
        begin(replies, "c")
    finish(replies, "b")
    assert begin(replies, "b") == KnownRequest(A, b"reply")


def test_the_catalog_is_told_as_soon_as_it_is_back(
    replies: Replies, store: Store, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_S", 0.01)
    store.is_away = True
    begin(replies, "k")
    finish(replies, "k")

    async def wait_for_it() -> None:
        telling = asyncio.create_task(replies.keep_told())
        asked = store.asked
        while store.asked < asked + 3:
            await asyncio.sleep(0.01)
        assert control.is_away
        store.is_away = False
        while control.is_away:
            await asyncio.sleep(0.01)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(wait_for_it())
    assert store.begin("acme", "k", A) == KnownRequest(A, b"reply")
