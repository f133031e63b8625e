"""What requests of the same moment share: one look-up of their key, one of their gallery."""

import asyncio
import contextlib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from cluster.service.gateway import Gateway
from shard.errors import HostUnavailable, Unauthenticated, UnknownGallery


def test_keys_and_galleries_are_looked_up_once_for_all_who_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, call: Any) -> Any:
        def run(*given: Any) -> Any:
            calls[name] += 1
            return call(*given)

        return run

    async def ask(gateway: Gateway, secret: str) -> None:
        principals = await asyncio.gather(*(gateway.principal(secret) for _ in range(20)))
        assert len({id(one) for one in principals}) == 1
        found = await asyncio.gather(*(gateway.gallery(principals[0], "acme/staff") for _ in range(20)))
        assert len({id(one) for one in found}) == 1
        assert calls == {"key": 1, "gallery": 1}
        wrong = await asyncio.gather(*(gateway.principal("fg_no") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in wrong] == [Unauthenticated] * 3
        nowhere = (gateway.gallery(principals[0], "acme/none") for _ in range(3))
        missing = await asyncio.gather(*nowhere, return_exceptions=True)
        assert [type(error) for error in missing] == [UnknownGallery] * 3
        under_way = asyncio.create_task(gateway.principal(secret))
        gateway.keys.forget()
        gateway.cluster.tenants.revoke_key(principals[0].key.key_id)
        gateway.keys.forget()
        with pytest.raises(Unauthenticated):
            await gateway.principal(secret)
        await asyncio.gather(under_way, return_exceptions=True)

    with Cluster.open(tmp_path / "home") as grid:
        grid.tenants.create("acme")
        _, secret = grid.tenants.create_key("acme", "test", scopes=("read",))
        grid.gallery("acme/staff", create=True, shards=1, dim=64)
        gateway = Gateway(grid)
        monkeypatch.setattr(gateway.keys, "look_up", counted("key", gateway.keys.look_up))
        monkeypatch.setattr(grid, "gallery", counted("gallery", grid.gallery))
        asyncio.run(ask(gateway, secret))
        gateway.close()


@pytest.mark.parametrize("hangs", [False, True], ids=["raises", "hangs"])
def test_queries_go_on_while_the_control_plane_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """By keys and galleries that were good before; nobody new gets in, and all is asked for again once it is back."""
    monkeypatch.setattr("cluster.service.auth.KEY_S", 0.0)
    monkeypatch.setattr("cluster.service.gateway.GALLERY_S", 0.0)
    monkeypatch.setattr("cluster.service.gateway.PATIENCE_S", 0.05)
    monkeypatch.setattr("cluster.service.gateway.AGAIN_S", 0.0)
    back = threading.Event()

    def away(*_: Any, **__: Any) -> Any:
        if hangs:
            back.wait(30)
        raise HostUnavailable("the coordinator does not answer")

    async def ask(gateway: Gateway, secret: str, other: str) -> None:
        before = await gateway.principal(secret)
        gallery = await gateway.gallery(before, "acme/staff")
        with monkeypatch.context() as patch:
            patch.setattr(gateway.cluster.tenants, "authenticate", away)
            patch.setattr(gateway.cluster, "gallery", away)
            assert await gateway.principal(secret) is before
            patch.setattr("cluster.service.gateway.PATIENCE_S", 30.0)  # the first has waited; nobody else does
            assert await gateway.principal(secret) is before
            assert await gateway.gallery(before, "acme/staff") is gallery
            stranger = asyncio.create_task(gateway.principal(other))
            if not hangs:
                with pytest.raises(HostUnavailable):
                    await stranger
            back.set()
            await asyncio.gather(stranger, return_exceptions=True)
        gateway.cluster.tenants.revoke_key(before.key.key_id)
        assert await is_refused(gateway, secret)

    with Cluster.open(tmp_path / "home") as grid:
        grid.tenants.create("acme")
        secret, other = (grid.tenants.create_key("acme", name, scopes=("read",))[1] for name in ("a", "b"))
        grid.gallery("acme/staff", create=True, shards=1, dim=64)
        gateway = Gateway(grid)
        try:
            asyncio.run(ask(gateway, secret, other))
        finally:
            back.set()
            gateway.close()


def test_what_was_learned_is_answered_while_the_control_plane_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody asked for it here before. Keys that are of no use are not learned."""

    def away(*_: Any, **__: Any) -> Any:
        raise HostUnavailable("the coordinator does not answer")

    async def ask(gateway: Gateway) -> None:
        grid = gateway.cluster
        await gateway.learn()
        tenants = grid.tenants
        with monkeypatch.context() as patch:
            patch.setattr("cluster.service.auth.KEY_S", 0.0)
            patch.setattr("cluster.service.gateway.GALLERY_S", 0.0)
            patch.setattr(tenants, "authenticate", away)
            patch.setattr(grid, "gallery", away)
            of_tenant, of_operator, previous = [
                await gateway.principal(texts[name]) for name in ("good", "root", "previous")
            ]
            assert (of_tenant.tenant, of_operator.tenant) == (tenants.get("acme"), None)
            assert previous.key.name == "rotated"
            for name in ("revoked", "of dropped"):
                with pytest.raises(HostUnavailable):
                    await gateway.principal(texts[name])
            found = await gateway.gallery(of_tenant, "acme/staff")
            assert found.gallery_id == known.gallery_id
            assert (await gateway.gallery(of_operator, "beta/staff")).name == "beta/staff"
            with monkeypatch.context() as later:
                later.setattr("cluster.service.auth.AWAY_S", 0.0)
                with pytest.raises(HostUnavailable):
                    await gateway.principal(texts["good"])
            with pytest.raises(Unauthenticated):
                await gateway.gallery(of_tenant, "beta/staff")  # of another tenant

    with Cluster.open(tmp_path / "home") as grid:
        tenants, texts = grid.tenants, {}
        for tenant in ("acme", "beta", "gone"):
            tenants.create(tenant)
        for name, owner in (("good", "acme"), ("revoked", "acme"), ("rotated", "acme"), ("of dropped", "gone")):
            key, texts[name] = tenants.create_key(owner, name, scopes=("read",))
            if name == "revoked":
                tenants.revoke_key(key.key_id)
            if name == "rotated":
                texts["previous"] = texts[name]
                tenants.rotate_key(key.key_id, overlap_s=3600.0)
        texts["root"] = tenants.create_key(None, "root", scopes=("admin",))[1]
        tenants.drop("gone")
        known = grid.gallery("acme/staff", create=True, shards=1, dim=64)
        grid.gallery("beta/staff", create=True, shards=1, dim=64)
        with contextlib.closing(Gateway(grid)) as gateway:
            asyncio.run(ask(gateway))


def test_what_changes_while_everything_is_learned_is_not_forgotten_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was revoked and a gallery that was dropped after they were read; nor is a newer answer replaced."""
    read, go_on = threading.Event(), threading.Event()

    async def ask(gateway: Gateway, texts: list[str], ids: list[str]) -> None:
        galleries = gateway.cluster.galleries

        def slow() -> Any:
            found = galleries()
            read.set()
            assert go_on.wait(30)
            return found

        monkeypatch.setattr(gateway.cluster, "galleries", slow)
        learning = asyncio.create_task(gateway.learn())
        await asyncio.to_thread(read.wait, 30)
        operator = await gateway.principal(texts[0])
        gateway.cluster.drop("acme/old")
        gateway.forget_gallery("acme/old")
        gateway.cluster.tenants.revoke_key(ids[1])
        with pytest.raises(Unauthenticated):
            await gateway.principal(texts[1], is_fresh=True)
        newest = await gateway.gallery(operator, "acme/staff")
        go_on.set()
        await learning
        with pytest.raises(UnknownGallery):
            await gateway.gallery(operator, "acme/old")
        with pytest.raises(Unauthenticated):
            await gateway.principal(texts[1])
        assert await gateway.gallery(operator, "acme/staff") is newest

    with Cluster.open(tmp_path / "home") as grid:
        made = [grid.tenants.create_key(None, name, scopes=("admin",)) for name in ("a", "b")]
        for name in ("acme/staff", "acme/old"):
            grid.gallery(name, create=True, shards=1, dim=64)
        with contextlib.closing(Gateway(grid)) as gateway:
            asyncio.run(ask(gateway, [text for _, text in made], [record.key_id for record, _ in made]))


@pytest.mark.parametrize("error", [HostUnavailable("away"), RuntimeError("Ray raises anything")], ids=["away", "odd"])
def test_a_gateway_learns_again_whatever_was_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("cluster.service.gateway.LEARN_AGAIN_S", 0.0)

    async def ask(gateway: Gateway) -> None:
        galleries, calls = gateway.cluster.galleries, 0

        def fail_once() -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise error
            return galleries()

        monkeypatch.setattr(gateway.cluster, "galleries", fail_once)
        gateway.readiness.has_to_learn = True
        learning = asyncio.create_task(gateway.keep_learned())
        while not (gateway.readiness.was_ready or learning.done()):
            await asyncio.sleep(0.01)
        assert not learning.done()
        assert calls == 2
        learning.cancel()
        await asyncio.gather(learning, return_exceptions=True)

    with Cluster.open(tmp_path / "home") as grid, contextlib.closing(Gateway(grid)) as gateway:
        asyncio.run(ask(gateway))


async def is_refused(gateway: Gateway, secret: str) -> bool:
    """Whether a key is refused, at the latest when the look-up that hung, which may be shared still, has ended."""
    for _ in range(50):
        try:
            await gateway.principal(secret)
        except Unauthenticated:
            return True
        await asyncio.sleep(0.02)
    return False
