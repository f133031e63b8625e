"""Stands in for the module `ray`, as far as `coordinator.actors` uses it: actors are objects of this process.

What is honest about it: names, namespaces, first arguments, nodes that come and go with what they offer, actors that
wait for a node, control stores that are away. Calls are carried out at once, in the caller's thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from coordinator.actor_names import CONTROL_RESOURCE, HOST_RESOURCE
from coordinator.actors import RaySession


class RayError(Exception):
    """As Ray's."""


class GetTimeoutError(RayError):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's."""


class ActorDiedError(RayError):
    """As Ray's."""


@dataclass
class FakeActor:
    """An actor with its first arguments. It runs while a node offers what it takes, once it was called."""

    ray: FakeRay
    make: Callable[[], Any]
    takes: frozenset[str]
    process: Any = None
    node: str = ""
    has_run: bool = False
    is_dead: bool = False

    def running(self) -> Any:
        """The process; None while no node offers what it takes."""
        with self.ray.starting:  # one at a time, whichever threads call it
            if self.process is None:
                nodes = [name for name, offers in self.ray.offered.items() if self.takes <= offers.keys()]
                if nodes:
                    self.ray.is_reconstructing = self.has_run
                    self.node, self.process, self.has_run = nodes[0], self.make(), True
                    self.ray.is_reconstructing = False
            return self.process

    def end(self) -> None:
        """Of the process, as when it is killed, except that it lets go of its files."""
        with self.ray.starting:
            process, self.process = self.process, None
        if process is not None:
            process.close()


@dataclass(frozen=True)
class Handle:
    """What a process has of an actor."""

    actor: FakeActor

    def __getattr__(self, method: str) -> Any:
        def remote(*args: object) -> Callable[[], Any]:
            process = None if self.actor.is_dead else self.actor.running()
            if process is None:
                return self._unanswered
            value = getattr(process, method)(*args)
            return lambda: value

        return SimpleNamespace(remote=remote, options=lambda **_: SimpleNamespace(remote=remote))

    def _unanswered(self) -> Any:
        raise ActorDiedError("it was ended") if self.actor.is_dead else GetTimeoutError("it does not run")


@dataclass
class FakeRay:
    """The module."""

    offered: dict[str, dict[str, float]] = field(default_factory=dict)
    """What live nodes offer, by node id."""
    named: dict[tuple[str, str], FakeActor] = field(default_factory=dict)
    fault: Exception | None = None
    """What looking up a name raises while the control store is away."""
    is_reconstructing: bool = False
    starting: threading.RLock = field(default_factory=threading.RLock)
    exceptions: ClassVar[Any] = SimpleNamespace(
        RayError=RayError, GetTimeoutError=GetTimeoutError, RayTaskError=RayTaskError, ActorDiedError=ActorDiedError
    )

    @property
    def util(self) -> Any:
        names = [{"name": name, "namespace": namespace} for name, namespace in self.named]
        return SimpleNamespace(list_named_actors=lambda **_: names, get_node_ip_address=lambda: "127.0.0.1")

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(was_current_actor_reconstructed=self.is_reconstructing, gcs_address="127.0.0.1:1")

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerAddress": "127.0.0.1", "Resources": offers, "Alive": True}
            for name, offers in self.offered.items()
        ]

    def get_actor(self, name: str, namespace: str) -> Handle:
        if self.fault is not None:
            raise self.fault
        if (name, namespace) not in self.named:
            raise ValueError(f"Failed to look up actor with name {name!r}")
        return Handle(self.named[name, namespace])

    def kill(self, handle: Handle, *, no_restart: bool) -> None:
        assert no_restart
        handle.actor.end()
        handle.actor.is_dead = True
        self.named = {key: actor for key, actor in self.named.items() if actor is not handle.actor}

    def get(self, ref: Callable[[], Any], timeout: float | None) -> Any:
        return ref()

    def wait(self, refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        done = [ref for ref in refs if getattr(ref, "__name__", "") != "_unanswered"]
        return done, []

    def put(self, value: object) -> object:
        return value

    def shutdown(self) -> None:
        pass

    def remote(self, **_: object) -> Callable[[type], Any]:
        def actor_class(cls: type) -> Any:
            def options(*, name: str, namespace: str, resources: Mapping[str, float] | None, **_: object) -> Any:
                def remote(*args: object) -> Handle:
                    there = self.named.get((name, namespace))
                    actor = there or FakeActor(self, lambda: cls(*args), frozenset(resources or ()))
                    self.named[name, namespace] = actor
                    actor.running()
                    return Handle(actor)

                return SimpleNamespace(remote=remote)

            return SimpleNamespace(options=options)

        return actor_class

    # What happens to it

    def actor(self, title: str) -> FakeActor:
        """The detached actor of that title."""
        (found,) = [actor for (name, _), actor in self.named.items() if name == f"{title} detached"]
        return found

    def restart(self, title: str) -> Any:
        """Have an actor's process die and start again with its first arguments; the process."""
        self.actor(title).end()
        return self.actor(title).running()

    def add_host(self, name: str, node: str | None = None) -> None:
        """A node comes that offers to be a shard host."""
        self.offered[node or f"node of {name}"] = {f"{HOST_RESOURCE}{name}": 1.0}
        for actor in list(self.named.values()):
            actor.running()

    def remove_node(self, node: str) -> None:
        """A node goes, and the processes on it."""
        del self.offered[node]
        for actor in self.named.values():
            if actor.node == node:
                actor.end()

    def close(self) -> None:
        """End all processes, the coordinator first."""
        for actor in sorted(self.named.values(), key=lambda actor: CONTROL_RESOURCE not in actor.takes):
            actor.end()


def _joined(address: str, namespace: str, *, timeout_s: float, is_detached: bool = False) -> RaySession:
    return RaySession(address, namespace, is_owner=False, started_here=False, is_detached=is_detached)


@contextlib.contextmanager
def fake_ray(patch: pytest.MonkeyPatch, *hosts: str) -> Iterator[FakeRay]:
    """A Ray cluster on which each host has a node, and the coordinator one of its own."""
    ray = FakeRay({"control": {CONTROL_RESOURCE: 1.0}})
    for host in hosts:
        ray.add_host(host)
    patch.setattr("coordinator.actors._ray", lambda: ray)
    patch.setattr(RaySession, "join", _joined)
    try:
        yield ray
    finally:
        ray.close()
