"""`Replica`: one shard on one host, with its part in the replication of that shard.

Primary and backups as in PacificA (Lin et al. 2008): the primary decides the order of writes and acknowledges one when
every host in sync has it durably. Which hosts those are is a configuration with an epoch, kept in the catalog; whoever
knows a later epoch refuses what comes under an earlier one, so a primary that was replaced cannot get anything
confirmed. A replica never changes the configuration itself: it names who did not confirm, and the coordinator decides.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from coordinator.claims import Claims
from coordinator.messages import AbsorbRequest, ProgressReply, ReplicateRequest, Reply, RestartRequest
from coordinator.open_shards import LazyShard
from coordinator.peers import Leases, Peers, ask
from coordinator.types import ShardConfig
from shard.catchup import changes_after
from shard.errors import (
    CorruptData,
    FacegridError,
    HostUnavailable,
    NotEnoughReplicas,
    NotReplicated,
    OutOfStep,
    StaleRoute,
)
from shard.log import Entry
from shard.shard import Shard

REPLICATE_S = 2.0
"""How long a backup may take to confirm before it is named as failed."""
ABSORB_S = 30.0
"""How long a backup may take for one piece of a catch-up."""
BATCH_ROWS = 8_192
"""Rows that travel to a backup in one message."""

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Link:
    """Forwards a primary's entries to one backup, in order, what gathers while a message is under way in the next."""

    def __init__(self, peers: Peers, host: str, config: ShardConfig, lsn: int) -> None:
        """lsn: up to where the backup has everything."""
        self.host = host
        self._peers, self._config = peers, config
        self._changed = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._is_sending = False
        self._confirmed = lsn
        self._error: FacegridError | None = None

    def add(self, entries: Sequence[Entry]) -> None:
        """Forward entries; the caller keeps their order."""
        with self._changed:
            self._waiting.extend(entries)
        self._pump()

    def _pump(self) -> None:
        with self._changed:
            if self._is_sending or self._error is not None or not self._waiting:
                return
            batch: list[Entry] = []
            rows = 0
            while self._waiting and (not batch or rows + len(self._waiting[0].batch) <= BATCH_ROWS):
                batch.append(self._waiting.popleft())
                rows += len(batch[-1].batch)
            self._is_sending = True
        request = ReplicateRequest(self._config.gallery_id, self._config.shard, self._config.epoch, tuple(batch))
        try:
            sent = self._peers.submit(self.host, request, deadline=time.monotonic() + REPLICATE_S)
        except FacegridError as error:
            self._fail(error)
            return
        sent.add_done_callback(self._confirm)

    def _confirm(self, done: Future[Reply]) -> None:
        error = done.exception()
        if error is not None:
            self._fail(error if isinstance(error, FacegridError) else HostUnavailable(repr(error)))
            return
        reply = done.result()
        assert isinstance(reply, ProgressReply)
        with self._changed:
            self._confirmed = max(self._confirmed, reply.position.lsn)
            self._is_sending = False
            self._changed.notify_all()
        self._pump()

    def _fail(self, error: FacegridError) -> None:
        with self._changed:
            self._error = self._error or error
            self._waiting.clear()
            self._changed.notify_all()

    def wait(self, lsn: int, timeout_s: float) -> None:
        """Wait until the backup has confirmed the LSN; raises why it has not."""
        with self._changed:
            self._changed.wait_for(lambda: self._confirmed >= lsn or self._error is not None, timeout_s)
            if self._confirmed >= lsn:
                return
            if self._error is not None:
                raise self._error
        raise HostUnavailable(f"shard host {self.host!r} did not confirm entry {lsn} within {timeout_s:g} s")

    @property
    def is_idle(self) -> bool:
        """Whether everything that it was given has been confirmed."""
        return not self._waiting and not self._is_sending and self._error is None

    @property
    def is_broken(self) -> bool:
        """It will forward nothing any more."""
        return self._error is not None

    def close(self, why: str) -> None:
        """Stop forwarding; whoever waits is told."""
        self._fail(NotReplicated(why))


