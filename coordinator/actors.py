"""Every call to Ray, behind three classes: `RaySession` (a connection), `Actor` (a process) and `Pending` (a call).

Ray is imported on first use only. What Ray raises becomes a FacegridError here; what an actor's own code raises arrives
as an `Outcome`. Knows no galleries and no data plane. Ray's traps that shape this file: docs/data-plane.md.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from coordinator.outcome import Outcome
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter, MissingExtra

LOCAL = "local"
CONTROL_THREADS = 8
"""Calls that an actor carries out at once."""
HEALTH = "health"
"""Concurrency group of questions that must not wait behind work."""

_ADDRESS = re.compile(r"(?P<host>[^:/\s]+):(?P<port>\d{1,5})")
# Ray's own processes are configured by nothing else; set, never read, and only where the user has not.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@dataclass(frozen=True, slots=True)
class Node:
    """A live node of the cluster. `address`: its IP address, `resources`: names and amounts that it offers."""

    node_id: str
    address: str
    resources: dict[str, float]


class Pending:
    """A call under way."""

    def __init__(self, actor: str, ref: Any) -> None:
        self._actor = actor
        self._ref = ref

    def has_ended(self, timeout_s: float) -> bool:
        """Whether the call has come to an end, well or not; waits for it so long."""
        done, _ = _ray().wait([self._ref], timeout=timeout_s)
        return bool(done)

    def result(self, timeout_s: float | None = None) -> Any:
        """What the actor's method returned.

        Raises the FacegridError it raised; HostUnavailable if the actor died, is restarting, or took too long.
        """
        ray = _ray()
        try:
            outcome = ray.get(self._ref, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise HostUnavailable(f"{self._actor} did not answer within {timeout_s:g} s") from None
        except ray.exceptions.RayTaskError as error:
            raise FacegridError(f"internal error of {self._actor}: {error.cause!r}; see its log") from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise HostUnavailable(f"{self._actor} is unavailable: {type(error).__name__}: {reason}") from error
        assert isinstance(outcome, Outcome)
        return outcome.unwrap()


@dataclass(frozen=True, slots=True)
class ActorName:
    """How a process finds an actor that another one started. `title`: what it is, one of a kind in its session.

    session: a word of the RaySession that started it; the actors of one that died may not be quite gone.
    """

    title: str
    session: str
    namespace: str

    @property
    def name(self) -> str:
        """Under which Ray knows it."""
        return f"{self.title} {self.session}"


class Actor:
    """An actor's handle in this process."""

    def __init__(self, where: ActorName, handle: Any) -> None:
        self.where = where
        self.title = where.title
        self._handle = handle

    @classmethod
    def find(cls, where: ActorName) -> Actor:
        """The actor of that name. HostUnavailable if there is none."""
        try:
            return cls(where, _ray().get_actor(where.name, namespace=where.namespace))
        except ValueError as error:
            raise HostUnavailable(f"{where.title} is not running: {error}") from error

    def begin(self, method: str, *args: object, group: str | None = None) -> Pending:
        """Start a call; `group` is the concurrency group it runs in."""
        bound = getattr(self._handle, method)
        if group is not None:
            bound = bound.options(concurrency_group=group)
        return Pending(self.title, bound.remote(*args))

    def call(self, method: str, *args: object, group: str | None = None, timeout_s: float | None = None) -> Any:
        """Call and wait; see `Pending.result`."""
        return self.begin(method, *args, group=group).result(timeout_s)

    def kill(self) -> None:
        """End the process for good."""
        _ray().kill(self._handle, no_restart=True)


def share(value: object) -> object:
    """Put a value in the object store once; the reference, passed to several actors, arrives as the value."""
    return _ray().put(value)


def is_restarted() -> bool:
    """Whether the actor that this runs in was started again by Ray, with the arguments of the first time."""
    ray = _ray()
    return bool(ray.is_initialized() and ray.get_runtime_context().was_current_actor_reconstructed)


