"""Every call to Ray, behind three classes: `RaySession` (a connection), `Actor` (a process) and `Pending` (a call).

Ray is imported on first use only. What Ray raises becomes a FacegridError here; what an actor's own code raises arrives
as an `Outcome`. Knows no galleries and no data plane. Ray's traps that shape this file: docs/data-plane.md.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from coordinator.actor_names import number_of
from coordinator.kept import kept
from coordinator.outcome import Outcome
from shard.errors import ClusterNotReady, FacegridError, HostUnavailable, InvalidParameter, MissingExtra

LOCAL = "local"
CONTROL_THREADS = 8
"""Calls that an actor carries out at once."""
HEALTH = "health"
"""Concurrency group of questions that must not wait behind work."""

DETACHED = "detached"
"""The session of actors that outlive the process that started them."""
KILL_S, KILL_PAUSE_S = 10.0, 0.02
"""How long Ray may take to free the name of an actor that was ended, and how often it is asked."""

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

    def __init__(
        self,
        actor: str,
        ref: Any,
        on_death: Callable[[], None] = lambda: None,
        failure: HostUnavailable | None = None,
    ) -> None:
        """on_death: called when it is found that the actor is gone for good. failure: of a call that was not begun."""
        self._actor = actor
        self._ref = ref
        self._on_death = on_death
        self._failure = failure

    def has_ended(self, timeout_s: float) -> bool:
        """Whether the call has come to an end, well or not; waits for it so long."""
        if self._failure is not None:
            return True
        done, _ = _ray().wait([self._ref], timeout=timeout_s)
        return bool(done)

    def result(self, timeout_s: float | None = None) -> Any:
        """What the actor's method returned.

        Raises the FacegridError it raised; HostUnavailable if the actor died, is restarting, or took too long.
        """
        if self._failure is not None:
            raise self._failure
        ray = _ray()
        try:
            outcome = ray.get(self._ref, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise HostUnavailable(f"{self._actor} did not answer within {timeout_s:g} s") from None
        except ray.exceptions.RayTaskError as error:
            raise FacegridError(f"internal error of {self._actor}: {error.cause!r}; see its log") from error
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ActorDiedError):
                self._on_death()
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise HostUnavailable(f"{self._actor} is unavailable: {reason}") from error
        assert isinstance(outcome, Outcome)
        return outcome.unwrap()


@kept
@dataclass(frozen=True, slots=True)
class ActorName:
    """How a process finds an actor that another one started. `title`: what it is, one of a kind in its session.

    session: a word of the RaySession that started it, since the actors of one that died may not be quite gone; DETACHED
    for actors that outlive it, of which a namespace has one of each title.
    """

    title: str
    session: str
    namespace: str

    @property
    def name(self) -> str:
        """Under which Ray knows it."""
        return f"{self.title} {self.session}"


class Actor:
    """An actor, as this process reaches it: one that is gone for good is looked for anew by its name."""

    def __init__(self, where: ActorName, handle: Any) -> None:
        self.where = where
        self.title = where.title
        self._handle = handle

    @classmethod
    def find(cls, where: ActorName) -> Actor:
        """The actor of that name. HostUnavailable if there is none, or if Ray cannot say."""
        return cls(where, _handle_of(where))

    @classmethod
    def seek(cls, where: ActorName) -> Actor | None:
        """The actor of that name, None if there is none: it was ended for good. HostUnavailable if Ray cannot say."""
        handle = _sought(where)
        return None if handle is None else cls(where, handle)

    def begin(self, method: str, *args: object, group: str | None = None) -> Pending:
        """Start a call; `group` is the concurrency group it runs in."""
        try:
            handle = self._handle = self._handle or _handle_of(self.where)
        except HostUnavailable as error:
            return Pending(self.title, None, failure=error)
        bound = getattr(handle, method)
        if group is not None:
            bound = bound.options(concurrency_group=group)
        return Pending(self.title, bound.remote(*args), self._forget)

    def _forget(self) -> None:
        self._handle = None

    def call(self, method: str, *args: object, group: str | None = None, timeout_s: float | None = None) -> Any:
        """Call and wait; see `Pending.result`."""
        return self.begin(method, *args, group=group).result(timeout_s)

    def kill(self) -> None:
        """End the process for good, and wait until its name is free again; nothing happens where there is none.

        HostUnavailable if Ray does not let go of it, or cannot say.
        """
        handle = self._handle or _sought(self.where)
        if handle is not None:
            _ray().kill(handle, no_restart=True)
        until = time.monotonic() + KILL_S
        while time.monotonic() < until:
            if _sought(self.where) is None:
                return
            time.sleep(KILL_PAUSE_S)
        raise HostUnavailable(f"{self.title} was ended, and Ray has it still after {KILL_S:g} s")


def share(value: object) -> object:
    """Put a value in the object store once; the reference, passed to several actors, arrives as the value."""
    return _ray().put(value)


def node_address() -> str:
    """Address of the node that this process is on, as other nodes know it; in an actor or a driver."""
    address: str = _ray().util.get_node_ip_address()
    return address


def siblings(of: ActorName, kind: str) -> list[ActorName]:
    """Actors of a kind that were started beside another one, by number."""
    beside = [where for where in _named() if (where.session, where.namespace) == (of.session, of.namespace)]
    return [where for _, where in numbered(beside, kind)]


def numbered(actors: Iterable[ActorName], kind: str) -> list[tuple[int, ActorName]]:
    """Those whose titles are of a kind, with their numbers, by these."""
    found = [(number_of(where.title, kind), where) for where in actors]
    return sorted(
        ((number, where) for number, where in found if number is not None),
        key=lambda pair: (pair[0], pair[1].namespace),
    )


def is_restarted() -> bool:
    """Whether the actor that this runs in was started again by Ray, with the arguments of the first time."""
    ray = _ray()
    return bool(ray.is_initialized() and ray.get_runtime_context().was_current_actor_reconstructed)


def node_here() -> str:
    """Id of the node that this process is on; in an actor or a driver. HostUnavailable elsewhere."""
    ray = _ray()
    if not ray.is_initialized():
        raise HostUnavailable("this process is on no node of a Ray cluster")  # Ray would start one of its own
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


class RaySession:
    """This process's connection to a Ray cluster."""

    def __init__(
        self, address: str, namespace: str, *, is_owner: bool, started_here: bool, is_detached: bool = False
    ) -> None:
        self.address = address
        self.namespace = namespace
        self.started_here = started_here
        self.is_detached = is_detached
        """Whether the actors that it starts outlive this process."""
        self._word = DETACHED if is_detached else secrets.token_hex(4)
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
    def join(cls, address: str, namespace: str, *, timeout_s: float, is_detached: bool = False) -> RaySession:
        """Connect to a running cluster at host:port. is_detached: actors started from here outlive this process.

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
            return cls(address, namespace, is_owner=False, started_here=False, is_detached=is_detached)
        _check_reachable(found["host"], int(found["port"]), timeout_s)
        try:
            ray.init(address=address, namespace=namespace, logging_level="warning", log_to_driver=False)
        except Exception as error:  # Ray raises anything from ConnectionError to RuntimeError here
            ray.shutdown()
            raise ClusterNotReady(f"cannot join the Ray cluster at {address}: {error}") from error
        return cls(address, namespace, is_owner=True, started_here=False, is_detached=is_detached)

    def nodes(self) -> list[Node]:
        """The live nodes."""
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
            for node in _ray().nodes()
            if node["Alive"]
        ]

    def named(self, title: str) -> list[ActorName]:
        """Actors of that title that are there, whatever session and namespace they are of."""
        return [where for where in _named() if where.title == title]

    def of_kind(self, kind: str) -> list[ActorName]:
        """Actors of a kind that are there, by number, whatever session and namespace they are of."""
        return [where for _, where in numbered(_named(), kind)]

    def detached(self) -> list[ActorName]:
        """Actors of this namespace that outlive the process that started them, by title."""
        return [where for where in _named() if where.namespace == self.namespace and where.session == DETACHED]

    def here(self) -> str:
        """Id of the node that this process is on."""
        return node_here()

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
        In a detached session the actor of that title is taken over if there is one, whatever its arguments were: see
        coordinator/kept.py. It takes no CPU from Ray's accounts: a shard host uses all cores of its node by itself.
        """
        ray = _ray()
        where = ActorName(title, self._word, self.namespace)
        strategy: Any = "SPREAD" if is_spread else None
        if node_id is not None:
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        lifetime: dict[str, object] = {"lifetime": "detached", "get_if_exists": True} if self.is_detached else {}
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
                **lifetime,
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