class Replica:
    """A shard and its role, whether it is open or not. Thread-safe.

    `config` is None until the coordinator has told one. It outlives the shard's closing: a replica answers under the
    configuration that this process was told, and no other.
    """

    def __init__(self, host: str, lazy: LazyShard, peers: Peers, leases: Leases | None) -> None:
        self.lazy = lazy
        self.config: ShardConfig | None = None
        self.claims = Claims()
        """Of the ids that this shard keeps, at the primary."""
        self._host, self._peers, self._leases = host, peers, leases
        self._min_in_sync = 1
        self._is_ready = False
        self._waits: dict[str, float] = {}
        """Until when each host that was left out may answer reads (see `Leases.left_s`); "" is for those that a process
        before this one left out. Replaced as a whole, never changed."""
        self._calm = threading.Condition()
        self._under_way = 0
        """Writes that were begun and have not come to their end, under `_calm`."""
        self._paused_until = 0.0
        self._configuring, self._lock = threading.Lock(), threading.Lock()
        # One for each backup: a joining one may be copied for hours, and a slow one must not hold up the others.
        self._levelling: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        # Replaced as a whole, never changed, so that whoever forwards needs no lock.
        self._links: dict[str, Link] = {}
        self._admitted: frozenset[str] = frozenset()
        self._unconfirmed: frozenset[str] = frozenset()
        self.damage: CorruptData | None = None
        """Set by whoever reads the shard and comes upon damage; it answers no reads from then on."""
        self._open_error: CorruptData | None = None
        lazy.on_open, lazy.may_close = self._opened, self._may_close

    # Open and closed

    @contextlib.contextmanager
    def using(self) -> Iterator[Shard]:
        """The shard, opened if it is closed, and open until the end. Raises what opening it does."""
        with contextlib.ExitStack() as stack:
            try:
                shard = stack.enter_context(self.lazy.using())
            except CorruptData as error:
                self._open_error = error
                raise
            yield shard

    @property
    def shard(self) -> Shard:
        """The shard, for those who are `using` it; ShardClosed if it is closed."""
        return self.lazy.opened

    def _opened(self, shard: Shard) -> None:
        self._open_error = None
        shard.on_commit = self._forward

    def _may_close(self, shard: Shard) -> bool:
        """Nothing is unfinished: it is no replica that is copied, and every write of its own is confirmed."""
        config = self.config
        return (
            config is not None
            and self._is_ready
            and self._host in config.in_sync
            and self.damage is None
            and shard.write_error is None
            and not shard.is_catching_up
            and not self._unconfirmed
            and all(link.is_idle for link in self._links.values())
        )

    # Who may do what

    def check_read(self, epoch: int) -> None:
        """StaleRoute unless this replica may answer for its shard under the epoch (0: whatever it is)."""
        if self.damage is not None:
            raise self.damage
        config = self.config
        if config is None or not self._is_ready:
            raise StaleRoute(f"{self._name} has no configuration yet")
        if epoch not in (0, config.epoch):
            raise StaleRoute(f"{self._name} is of epoch {config.epoch}, the request of {epoch}")
        if self._host not in config.in_sync or self.lazy.is_catching_up:
            raise StaleRoute(f"{self._name} is not in sync")
        if self._leases is not None and not self._leases.may_read(config):
            raise StaleRoute(f"{self._name}: the other hosts in sync have not been heard; others may go on without it")

    def check_primary(self, epoch: int) -> ShardConfig:
        """The configuration, if this replica is its primary under the epoch (0: whatever it is); else StaleRoute."""
        config = self.config
        if config is None or not self._is_ready:
            raise StaleRoute(f"{self._name} has no configuration yet")
        if config.primary != self._host or epoch not in (0, config.epoch):
            raise StaleRoute(f"{self._name}: {config.primary} is primary in epoch {config.epoch}, asked for {epoch}")
        return config

    def check_write(self, epoch: int) -> ShardConfig:
        """The configuration, if this replica may write under the epoch; see `check_primary`.

        Raises StaleRoute, or NotEnoughReplicas if fewer than the gallery's min_in_sync would confirm.
        """
        config = self.check_primary(epoch)
        if len(config.in_sync) < self._min_in_sync:
            raise NotEnoughReplicas(
                f"{self._name}: {len(config.in_sync)} replicas in sync ({', '.join(config.in_sync)}),"
                f" the gallery wants {self._min_in_sync}"
            )
        writes_from = max(self._waits.values(), default=0.0)
        if self._leases is not None and (left_s := self._leases.left_s(writes_from)) > 0:
            raise StaleRoute(f"{self._name}: a host that is out may answer reads for another {left_s:.1f} s")
        return config

    def check_claim(self, epoch: int) -> None:
        """StaleRoute, or NotEnoughReplicas, unless no other host can grant claims of this shard at this moment.

        One that was replaced may not read any more before its successor writes.
        """
        self.check_write(epoch)
        self.check_read(epoch)

    @property
    def _name(self) -> str:
        return f"shard {self.lazy.directory.name} of gallery {self.lazy.directory.parent.name} on {self._host}"

    def configure(self, config: ShardConfig, min_in_sync: int, released: Sequence[str] = ()) -> None:
        """Take up a configuration; an earlier one than known is passed over. Nothing is answered under an earlier one
        from then on, by a process that follows this one neither.

        A primary writes nothing before what was said to hosts that are out of sync now has run out. It answers reads at
        once: a host that is out may still answer what was true until now, and nothing is acknowledged before it has
        stopped. released: hosts that are known to have given the shard up, or to have taken up a configuration without
        themselves; nobody waits for them, which may be said later than the configuration itself.
        """
        with self._configuring:
            before = self.config
            if before is not None and config.epoch < before.epoch:
                return
            if before is not None and config.epoch == before.epoch and self._is_ready:
                self._let_go(released)
                return
            self._is_ready = False
            configured_epoch, configured_hosts = self.lazy.configured
            if config.epoch < configured_epoch:
                return  # whoever is primary under a later one was quicker than the coordinator, whose word is to come
            known = set(configured_hosts)
            # Whoever was admitted in this epoch may be in sync by the catalog already: it counts until the next one.
            admitted = known - set(config.in_sync) if config.epoch == configured_epoch else set()
            left_out = known - {*config.in_sync, *released, self._host} - admitted
            is_primary = config.primary == self._host
            self.lazy.take_epoch(config.epoch, (*config.in_sync, *sorted(admitted)), decides=is_primary)
            self.claims.follow(before, config, self._host)
            # The shard's lock comes before this one, since entries are forwarded under it.
            with self._lock:
                links, self._links = self._links, {}
                self._admitted, self._unconfirmed = frozenset(admitted), frozenset()
                self._min_in_sync, self.config = min_in_sync, config
            for link in links.values():
                link.close(f"{self._name}: epoch {config.epoch} has begun")
            if self._leases is not None:
                self._leases.configure(config, admitted)
                # A backup counts too: it may be primary before they have stopped, and does not know of them then.
                waits = {host: self._leases.granted_until((host,)) for host in left_out}
                if is_primary and before is None and config.epoch > 1:
                    # A process before this one may have left hosts out in this very epoch; the first has none before.
                    waits[""] = self._leases.granted_until((), since_start=True)
                self._waits = {**self._waits, **waits}
            self._let_go(released)
            self._paused_until = 0.0
            self._is_ready = True

    def _let_go(self, hosts: Sequence[str]) -> None:
        self._waits = {host: until for host, until in self._waits.items() if host not in hosts}

    # Writing, at the primary

    def write(self, epoch: int, work: Callable[[Shard], T]) -> T:
        """Write to the shard, and return when every replica in sync has it. `work` is done once, and may be repeated.

        Raises StaleRoute, NotEnoughReplicas, and NotReplicated with the host that did not confirm; the write may then
        be there or not, until it is repeated with its operation.
        """
        with self._begun(epoch), self.using() as shard:
            if shard.write_error is not None:
                shard.recover()
            outcome = work(shard)
            self._confirm(shard.lsn)
        return outcome

    @contextlib.contextmanager
    def _begun(self, epoch: int) -> Iterator[None]:
        """Inside, a write counts as under way; see `check_write`."""
        with self._calm:
            self.check_write(epoch)
            if time.monotonic() < self._paused_until:
                raise StaleRoute(f"{self._name} is being handed over")
            self._under_way += 1
        try:
            yield
        finally:
            with self._calm:
                self._under_way -= 1
                self._calm.notify_all()

    def pause_writes(self, epoch: int, until: float) -> None:
        """Begin no write until then (time.monotonic()), or until another configuration: another is to be primary.

        StaleRoute if this is not the primary under the epoch.
        """
        with self._calm:
            self.check_primary(epoch)
            self._paused_until = until

    def settle(self, until: float) -> int:
        """Wait until no write is under way and all in sync have every entry; the LSN of the last one.

        NotReplicated if writes are under way still at `until` (time.monotonic()), or the pause is over before all have
        them; writes go on then.
        """
        try:
            with self._calm:
                if not self._calm.wait_for(lambda: not self._under_way, max(0.0, until - time.monotonic())):
                    raise NotReplicated(f"{self._name} has writes under way")
            if self.lazy.shard is not None:  # a closed one has confirmed what it has
                with self.using() as shard:
                    self._confirm(shard.lsn)
            lsn = self.lazy.lsn
            if time.monotonic() >= self._paused_until:
                raise NotReplicated(f"{self._name} was not confirmed within its pause")
            return lsn
        except FacegridError:
            self._paused_until = 0.0
            raise

    def _confirm(self, lsn: int) -> None:
        while True:
            config = self.check_write(0)
            with self._lock:
                backups = [host for host in config.in_sync if host != self._host] + sorted(self._admitted)
            for host in backups:
                self._wait_for(config, host, lsn)
            with self._lock:
                if self.config is config and self._admitted <= set(backups):
                    return

    def _wait_for(self, config: ShardConfig, host: str, lsn: int) -> None:
        try:
            link = self._links.get(host)
            if link is None or link.is_broken:
                with self._levelling[host]:
                    if self.config is not config:
                        return  # asked again under the new configuration
                    link = self._links.get(host)
                    if link is None or link.is_broken:
                        link = self._level(config, host)
            link.wait(lsn, REPLICATE_S)
        except StaleRoute:
            raise
        except FacegridError as error:
            if self.config is not config:
                return  # asked again under the new configuration
            self._unconfirmed |= {host}
            raise NotReplicated(f"{self._name}: {host} did not confirm entry {lsn}: {error}") from error

    def _forward(self, entries: Sequence[Entry]) -> None:
        for link in self._links.values():
            link.add(entries)

    def admit(self, epoch: int, host: str) -> None:
        """Bring a joining host's replica level; from then on no write is confirmed without it."""
        config = self.check_primary(epoch)
        with self.using(), self._levelling[host]:
            self._level(config, host, is_new=True)

    def _admit(self, config: ShardConfig, host: str) -> None:
        """From now on nothing is confirmed without the host, and nothing read: the catalog may count on it any moment.

        Durable, since this process may end before the catalog's word comes.
        """
        with self._configuring:
            if self.config is not config:
                raise StaleRoute(f"{self._name}: epoch {config.epoch} is over")
            self.shard.take_epoch(config.epoch, (*config.in_sync, *sorted(self._admitted | {host})), decides=True)
            if self._leases is not None:
                self._leases.configure(config, self._admitted | {host})
            self._admitted |= {host}

    def _level(self, config: ShardConfig, host: str, *, is_new: bool = False) -> Link:
        """Bring a replica to exactly where this one is, and forward every later entry to it."""
        question = ReplicateRequest(config.gallery_id, config.shard, config.epoch, ())
        progress = ask(self._peers, host, question, ProgressReply, REPLICATE_S)
        if is_new:
            progress = self._send_changes(config, host, progress, ABSORB_S)
        if is_new:
            self._admit(config, host)
        with self.shard.frozen():
            # Writes wait meanwhile, for what little has gathered.
            progress = self._send_changes(config, host, progress, REPLICATE_S)
            link = Link(self._peers, host, config, self.shard.lsn)
            with self._lock:
                if self.config is not config:
                    raise StaleRoute(f"{self._name}: epoch {config.epoch} is over")
                self._links = {**self._links, host: link}
        return link

    def _send_changes(self, config: ShardConfig, host: str, progress: ProgressReply, timeout_s: float) -> ProgressReply:
        """Send what a replica lacks, piece by piece, each within the time."""
        while progress.position != self.shard.position or progress.settled_lsn != progress.position.lsn:
            changes = changes_after(self.shard, progress.position, progress.settled_lsn)
            if changes.is_divergent:
                _LOG.warning("%s: the replica on %s has another past and begins anew", self._name, host)
                restart = RestartRequest(config.gallery_id, config.shard, config.epoch)
                progress = ask(self._peers, host, restart, ProgressReply, ABSORB_S)
                continue
            piece = AbsorbRequest(config.gallery_id, config.shard, config.epoch, changes)
            progress = ask(self._peers, host, piece, ProgressReply, timeout_s)
            if changes.is_last:
                return progress
        return progress

    # At a backup

    def accept(self, epoch: int) -> None:
        """StaleRoute if a request of a primary comes under an earlier configuration than this replica knows."""
        config = self.config
        if config is not None and config.epoch == epoch and config.primary == self._host:
            raise StaleRoute(f"{self._name} is itself primary in epoch {epoch}")
        with self.using() as shard:
            shard.take_epoch(epoch)

    def replicate(self, request: ReplicateRequest) -> ProgressReply:
        """Carry out a primary's entries."""
        with self.using() as shard:
            self.accept(request.epoch)
            if shard.write_error is not None:
                shard.recover()
            if request.entries:
                if shard.is_catching_up:
                    raise OutOfStep(f"{self._name} is catching up")
                shard.apply(request.entries)
            return self.progress()

    def absorb(self, request: AbsorbRequest) -> ProgressReply:
        """Take over a piece of a primary's state."""
        with self.using() as shard:
            self.accept(request.epoch)
            if shard.write_error is not None:
                shard.recover()
            shard.absorb(request.changes)
            return self.progress()

    def progress(self) -> ProgressReply:
        """How far this replica is."""
        with self.using() as shard:
            return ProgressReply(*shard.progress())

    def end(self) -> None:
        """Forward nothing any more, and answer nothing; the shard is the owner's to close."""
        with self._lock:
            links, self._links, self.config = self._links, {}, None
        for link in links.values():
            link.close(f"{self._name} was closed")

    @property
    def epoch(self) -> int:
        """Of the configuration it works under, 0 for none yet."""
        config = self.config
        return config.epoch if config is not None and self._is_ready else 0

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """At a primary: hosts that did not confirm a write under this configuration, or are not heard any more."""
        config = self.config
        if config is None or config.primary != self._host or not self._is_ready:
            return ()
        unheard = frozenset() if self._leases is None else self._leases.unheard(config)
        return tuple(sorted(self._unconfirmed | unheard))

    @property
    def fault(self) -> str:
        """What is wrong with it, as "code: message": damage that a read came upon, or why it refuses writes; or ""."""
        error = self.damage or self._open_error or self.lazy.write_error
        if error is None:
            return ""
        return f"{error.code if isinstance(error, FacegridError) else 'write_failed'}: {error}"
