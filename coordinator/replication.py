"""`Replication`: keeps every shard on as many live hosts as its gallery asks for.

It looks at the hosts, decides who is primary and who is in sync, writes that into the catalog, and only then tells the
hosts. The catalog's epoch is the one truth: of two coordinators that decide at once one is refused there, and what a
host was told under an earlier epoch it refuses from then on. So nothing here has to be remembered: a coordinator that
starts again looks, and goes on. `tick` is one round; who calls it how often is the owner's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from coordinator.catalog import CREATING, DROPPING, LOOKED_AFTER, Catalog
from coordinator.directories import tenant_of
from coordinator.kept import kept
from coordinator.messages import (
    AdmitReplica,
    CheckReply,
    CheckShard,
    ConfiguredReply,
    ConfigureShards,
    ControlRequest,
    CreateShard,
    DigestReply,
    DigestRequest,
    DropGallery,
    DropShard,
    HealthReply,
    HealthRequest,
    InventoryReply,
    InventoryRequest,
    Reply,
    SetKeys,
    SetPeers,
    ShardHealth,
    YieldReply,
    YieldShards,
)
from coordinator.placement import balance_moves, is_level, spare_host
from coordinator.runtime import Runtime
from coordinator.types import DOWN, DRAINING, GONE, UP, HostRecord, ShardConfig
from shard.errors import (
    CorruptData,
    FacegridError,
    InvalidParameter,
    KeyUnavailable,
    StaleRoute,
    UnknownGallery,
    WrongKey,
    error_from_code,
)

PROBE_S = 1.0
"""How long a host may take to say that it is there."""
DIGEST_S = 60.0
"""How long a host may take to read all records of a shard."""
CONTROL_AT_ONCE = 64
"""Hosts that are told something side by side."""
HAND_OVER_AT_ONCE = 16
"""Shards that are handed over together: writes to the last wait until the others are configured."""
YIELD_S = 5.0
"""The longest that a primary takes no writes for a hand-over."""
TELL_S = 1.0
"""What is left of that, at least, when another one is chosen: time to write it down and to tell the hosts."""
LEAVING_S = 60.0
"""How long a host that leaves may take to end, before it is made to hold shards again."""
SCRUB_ALL_S = 24 * 3_600.0
"""Time in which every replica's files are read once."""
SCRUB_PAUSE_S = 30.0
"""Shortest pause between two replicas."""
Key = tuple[str, int]
Bring = Callable[[str, int, str], None]
"""Has a shard of a gallery (id, number) on a host be searched by the gallery's model as the catalog says now."""
_LOCKED = (KeyUnavailable.code, WrongKey.code)
"""Faults of a shard whose key is not to be had: nothing of it is lost, and no other replica could do better."""
_LOG = logging.getLogger(__name__)


@kept
@dataclass(frozen=True, slots=True)
class ReplicationPolicy:
    """dead_s: silence after which a host is out. away_s: how long a host that is out may stay away before its shards
    are copied to a spare one. copies: shards copied at a time.
    """

    dead_s: float = 2.0
    away_s: float = 60.0
    copies: int = 2