def _handle_of(where: ActorName) -> Any:
    handle = _sought(where)
    if handle is None:
        raise HostUnavailable(f"{where.title} is not running: Ray knows no actor {where.name!r}")
    return handle


def _sought(where: ActorName) -> Any:
    """The handle of an actor, None if there is none of that name. HostUnavailable if Ray cannot say."""
    ray = _ray()
    try:
        return ray.get_actor(where.name, namespace=where.namespace)
    except ValueError:
        return None
    except Exception as error:  # Ray raises anything while its control store is away
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise HostUnavailable(f"{where.title} could not be looked for: {reason}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _named() -> list[ActorName]:
    """Every actor that has a name such as ours."""
    split = [(actor["name"].rpartition(" "), actor["namespace"]) for actor in _all_named()]
    found = [ActorName(title, session, namespace) for (title, _, session), namespace in split if title]
    return sorted(found, key=lambda where: (where.namespace, where.name))


def _all_named() -> list[dict[str, str]]:
    named: list[dict[str, str]] = _ray().util.list_named_actors(all_namespaces=True)
    return named


def _gcs_address() -> str:
    address: str = _ray().get_runtime_context().gcs_address
    return address


def _check_reachable(host: str, port: int, timeout_s: float) -> None:
    """Ray itself waits for a minute and then ends the process when nothing answers."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        raise ClusterNotReady(f"no Ray cluster answers at {host}:{port}: {error}") from error