class RaySession:
    """This process's connection to a Ray cluster."""

    def __init__(self, address: str, namespace: str, *, is_owner: bool, started_here: bool) -> None:
        self.address = address
        self.namespace = namespace
        self.started_here = started_here
        self._word = secrets.token_hex(4)
        self._is_owner = is_owner

    @classmethod
    def start(cls, namespace: str, *, num_cpus: int | None, object_store_bytes: int) -> RaySession:
        """Start a Ray cluster on this machine and connect. ClusterNotReady if this process is connected to one."""
        ray = _ray()
        if ray.is_initialized():
            raise ClusterNotReady(
                f"this process is connected to the Ray cluster at {_gcs_address()} already; give its address instead"
                f" of {LOCAL!r}, or call ray.shutdown() first"
            )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        ray.init(
            address=LOCAL,
            namespace=namespace,
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            dashboard_host="127.0.0.1",
            logging_level="error",
            log_to_driver=False,
            _system_config={"worker_niceness": 0},
        )
        return cls(_gcs_address(), namespace, is_owner=True, started_here=True)

    @classmethod
    def join(cls, address: str, namespace: str, *, timeout_s: float) -> RaySession:
        """Connect to a running cluster at host:port.

        Raises InvalidParameter for an address of another form, ClusterNotReady if nothing answers there, if its
        versions of Ray or Python differ from this process's, or if this process is connected elsewhere.
        """
        ray = _ray()
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise InvalidParameter(f"Ray address: expected {LOCAL!r} or 'host:port', got {address!r}")
        if ray.is_initialized():
            if _gcs_address() != address:
                raise ClusterNotReady(
                    f"this process is connected to the Ray cluster at {_gcs_address()}, not {address}"
                )
            return cls(address, namespace, is_owner=False, started_here=False)
        _check_reachable(found["host"], int(found["port"]), timeout_s)
        try:
            ray.init(address=address, namespace=namespace, logging_level="warning", log_to_driver=False)
        except Exception as error:  # Ray raises anything from ConnectionError to RuntimeError here
            ray.shutdown()
            raise ClusterNotReady(f"cannot join the Ray cluster at {address}: {error}") from error
        return cls(address, namespace, is_owner=True, started_here=False)

    def nodes(self) -> list[Node]:
        """The live nodes."""
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
            for node in _ray().nodes()
            if node["Alive"]
        ]

    def named(self, title: str) -> list[ActorName]:
        """Actors of that title that are there, whatever session and namespace they are of."""
        actors = _ray().util.list_named_actors(all_namespaces=True)
        return [
            ActorName(title, actor["name"].removeprefix(f"{title} "), actor["namespace"])
            for actor in sorted(actors, key=lambda actor: (actor["namespace"], actor["name"]))
            if actor["name"].startswith(f"{title} ")
        ]

    def here(self) -> str:
        """Id of the node that this process is on."""
        node_id: str = _ray().get_runtime_context().get_node_id()
        return node_id

    def spawn(
        self,
        cls: type,
        args: Sequence[object],
        *,
        title: str,
        resources: dict[str, float] | None = None,
        node_id: str | None = None,
        gpus: float = 0.0,
        calls: int = CONTROL_THREADS,
        is_spread: bool = False,
    ) -> Actor:
        """Start an actor that Ray restarts whenever it dies, on the node of `node_id` or of `resources` if given.

        gpus: that it has to itself. calls: carried out at once. is_spread: rather on a node without others of its kind.
        It takes no CPU from Ray's accounts: a shard host uses all cores of its node by itself.
        """
        ray = _ray()
        where = ActorName(title, self._word, self.namespace)
        strategy: Any = "SPREAD" if is_spread else None
        if node_id is not None:
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        handle = (
            ray.remote(concurrency_groups={HEALTH: 1})(cls)
            .options(
                name=where.name,
                namespace=where.namespace,
                num_cpus=0,
                num_gpus=gpus,
                resources=resources,
                max_restarts=-1,
                max_concurrency=calls,
                scheduling_strategy=strategy,
            )
            .remote(*args)
        )
        return Actor(where, handle)

    def close(self) -> None:
        """Disconnect if this session connected; a cluster that it started ends. Idempotent."""
        if self._is_owner:
            self._is_owner = False
            _ray().shutdown()


def _ray() -> ModuleType:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtra("ray is not installed; pip install 'facegrid[cluster]'") from error
    return ray


def _gcs_address() -> str:
    address: str = _ray().get_runtime_context().gcs_address
    return address


def _check_reachable(host: str, port: int, timeout_s: float) -> None:
    """Ray itself waits for a minute and then ends the process when nothing answers."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        raise ClusterNotReady(f"no Ray cluster answers at {host}:{port}: {error}") from error