class Replication:
    """The replicas of one home. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        runtime: Runtime,
        bring: Bring,
        policy: ReplicationPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """bring: how a replica gets its gallery's model before it counts as one in sync."""
        self._catalog, self._runtime, self._clock, self._bring = catalog, runtime, clock, bring
        self.arrivals = threading.Event()
        """Set when a host came, or came back: it may have missed a rollout. Whoever sees to that clears it."""
        self.policy = policy or ReplicationPolicy()
        self._deciding = threading.RLock()
        self._seen: dict[str, float] = {}
        self._present: frozenset[str] = frozenset()
        self._addresses: dict[str, tuple[str, int]] = {}
        self._incarnations: dict[str, int] = {}
        self._keyed: dict[str, tuple[int, dict[str, bytes]]] = {}
        self._keyless: dict[str, FacegridError] = {}
        self._is_started = False
        self._told: dict[tuple[str, Key], int] = {}
        self._left: dict[Key, str] = {}
        self._leaving: dict[str, float] = {}
        """Hosts that are about to end, and until when they are given no replica."""
        self._copying: dict[tuple[Key, str], Future[None]] = {}
        self._creating: set[str] = set()
        self._copier = ThreadPoolExecutor(self.policy.copies, thread_name_prefix="facegrid-copy")
        self._scrubbing: Future[None] | None = None
        self._turn = 0
        self._is_closed = False

    def start(self) -> None:
        """Learn which hosts are there and tell them what they hold; raises why a shard cannot be opened on any of them.

        A replica that is damaged or missing is given up where another one is in sync.
        """
        self._catalog.register_hosts(self._runtime.hosts())
        self._look()
        self._is_started = True
        self.finish_drops()
        faults = self._tell_all()
        lost = [fault for (host, key), fault in faults.items() if not self._give_up(host, key, fault)]
        if lost:
            code, _, message = lost[0].partition(": ")
            raise error_from_code(code, message)

    def close(self) -> None:
        """Let copies under way end. Idempotent."""
        self._is_closed = True
        self._copier.shutdown(cancel_futures=True)

    # What the hosts say

    def tick(self) -> None:
        """Look at every host, and do what is to be done about what changed."""
        self._catalog.register_hosts(self._runtime.hosts())
        replies = self._look()
        with self._deciding:
            self.finish_drops()
            self._note_states(replies)
            for host, reply in replies.items():
                for health in reply.shards:
                    self._heed(host, health)
            for (host, key), fault in self._tell_all().items():
                self._give_up(host, key, fault)
            self._copy_what_joins()
            self._replace_missing()
            self._move()
            self._remove_surplus()
            self._remove_leftovers()

    def report(self, gallery_id: str, shard: int, epoch: int, error: str) -> None:
        """A write was not confirmed under the epoch: look at the shard now, and go on without whoever fails."""
        if self._catalog.shard(gallery_id, shard).epoch != epoch:
            return  # decided already: nobody waits for what is being decided about other shards
        with self._deciding:
            config = self._catalog.shard(gallery_id, shard)
            if config.epoch != epoch:
                return
            _LOG.warning("a write to shard %d of %s was not confirmed: %s", shard, gallery_id, error)
            replies = self._probe(config.in_sync, gallery_id, (shard,))
            for host in config.in_sync:
                if host not in replies and len(config.in_sync) > 1:
                    self._lose((gallery_id, shard), host, "it does not answer")
            for host, reply in replies.items():
                for health in reply.shards:
                    self._heed(host, health)
            self._tell_all()

    def _look(self) -> dict[str, HealthReply]:
        replies = self._probe(self._runtime.hosts(), "", ())
        self._present = frozenset(replies)
        self._introduce(replies)
        self._hand_keys(replies)
        for host in replies:
            self._seen[host] = self._clock()
        for host in self._started(replies):
            self._incarnations[host] = replies[host].incarnation
            self._leaving.pop(host, None)
            self.arrivals.set()
            for told in [told for told in list(self._told) if told[0] == host]:
                self._told.pop(told, None)
            self._clean(host)
        return replies

    def _introduce(self, replies: dict[str, HealthReply]) -> None:
        """Tell the hosts where the others are, those that have just started and, if one has moved, all."""
        addresses = self._runtime.addresses()
        told = replies if addresses != self._addresses else self._started(replies)
        self._addresses = addresses
        if not addresses:
            return
        names = tuple(sorted(addresses))
        message = SetPeers(names, tuple(addresses[n][0] for n in names), tuple(addresses[n][1] for n in names))
        self._control_each([(host, message) for host in told])  # one silent by now is told when it is seen again

    def _hand_keys(self, replies: dict[str, HealthReply]) -> None:
        """Give the hosts the keys of encrypted tenants: those that have just started, and all if there are others."""
        # A key service that hangs must hold up nobody but its tenants, once the home is open.
        keys, failures = self._catalog.keys.all(wait=not self._is_started)
        for tenant_id in failures.keys() - self._keyless.keys():
            _LOG.error("tenant %s cannot be served: %s", tenant_id, failures[tenant_id])
        self._keyless = failures
        for host, reply in replies.items():
            if self._keyed.get(host) != (reply.incarnation, keys):
                with contextlib.suppress(FacegridError):  # silent by now; it is told when it is seen again
                    self._runtime.control([(host, SetKeys(tuple(keys), tuple(keys.values())))])
                    before = self._keyed.get(host, (0, {}))[1]
                    self._keyed[host] = (reply.incarnation, keys)
                    self._tell_again(host, keys.keys() - before.keys())

    def _tell_again(self, host: str, tenant_ids: Set[str]) -> None:
        """Shards of these tenants may have been closed for want of their key: they do not know what they are."""
        for told in list(self._told) if tenant_ids else ():
            if told[0] == host and tenant_of(told[1][0]) in tenant_ids:
                self._told.pop(told, None)

    def hand_keys(self) -> None:
        """Give the hosts that are there the keys as they are now; those that are not get them when they come."""
        self._hand_keys(self._probe(self._runtime.hosts(), "", ()))

    def _started(self, replies: dict[str, HealthReply]) -> list[str]:
        return [host for host, reply in replies.items() if self._incarnations.get(host) != reply.incarnation]

    def _probe(self, hosts: Iterable[str], gallery_id: str, shards: tuple[int, ...]) -> dict[str, HealthReply]:
        return dict(self._probe_each([(host, HealthRequest(gallery_id, shards)) for host in hosts]))

    def _probe_each(self, questions: Iterable[tuple[str, HealthRequest]]) -> list[tuple[str, HealthReply]]:
        """The answers of those that are there, with their names."""
        deadline = time.monotonic() + PROBE_S
        asked = [(host, self._runtime.submit(host, question, deadline=deadline)) for host, question in questions]
        replies: list[tuple[str, HealthReply]] = []
        for host, future in asked:
            with contextlib.suppress(FacegridError, TimeoutError):
                reply = future.result(max(0.0, deadline - time.monotonic()) + 0.5)
                if isinstance(reply, HealthReply):
                    replies.append((host, reply))
        return replies

    def _note_states(self, replies: dict[str, HealthReply]) -> None:
        now = self._clock()
        for record in self._catalog.hosts():
            silent_s = now - self._seen.setdefault(record.host, now)
            if record.host in replies and record.state in (DOWN, GONE):
                self._set_state(record, UP)
                self.arrivals.set()
            elif record.host in replies or silent_s < self.policy.dead_s:
                continue
            elif self._is_gone(record):
                self._set_state(record, GONE)
            elif record.state in (UP, DRAINING):
                self._set_state(record, DOWN)
                for config in self._catalog.shards_on(record.host):
                    self._lose((config.gallery_id, config.shard), record.host, f"silent for {silent_s:.1f} s")

    def _is_gone(self, record: HostRecord) -> bool:
        """Nobody misses it: it was to be drained, and holds nothing, nor anything that is to be removed from it still.

        A host that was just lost may come back with files of what was dropped meanwhile, so it is missed for ever.
        """
        if record.state != DRAINING or self._catalog.ids(DROPPING, CREATING):
            return False
        return not self._catalog.shards_on(record.host)

    def _set_state(self, record: HostRecord, state: str) -> None:
        _LOG.warning("shard host %s is %s", record.host, state)
        self._catalog.set_host_state(record.host, state, time.time())

    def _heed(self, host: str, health: ShardHealth) -> None:
        """A shard that is in trouble on a live host."""
        key = (health.gallery_id, health.shard)
        if health.epoch == 0:
            self._told.pop((host, key), None)
        for silent in health.unconfirmed:
            with contextlib.suppress(FacegridError):
                if self._catalog.shard(*key).epoch == health.epoch:
                    self._lose(key, silent, f"{host} does not hear it")
        if health.fault:
            is_out = self._lose(key, host, health.fault)
            if is_out and health.fault.startswith(CorruptData.code):
                # What is damaged is no start for catching up.
                self._drop(host, self._catalog.shard(*key))

    # Decisions

    def _lose(self, key: Key, host: str, why: str) -> bool:
        """Go on without a host's replica, promoting another where it was primary; whether it is out of the way."""
        with self._deciding:
            config = self._catalog.shard(*key)
            if host in config.joining:
                fewer = replace(config, joining=_without(config.joining, host))
                return self._decide(fewer, f"{host} is out: {why}") is not None
            if host not in config.in_sync:
                return True
            others = _without(config.in_sync, host)
            if not others:
                return False
            self._left[key] = host
            if host != config.primary:
                return self._decide(replace(config, in_sync=others), f"{host} is out of sync: {why}") is not None
            lsns = self._followers(key, others)
            if not lsns:
                return False
            # The one that is furthest: the others need not begin anew then.
            best = max(sorted(lsns), key=lambda other: lsns[other])
            in_sync = (best, *(other for other in others if other in lsns and other != best))
            follower = replace(config, primary=best, in_sync=in_sync)
            return self._decide(follower, f"{best} follows {host}: {why}") is not None

    def _followers(self, key: Key, hosts: Sequence[str]) -> dict[str, int]:
        """Those of the hosts whose replica can be primary now, and its LSN."""
        return self._followers_of({key: hosts})[key]

    def _followers_of(self, hosts: Mapping[Key, Sequence[str]]) -> dict[Key, dict[str, int]]:
        """For each shard those of its hosts whose replica can be primary now, and its LSN; all are asked at once."""
        asked: dict[tuple[str, str], list[int]] = {}
        for (gallery_id, shard), names in hosts.items():
            for name in names:
                asked.setdefault((name, gallery_id), []).append(shard)
        followers: dict[Key, dict[str, int]] = {key: {} for key in hosts}
        questions = [(name, HealthRequest(gallery_id, tuple(shards))) for (name, gallery_id), shards in asked.items()]
        for name, reply in self._probe_each(questions):
            for health in reply.shards:
                key = (health.gallery_id, health.shard)
                if name in hosts.get(key, ()) and not health.fault and not health.is_catching_up:
                    followers[key][name] = health.lsn
        return followers

    def _decide(
        self, config: ShardConfig, why: str, gives_up: str | None = None, leaves: str | None = None
    ) -> ShardConfig | None:
        """Write a configuration into the catalog and tell the hosts; None if somebody else decided first.

        gives_up: a host that holds the shard no more under it, which is told first: once it has removed its replica,
        nobody needs to wait until it must have noticed. leaves: a host that is there and has no part in it any more,
        which is told too: the others wait for it until it has said that it knows.
        """
        try:
            decided = self._catalog.reconfigure(config)
        except (StaleRoute, UnknownGallery) as error:
            _LOG.info("overtaken: %s", error)
            return None
        _LOG.warning("shard %d of %s, epoch %d: %s", decided.shard, decided.gallery_id, decided.epoch, why)
        if leaves is not None:
            self._tell_without(decided, leaves)
        else:
            self._tell([decided], (gives_up,) if gives_up is not None and self._drop(gives_up, decided) else ())
        return decided

    def _give_up(self, host: str, key: Key, fault: str) -> bool:
        """A replica that cannot be opened: removed, to be copied anew, where another one is in sync."""
        _LOG.error("shard %d of %s on %s cannot be opened: %s", key[1], key[0], host, fault)
        config = self._catalog.shard(*key)
        if host in config.joining:
            self._drop(host, config)
            self._told.pop((host, key), None)
            return True
        return self._lose(key, host, fault)

    # Telling

    def _tell_all(self) -> dict[tuple[str, Key], str]:
        """Tell every live host what it has not been told; faults by host and shard."""
        return self._tell(self._catalog.shards())

    def _tell(self, configs: Sequence[ShardConfig], released: tuple[str, ...] = ()) -> dict[tuple[str, Key], str]:
        news: dict[str, list[ShardConfig]] = {}
        for config in configs:
            for host in (*config.in_sync, *config.joining):
                if self._told.get((host, (config.gallery_id, config.shard)), 0) < config.epoch and self._is_there(host):
                    news.setdefault(host, []).append(config)
        if not news:
            return {}
        minima = self._catalog.min_in_sync({config.gallery_id for told in news.values() for config in told})
        faults: dict[tuple[str, Key], str] = {}
        requests = [
            (host, ConfigureShards(tuple(told), tuple(minima.get(c.gallery_id, 1) for c in told), released))
            for host, told in news.items()
        ]
        replies = self._control_each(requests)
        for host, reply in zip(news, replies, strict=True):
            if not isinstance(reply, ConfiguredReply):
                continue
            for config, fault in zip(news[host], reply.faults, strict=True):
                key = (config.gallery_id, config.shard)
                if not fault:
                    self._told[host, key] = config.epoch
                elif host in config.in_sync and fault.partition(":")[0] not in _LOCKED:
                    faults[host, key] = fault
        return faults

    def _tell_without(self, config: ShardConfig, host: str) -> None:
        """Tell a configuration to its hosts, then to one that it is without, and once that one knows, that it does.

        What it has taken up it keeps to, whatever becomes of it or of this process; one that does not say so in time is
        waited for like one that is silent. The others come first: they need its leases until they have been told.
        """
        self._tell([config])
        minimum = self._catalog.min_in_sync({config.gallery_id}).get(config.gallery_id, 1)
        reply = self._control(host, ConfigureShards((config,), (minimum,)))
        if isinstance(reply, ConfiguredReply) and not any(reply.faults):
            known = ConfigureShards((config,), (minimum,), (host,))
            self._control_each([(other, known) for other in config.in_sync if self._is_there(other)])

    def _is_there(self, host: str) -> bool:
        """It answered when it was asked last."""
        return host in self._present

    def _control_each(self, calls: Sequence[tuple[str, ControlRequest]]) -> list[Reply | None]:
        """Tell each host its own, CONTROL_AT_ONCE side by side: one that is silent holds up few others."""
        if len(calls) < 2:
            return [self._control(*call) for call in calls]
        with ThreadPoolExecutor(min(len(calls), CONTROL_AT_ONCE)) as pool:
            return list(pool.map(lambda call: self._control(*call), calls))

    def _control(self, host: str, request: ControlRequest) -> Reply | None:
        try:
            (reply,) = self._runtime.control([(host, request)])
        except FacegridError as error:
            _LOG.warning("shard host %s could not be told (%s): %s", host, type(request).__name__, error)
            return None
        return reply

    # Copying

    def _copy_what_joins(self) -> None:
        for key, future in list(self._copying.items()):
            if future.done():
                del self._copying[key]
                if not future.cancelled() and (error := future.exception()) is not None:
                    _LOG.error("copying %s to %s failed unexpectedly", *key, exc_info=error)
        for config in self._catalog.shards():
            for host in config.joining:
                key = ((config.gallery_id, config.shard), host)
                if key not in self._copying and self._is_there(host) and not self._is_closed:
                    self._copying[key] = self._copier.submit(self._copy, *key)

    def copying(self) -> list[tuple[Key, str]]:
        """(gallery id, shard) and the host that copies it, of copies under way or waiting."""
        return [key for key, future in self._copying.items() if not future.done()]

    def _copy(self, key: Key, host: str) -> None:
        """Make a joining replica one in sync."""
        try:
            config = self._catalog.shard(*key)
            route = next((r for r in self._catalog.galleries(*LOOKED_AFTER) if r.gallery_id == key[0]), None)
            if route is None or host not in config.joining:
                return
            is_encrypted = self._catalog.keys.is_encrypted(key[0])
            self._runtime.control([(host, CreateShard(*key, route.dim, is_encrypted))])
            # Before the rows come, so that each is encoded as it does.
            self._bring(*key, host)
            self._tell([config])
            self._runtime.control([(config.primary, AdmitReplica(*key, config.epoch, host))])
            # Again, since a rollout may have come meanwhile, which does not wait for replicas that join.
            self._bring(*key, host)
            with self._deciding:
                in_sync = (config.primary, *sorted({*config.in_sync[1:], host}))
                grown = replace(config, in_sync=in_sync, joining=_without(config.joining, host))
                decided = self._decide(grown, f"{host} is in sync")
            if decided is not None:
                self._see_to_model(key, host)
        except FacegridError as error:
            # The next round tries again, under the configuration of then.
            _LOG.warning("copying shard %d of %s to %s failed: %s", key[1], key[0], host, error)
            if error.code == "corrupt_data":
                self._drop(host, self._catalog.shard(*key))

    def _see_to_model(self, key: Key, host: str) -> None:
        """A rollout that was decided between the last look and the catalog's word that the replica is in sync."""
        try:
            self._bring(*key, host)
        except FacegridError as error:
            _LOG.warning("the model of shard %d of %s on %s is to be seen to: %s", key[1], key[0], host, error)
            self.arrivals.set()

    def _replace_missing(self) -> None:
        """Choose a host for every replica that is missing: the one that left if it is back, else, in time, a spare."""
        records = {record.host: record for record in self._catalog.hosts()}
        eligible = [
            host
            for host, record in records.items()
            if record.state == UP and self._is_there(host) and not self._is_leaving(host)
        ]
        load = self._catalog.shards_per_host()
        routes = {route.gallery_id: route for route in self._catalog.galleries(*LOOKED_AFTER)}
        for config in self._catalog.shards():
            key, route = (config.gallery_id, config.shard), routes.get(config.gallery_id)
            if route is None or len(config.in_sync) + len(config.joining) >= route.replicas:
                continue
            left = self._left.get(key)
            if left is not None and left in eligible and left not in (*config.in_sync, *config.joining):
                host: str | None = left
            elif any(self._may_come_back(record) for record in records.values()):
                continue
            else:
                host = spare_host(config, load, eligible)
            if host is not None:
                load = {**load, host: load.get(host, 0) + 1}
                self._decide(
                    replace(config, joining=tuple(sorted((*config.joining, host)))), f"{host} copies what is missing"
                )

    def _may_come_back(self, record: HostRecord) -> bool:
        if record.state == DOWN:
            return time.time() - record.since < self.policy.away_s
        return record.state in (UP, DRAINING) and (not self._is_there(record.host) or self._is_leaving(record.host))

    def _is_leaving(self, host: str) -> bool:
        return self._leaving.get(host, 0.0) > self._clock()

    def _move(self) -> None:
        """Towards even hosts, and none on those that are drained."""
        records = self._catalog.hosts()
        eligible = [record.host for record in records if record.state == UP]
        load = self._catalog.shards_per_host()
        if is_level(eligible, load):
            return
        configs = self._catalog.shards()
        is_silent = any(record.state in (UP, DRAINING) and not self._is_there(record.host) for record in records)
        may_return = any(map(self._may_come_back, records))
        if is_silent or may_return or not eligible or any(config.joining for config in configs):
            return  # one thing at a time: a host that is missed is seen to first
        away = {record.host for record in records if record.state in (DOWN, GONE)}
        configs = [config for config in configs if not away & set(config.in_sync)]
        moves = balance_moves(configs, eligible, load)
        by_key = {(config.gallery_id, config.shard): config for config in configs}
        for move in moves[: self.policy.copies]:
            config = by_key[move.gallery_id, move.shard]
            self._decide(
                replace(config, joining=tuple(sorted((*config.joining, move.target)))),
                f"{move.target} copies it to take it over from {move.source}",
            )

    def _remove_surplus(self) -> None:
        """A shard with more replicas in sync than asked for gives one up: a drained one, or the fullest host's."""
        states = {record.host: record.state for record in self._catalog.hosts()}
        load = self._catalog.shards_per_host()
        replicas = {route.gallery_id: route.replicas for route in self._catalog.galleries(*LOOKED_AFTER)}
        for config in self._catalog.shards():
            if len(config.in_sync) <= replicas.get(config.gallery_id, len(config.in_sync)):
                continue
            surplus = max(config.in_sync, key=lambda host: (states.get(host) == DRAINING, load.get(host, 0), host))
            others = _without(config.in_sync, surplus)
            primary = config.primary
            if surplus == primary:
                followers = self._followers((config.gallery_id, config.shard), others)
                if not followers:
                    continue  # the next round sees
                primary = max(sorted(followers), key=followers.__getitem__)
            in_sync = (primary, *_without(others, primary))
            fewer = replace(config, primary=primary, in_sync=in_sync)
            if self._decide(fewer, f"{surplus} gives it up", gives_up=surplus) is not None:
                load = {**load, surplus: load.get(surplus, 1) - 1}

    # Comparing

    def compare(self) -> list[str]:
        """Whether the replicas of each shard hold the same; what differs from its primary is copied anew.

        Returns what was found. Replicas that are at the same LSN hold the same rows in the same segments, so that their
        checksums tell; of one that is behind nothing is said.
        """
        found: list[str] = []
        names = {route.gallery_id: route.name for route in self._catalog.galleries()}
        for config in self._catalog.shards():
            if len(config.in_sync) < 2:
                continue
            digests = {host: self._digest(config, host) for host in config.in_sync}
            own = digests[config.primary]
            for host, digest in digests.items():
                if own is None or digest is None or digest.position != own.position or digest == own:
                    continue
                gallery = names.get(config.gallery_id, config.gallery_id)
                found.append(f"shard {config.shard} of {gallery} on {host} differs from {config.primary}")
                _LOG.error("%s; it is copied anew", found[-1])
                if self._lose((config.gallery_id, config.shard), host, "it differs from its primary"):
                    self._drop(host, self._catalog.shard(config.gallery_id, config.shard))
        return found

    def scrub_next(self) -> None:
        """Have the next replica, in turn, read all its sealed files, and mend them from another; beside everything."""
        turns = [(config, host) for config in self._catalog.shards() for host in config.in_sync]
        if turns and not self._is_closed and (self._scrubbing is None or self._scrubbing.done()):
            config, host = turns[self._turn % len(turns)]
            self._turn += 1
            others = [other for other in config.in_sync if other != host and self._is_there(other)]
            self._scrubbing = self._copier.submit(self._scrub, config, host, others[0] if others else "")

    def scrub_pause_s(self) -> float:
        """Pause after which the next replica's turn comes, so that each has one a day."""
        replicas = sum(len(config.in_sync) for config in self._catalog.shards())
        return max(SCRUB_PAUSE_S, SCRUB_ALL_S / max(1, replicas))

    def _scrub(self, config: ShardConfig, host: str, source: str) -> None:
        try:
            (reply,) = self._runtime.control([(host, CheckShard(config.gallery_id, config.shard, source))])
        except FacegridError as error:
            _LOG.warning("shard %d of %s on %s was not checked: %s", config.shard, config.gallery_id, host, error)
            return
        assert isinstance(reply, CheckReply)
        for fault in reply.faults:
            _LOG.error("shard %d of %s on %s was damaged: %s", config.shard, config.gallery_id, host, fault)

    def _digest(self, config: ShardConfig, host: str) -> DigestReply | None:
        request = DigestRequest(config.gallery_id, config.shard)
        with contextlib.suppress(FacegridError, TimeoutError):
            reply = self._runtime.submit(host, request, deadline=time.monotonic() + DIGEST_S).result(DIGEST_S)
            if isinstance(reply, DigestReply):
                return reply
        return None

    # Removing

    def _drop(self, host: str, config: ShardConfig) -> bool:
        """Remove a replica's files; whether it is done. A host that cannot be told now is cleaned when it is there.

        Never one that is in sync as of `config`, whatever the caller thinks of it.
        """
        if host in config.in_sync:
            _LOG.error("shard %d of %s on %s is in sync and was not removed", config.shard, config.gallery_id, host)
            return False
        self._told.pop((host, (config.gallery_id, config.shard)), None)
        try:
            self._runtime.control([(host, DropShard(config.gallery_id, config.shard, config.epoch))])
        except FacegridError as error:
            _LOG.warning("shard %d of %s stays on %s for now: %s", config.shard, config.gallery_id, host, error)
            return False
        return True

    def _clean(self, host: str) -> None:
        """A host that has just come may hold what it lost meanwhile: shards that others have, galleries dropped."""
        try:
            (found,) = self._runtime.control([(host, InventoryRequest())])
            routes = {route.gallery_id: route for route in self._catalog.galleries(*LOOKED_AFTER)}
            configs = {(config.gallery_id, config.shard): config for config in self._catalog.shards()}
            assert isinstance(found, InventoryReply)
            for key in zip(found.galleries, found.shards, strict=True):
                config = configs.get(key)
                if config is None or host in (*config.in_sync, *config.joining):
                    continue
                if len(config.in_sync) < routes[key[0]].replicas:
                    self._left[key] = host  # the quickest to be level again
                else:
                    self._drop(host, config)
        except FacegridError as error:
            _LOG.warning("what shard host %s holds could not be seen: %s", host, error)
            self._incarnations.pop(host, None)

    def _remove_leftovers(self) -> None:
        """What a host had when it left, and did not get back because another one was quicker to copy it."""
        if not self._left:
            return
        replicas = {route.gallery_id: route.replicas for route in self._catalog.galleries(*LOOKED_AFTER)}
        for config in self._catalog.shards():
            key = (config.gallery_id, config.shard)
            host = self._left.get(key)
            if host is None or len(config.in_sync) < replicas.get(config.gallery_id, len(config.in_sync) + 1):
                continue
            if host in (*config.in_sync, *config.joining) or (self._is_there(host) and self._drop(host, config)):
                del self._left[key]

    @contextlib.contextmanager
    def creating(self, gallery_id: str) -> Iterator[None]:
        """Inside, a gallery that is not completely created yet is not taken for one that was left so."""
        self._creating.add(gallery_id)
        try:
            yield
        finally:
            self._creating.discard(gallery_id)

    def finish_drops(self) -> None:
        """Remove galleries that were dropped, or not completely created, from the hosts that are there.

        The catalog remembers one until every host has removed it: a host that is away may hold it still. What the
        catalog does not know at all is never removed.
        """
        idle = set(self._catalog.ids(DROPPING, CREATING)) - self._creating
        if not idle:
            return
        # Asked again: one may have been completed before it was found that nobody is creating it any more.
        unfinished = [route for route in self._catalog.galleries(DROPPING, CREATING) if route.gallery_id in idle]
        names = [record.host for record in self._catalog.hosts() if record.state != GONE]
        for route in unfinished:
            left = 0
            for host in names:
                if not self._is_there(host):
                    left += 1
                    continue
                try:
                    self._runtime.control([(host, DropGallery(route.gallery_id))])
                except FacegridError as error:
                    _LOG.warning("gallery %s is not removed from %s yet: %s", route.gallery_id, host, error)
                    left += 1
            if not left:
                self._catalog.remove_gallery(route.gallery_id)

    # What people ask for

    def drain(self, host: str) -> None:
        """Have a host emptied: its replicas are copied elsewhere, then given up. Progress: `left_on`."""
        record = self._record(host)
        if record.state != DRAINING:
            self._set_state(record, DRAINING)

    def undrain(self, host: str) -> None:
        """Have a host hold shards again."""
        record = self._record(host)
        if record.state == DRAINING:
            self._set_state(record, UP)

    def hand_over(self, host: str) -> int:
        """Make another replica in sync the primary of every shard that a host is primary of; how many were.

        The host stays in sync, and primary where it is alone or an entry is not confirmed in time. No write is lost and
        none is done twice: writers are refused while a shard changes hands, and try again.
        """
        self._record(host)
        led = [config for config in self._catalog.shards() if config.primary == host and len(config.in_sync) > 1]
        return sum(self._hand_over(host, led[i : i + HAND_OVER_AT_ONCE]) for i in _steps(led))

    def _hand_over(self, host: str, led: Sequence[ShardConfig]) -> int:
        with self._deciding:
            until = time.monotonic() + YIELD_S - TELL_S
            reply = self._control(host, YieldShards(*_keys(led), _epochs(led), YIELD_S))
            if not isinstance(reply, YieldReply):
                return 0
            yielded = [(config, lsn) for config, lsn in zip(led, reply.lsns, strict=True) if lsn >= 0]
            followers = self._followers_of({_key(config): _without(config.in_sync, host) for config, _ in yielded})
            leads = Counter(config.primary for config in self._catalog.shards())
            moved, kept_on = 0, []
            for config, lsn in yielded:
                level = [name for name, at in followers[_key(config)].items() if at >= lsn]
                if not level or time.monotonic() > until:
                    kept_on.append(config)
                    continue
                best = min(sorted(level), key=lambda name: leads[name])
                leads[best] += 1
                in_sync = (best, *sorted(_without(config.in_sync, best)))
                change = replace(config, primary=best, in_sync=in_sync)
                moved += self._decide(change, f"{host} hands it over") is not None
            if kept_on:
                self._control(host, YieldShards(*_keys(kept_on), _epochs(kept_on), 0.0))
            return moved

    def leave(self, host: str) -> int:
        """Go on without a host that is about to end, as far as others are in sync; how many replicas are missed then.

        Its primaries are handed over, and it is told of the configurations without it, so that it answers nothing and
        nobody waits for it. It is expected back: nothing is copied for it for as long as hosts may be away.
        """
        self._record(host)
        self._leaving[host] = self._clock() + LEAVING_S
        self.hand_over(host)
        missed = sum(self._go_on_without(host, _key(config)) for config in self._catalog.shards_on(host))
        self._leaving[host] = self._clock() + LEAVING_S
        return missed

    def _go_on_without(self, host: str, key: Key) -> bool:
        """Whether the shard was on the host and is not any more; it stays where the host is its primary."""
        with self._deciding, contextlib.suppress(UnknownGallery):
            config = self._catalog.shard(*key)
            if config.primary == host or host not in (*config.in_sync, *config.joining):
                return False
            self._left[key] = host
            fewer = replace(config, in_sync=_without(config.in_sync, host), joining=_without(config.joining, host))
            return self._decide(fewer, f"{host} leaves", leaves=host) is not None
        return False  # the gallery was dropped

    def left_on(self, host: str) -> int:
        """Replicas that a host holds still."""
        return len(self._catalog.shards_on(self._record(host).host))

    def tell(self, gallery_id: str) -> None:
        """Tell the hosts of a new gallery what they hold."""
        for fault in self._tell(self._catalog.shards_of(gallery_id, *LOOKED_AFTER)).values():
            code, _, message = fault.partition(": ")
            raise error_from_code(code, message)

    def hosts(self) -> list[HostRecord]:
        """Every host that was ever part of the home, by name."""
        return sorted(self._catalog.hosts(), key=lambda record: record.host)

    def _record(self, host: str) -> HostRecord:
        for record in self._catalog.hosts():
            if record.host == host:
                return record
        raise InvalidParameter(f"no shard host {host!r}; known: {', '.join(r.host for r in self.hosts())}")


def _steps(configs: Sequence[ShardConfig]) -> range:
    return range(0, len(configs), HAND_OVER_AT_ONCE)


def _key(config: ShardConfig) -> Key:
    return config.gallery_id, config.shard


def _epochs(configs: Sequence[ShardConfig]) -> tuple[int, ...]:
    return tuple(config.epoch for config in configs)


def _keys(configs: Sequence[ShardConfig]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(config.gallery_id for config in configs), tuple(config.shard for config in configs)


def _without(hosts: Sequence[str], host: str) -> tuple[str, ...]:
    return tuple(other for other in hosts if other != host)
