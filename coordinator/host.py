"""`ShardHost`: the shards of many galleries in one directory and one process, and what can be asked of them.

    <host>/tenants/<tenant id>/<16 hex>/shard-0000/    one `shard.Shard`; `coordinator.directories` has all places
    <host>/models/<model id>.model                     SearchModels that shards here use

It executes messages; it knows no network, no Ray, no catalog. Thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coordinator import host_claims, host_erasure, host_exports, host_leaving, host_training
from coordinator.directories import gallery_directory, shard_directory, shards_on, tenant_of
from coordinator.host_keys import HostKeys
from coordinator.host_models import HostModels
from coordinator.messages import (
    AbsorbRequest,
    ActivateModel,
    AdmitReplica,
    AmendReply,
    AmendRequest,
    BeaconReply,
    BeaconRequest,
    BuriedRequest,
    CheckReply,
    CheckShard,
    ClaimRequest,
    CompactShards,
    ConfiguredReply,
    ConfigureShards,
    CreateShard,
    DataRequest,
    DeleteReply,
    DeleteRequest,
    DigestReply,
    DigestRequest,
    DiscardModels,
    Done,
    DrawIdentities,
    DrawTemplates,
    DropGallery,
    DropShard,
    EnrollRequest,
    ErasureRequest,
    ExportMovedRequest,
    ExportRequest,
    FlushRequest,
    GiveBackRequest,
    HealthReply,
    HealthRequest,
    HeatReply,
    HeatRequest,
    IdentitiesReply,
    IdentitiesRequest,
    InventoryReply,
    InventoryRequest,
    ListReply,
    ListRequest,
    ModelsRequest,
    MoveOutRequest,
    PointRequest,
    PrepareModel,
    ProgressReply,
    RecordsReply,
    RecordsRequest,
    RenameRequest,
    ReplicateRequest,
    Reply,
    Request,
    RestartRequest,
    RowsReply,
    RowsRequest,
    SampleRecent,
    SampleRows,
    ScrubShards,
    SearchReply,
    SearchRequest,
    SetKeys,
    SetPeers,
    ShardHealth,
    StatsReply,
    StatsRequest,
    YieldShards,
)
from coordinator.open_shards import OpenShards, default_limit
from coordinator.peers import Beacons, Leases, Peers, ask
from coordinator.replica import Replica
from coordinator.types import ShardConfig
from shard.catchup import segment_states
from shard.check import check_files
from shard.digests import combined
from shard.errors import (
    CorruptData,
    FacegridError,
    HostUnavailable,
    InvalidParameter,
    KeyUnavailable,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.export import ExportedRows
from shard.files import DirectoryLock, make_directory, remove_tree
from shard.holds import Holds
from shard.keys import in_listing_order, template_keys
from shard.mending import mend
from shard.search import search_by_model
from shard.shard import Shard
from shard.types import EnrollReceipt, FloatArray

_LOG = logging.getLogger(__name__)
FETCH_S = 10.0
"""How long another replica may take to give rows that are damaged here."""
OPENED_AT_ONCE = 4
"""Shards that a starting host opens side by side: one waits for the disk while another encodes."""
OPENED_AHEAD = 64
"""A host of so few shards opens all when it is told of them, so that damage is told at once; of more, on first use."""


class _Alone:
    """The peers of a host that has none."""

    def __init__(self, host: str) -> None:
        self._host = host

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        raise HostUnavailable(f"shard host {self._host} knows no other hosts, asked for {host!r}")

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """It talks to nobody."""


class ShardHost:
    """Opens shards when they are used; see `OpenShards`. One process at a time (HomeLocked for the second)."""

    def __init__(
        self,
        name: str,
        directory: Path,
        peers: Peers | None = None,
        *,
        leases: Leases | None = None,
        open_shards: int | None = None,
    ) -> None:
        """Open or create the host's directory.

        peers: how the other hosts are reached, for replication; a host without them is alone. leases: where hosts can
        be cut off from each other; see `coordinator.peers`. open_shards: how many are open at a time at most, but for
        those in use; as many as open files allow if None.
        """
        self.name = name
        self.incarnation = secrets.randbits(62)
        self._directory = directory
        make_directory(directory)
        self._lock = DirectoryLock(directory)
        self._opening = threading.RLock()
        self._replicas: dict[tuple[str, int], Replica] = {}
        self.model_files = HostModels(directory / "models", name)
        self.has_swept_models = False
        limit = default_limit() if open_shards is None else open_shards
        self.keys = HostKeys(name)
        self._shards = OpenShards(directory / "at_rest.db", self._open, limit)
        self.switching = threading.Lock()
        self._peers: Peers = peers or _Alone(name)
        self._leases = leases
        self._beacons = None if leases is None else Beacons(leases, self._peers)
        self._is_closed = False

    def execute(self, request: Request) -> Reply:
        """Carry out one request; raises the FacegridError that says why it could not."""
        if self._is_closed:
            raise ShardClosed(f"shard host {self.name} is closed")
        try:
            return _HANDLERS[type(request)](self, request)
        except CorruptData as error:
            self._note_damage(error)
            raise

    def _note_damage(self, error: CorruptData) -> None:
        """A damaged file is of one shard: that one answers nothing more until it was mended or copied anew."""
        for replica in tuple(self._replicas.values()) if error.path else ():
            if Path(error.path or "").is_relative_to(replica.lazy.directory):
                _LOG.error("shard host %s: %s", self.name, error)
                replica.damage = error

    def close(self) -> None:
        """Close every shard and release the directory. Idempotent."""
        if self._beacons is not None:
            self._beacons.close()
        with self._opening:
            if not self._is_closed:
                self._is_closed = True
                self._shards.close()
                while self._replicas:
                    self._replicas.popitem()[1].end()
                self._lock.close()

    # Reads

    def search(self, request: SearchRequest) -> SearchReply:
        """Search the asked shards together."""
        with self.readable(request.gallery_id, request.shards, request.epochs) as shards:
            candidates, model_id = search_by_model(shards, request.probes, request.params)
            return SearchReply(candidates, request.shards, model_id, _have_left(shards))

    def records(self, request: RecordsRequest) -> RecordsReply:
        """Labels and metadata by template id."""
        keys = template_keys(request.template_ids)  # once for all shards
        with self.readable(request.gallery_id, request.shards, request.epochs) as shards:
            records = tuple(record for s in shards for record in s.records(request.template_ids, keys))
            return RecordsReply(records, _have_left(shards))

    def identities(self, request: IdentitiesRequest) -> IdentitiesReply:
        """One page of identities over the asked shards."""
        with self.readable(request.gallery_id, request.shards, request.epochs) as shards:
            pages = [entry for shard in shards for entry in shard.identities(request.start, request.limit)]
        return IdentitiesReply(tuple(sorted(pages, key=lambda entry: entry.identity.encode())[: request.limit]))

    def listing(self, request: ListRequest) -> ListReply:
        """One page of template ids over the asked shards."""
        with self.readable(request.gallery_id, request.shards, request.epochs) as shards:
            pages = [i for s in shards for i in s.ids_after(request.after, request.limit, request.identity)]
            return ListReply(tuple(in_listing_order(pages)[: request.limit]), _have_left(shards))

    def stats(self, request: StatsRequest) -> StatsReply:
        """Sizes, shard by shard; of a closed one without opening it."""
        replicas = self._answering(request.gallery_id, request.shards, request.epochs)
        return StatsReply(tuple(replica.lazy.ask(lambda rest: rest.stats, Shard.stats) for replica in replicas))

    # Writes

    def enroll(self, request: EnrollRequest) -> EnrollReceipt:
        """Write to one shard, at its primary."""
        replica = self.routed(request.gallery_id, request.shard)
        return replica.write(
            request.epoch,
            lambda shard: shard.enroll(request.batch, skip_existing=request.skip_existing, operation=request.operation),
        )

    def delete(self, request: DeleteRequest) -> DeleteReply:
        """Delete from the asked shards, at their primaries."""
        deleted = 0
        for number, epoch in zip(request.shards, request.epochs, strict=True):
            deleted += self.routed(request.gallery_id, number).write(
                epoch,
                lambda shard: shard.delete(
                    template_ids=request.template_ids, identities=request.identities, operation=request.operation
                ),
            )
        return DeleteReply(deleted, self._have_departures(request.gallery_id, request.shards))

    def amend(self, request: AmendRequest) -> AmendReply:
        """Change metadata in the asked shards, at their primaries."""
        amended = 0
        for number, epoch in zip(request.shards, request.epochs, strict=True):
            amended += self.routed(request.gallery_id, number).write(
                epoch,
                lambda shard: shard.amend(request.template_ids, request.metadata, operation=request.operation),
            )
        return AmendReply(amended, self._have_departures(request.gallery_id, request.shards))

    def _have_departures(self, gallery_id: str, numbers: Sequence[int]) -> bool:
        return any(self.routed(gallery_id, number).lazy.holds.are_recent for number in numbers)

    def rename(self, request: RenameRequest) -> AmendReply:
        """Rename an identity in one shard, at its primary."""
        return AmendReply(
            self.routed(request.gallery_id, request.shard).write(
                request.epoch,
                lambda shard: shard.rename(
                    request.identity, request.into, limit=request.limit, operation=request.operation
                ),
            )
        )

    def move_out(self, request: MoveOutRequest) -> ExportedRows:
        """Let templates of an identity go, and tell the next, at the primary."""
        return self.routed(request.gallery_id, request.shard).write(
            request.epoch,
            lambda shard: shard.move_out(
                request.identity,
                request.departed,
                hold_s=request.hold_s,
                limit=request.limit,
                operation=request.operation,
            ),
        )

    def flush(self, request: FlushRequest) -> Done:
        """Seal the open tails, at the primaries."""
        for number, epoch in zip(request.shards, request.epochs, strict=True):
            self.routed(request.gallery_id, number).write(epoch, Shard.flush)
        return Done()

    # Between hosts

    def replicate(self, request: ReplicateRequest) -> ProgressReply:
        """Carry out a primary's entries."""
        return self.replica(request.gallery_id, request.shard).replicate(request)

    def absorb(self, request: AbsorbRequest) -> ProgressReply:
        """Take over a piece of a primary's state."""
        return self.replica(request.gallery_id, request.shard).absorb(request)

    def restart(self, request: RestartRequest) -> ProgressReply:
        """Give up what this replica has, and begin from nothing."""
        replica = self.replica(request.gallery_id, request.shard)
        replica.accept(request.epoch)
        with replica.using() as before:
            dim, model, is_encrypted = before.dim, before.model, before.is_encrypted
        with self._opening, contextlib.ExitStack() as stack:
            if model is not None:
                stack.enter_context(self.model_files.using(model.model_id, self.keys.of(request.gallery_id)))
            self._checked_key(request.gallery_id, is_encrypted)
            self._remove(request.gallery_id, request.shard)
            shard = self._create(request.gallery_id, request.shard, dim, is_encrypted)
            if model is not None:
                shard.activate(model)  # before there is a row, so that each is encoded when it comes
            fresh = self._replicas[request.gallery_id, request.shard]
        fresh.accept(request.epoch)
        if replica.config is not None:
            fresh.configure(replica.config, 1)
        return fresh.progress()

    def rows(self, request: RowsRequest) -> RowsReply:
        """Float rows, for a replica whose own are damaged."""
        with self.readable(request.gallery_id, (request.shard,)) as (shard,):
            return RowsReply(shard.gather(np.arange(request.first, request.last)))

    def digest(self, request: DigestRequest) -> DigestReply:
        """What replicas compare."""
        with self.replica(request.gallery_id, request.shard).using() as shard, shard.frozen():
            templates = shard.templates_between(0, shard.position.rows)
            records = combined(stored.digest & (2**64 - 1) for stored in templates) & (2**63 - 1)
            return DigestReply(shard.position, segment_states(shard.segments), records, len(templates))

    def beacon(self, request: BeaconRequest) -> BeaconReply:
        """Count on another host for a while."""
        if self._leases is None:
            raise InvalidParameter(f"shard host {self.name} has no leases: its home is of one process")
        return self._leases.grant(request)

    def health(self, request: HealthRequest) -> HealthReply:
        """The host is there; which of its shards are in trouble, or asked for."""
        asked = {(request.gallery_id, number) for number in request.shards}
        told = [
            ShardHealth(*key, r.epoch, r.lazy.lsn, r.fault, r.lazy.is_catching_up, r.unconfirmed)
            for key, r in tuple(self._replicas.items())
            if key in asked or r.config is None or r.fault or r.unconfirmed
        ]
        return HealthReply(self.name, self.incarnation, tuple(told))

    def heat(self, request: HeatRequest) -> HeatReply:
        """How near at hand its shards are."""
        opened = [(lazy.key, self._shards.heat(lazy)) for lazy in self._shards.opened()]
        return HeatReply(tuple(key[0] for key, _ in opened), tuple(state for _, state in opened))

    def inventory(self, request: InventoryRequest) -> InventoryReply:
        """Every shard that has a directory here."""
        found = shards_on(self._directory)
        return InventoryReply(tuple(gallery_id for gallery_id, _ in found), tuple(number for _, number in found))

    # Control requests

    def create_shard(self, request: CreateShard) -> Done:
        """Create a shard, or leave the same one as it is. It answers nothing before it is configured."""
        with self._opening:
            if (request.gallery_id, request.shard) not in self._replicas:
                self._create(request.gallery_id, request.shard, request.dim, request.is_encrypted)
        return Done()

    def configure_shards(self, request: ConfigureShards) -> ConfiguredReply:
        """Take up configurations, shard by shard; a shard that cannot be opened keeps no other from it."""
        is_few = len(request.configs) + len(self._replicas) <= min(OPENED_AHEAD, self._shards.limit)
        told = list(zip(request.configs, request.min_in_sync, strict=True))
        faults: list[str] = []
        step = min(OPENED_AHEAD, self._shards.limit)  # what was opened can be closed again once it is configured
        for some in (told[first : first + step] for first in range(0, len(told), step)):
            self._open_ahead([(config.gallery_id, config.shard) for config, _ in some], is_few=is_few)
            faults += [self._configure(config, min_in_sync, request.released) for config, min_in_sync in some]
        if self._beacons is not None and self._leases is not None:
            self._beacons.start_for(sorted(self._leases.partners()))
        return ConfiguredReply(tuple(faults))

    def _configure(self, config: ShardConfig, min_in_sync: int, released: Sequence[str]) -> str:
        """Have a replica take up its configuration; why it cannot, or ""."""
        try:
            self.replica(config.gallery_id, config.shard).configure(config, min_in_sync, released)
        except UnknownGallery as error:
            # The catalog says that it is here.
            return f"{CorruptData.code}: {error}"
        except StaleRoute as error:
            return f"{error.code if self.keys.were_given else KeyUnavailable.code}: {error}"
        except FacegridError as error:
            return f"{error.code}: {error}"
        return ""

    def admit_replica(self, request: AdmitReplica) -> Done:
        """As primary: bring another host's replica level, and from then on confirm nothing without it."""
        if self._beacons is not None:
            self._beacons.start_for((request.host,))
        self.replica(request.gallery_id, request.shard).admit(request.epoch, request.host)
        if self._beacons is not None:
            self._beacons.start_for((request.host,))  # it counts from now on
        return Done()

    def set_keys(self, request: SetKeys) -> Done:
        """Take over the data keys. Shards whose key is not among them any more are closed."""
        gone = self.keys.give(dict(zip(request.tenant_ids, request.keys, strict=True)))
        with self._opening:
            for key in [key for key in self._replicas if tenant_of(key[0]) in gone]:
                self._close(key)
        return Done()

    def set_peers(self, request: SetPeers) -> Done:
        """Take note of where the other hosts are."""
        addresses = zip(request.addresses, request.ports, strict=True)
        self._peers.locate(dict(zip(request.hosts, addresses, strict=True)))
        return Done()

    def check_shard(self, request: CheckShard) -> CheckReply:
        """Read every sealed file of a shard; mend what is damaged."""
        replica = self.replica(request.gallery_id, request.shard)

        def fetch(first: int, last: int) -> FloatArray:
            rows = RowsRequest(request.gallery_id, request.shard, first, last)
            return ask(self._peers, request.source, rows, RowsReply, FETCH_S).embeddings

        with replica.using() as shard:
            damages = check_files(shard)
            if not damages:
                return CheckReply((), 0)
            left = mend(shard, damages, fetch if request.source else None)
        for damage in left:
            self._note_damage(CorruptData(f"{damage.path}: {damage.what}", path=str(damage.path)))
        if not left:
            replica.damage = None
        return CheckReply(tuple(f"{damage.path}: {damage.what}" for damage in damages), len(damages) - len(left))

    def drop_shard(self, request: DropShard) -> Done:
        """Close and remove one shard, unless a later configuration is known."""
        with self._opening:
            try:
                replica = self.replica(request.gallery_id, request.shard)
            except (UnknownGallery, CorruptData):
                replica = None  # gone, or not to be opened: removed all the same
            epoch = 0 if replica is None else replica.lazy.configured[0]
            if epoch > request.epoch:
                raise StaleRoute(
                    f"shard {request.shard} of {request.gallery_id} on {self.name} is of epoch {epoch}, asked to be"
                    f" dropped in {request.epoch}"
                )
            self._remove(request.gallery_id, request.shard)
            self.remove_unused_models()
        return Done()

    def drop_gallery(self, request: DropGallery) -> Done:
        """Close and remove every shard of the gallery."""
        with self._opening:
            for key in [key for key in self._replicas if key[0] == request.gallery_id]:
                self._close(key)
            directory = gallery_directory(self._directory, request.gallery_id)
            if directory.exists():
                remove_tree(directory)
            if tenant_of(request.gallery_id) and directory.parent.exists() and not any(directory.parent.iterdir()):
                remove_tree(directory.parent)
            self.remove_unused_models()
        return Done()

    def remove_unused_models(self) -> None:
        """Remove the files of models that no shard here needs."""
        with self._opening:
            if not self.model_files.is_any_stored():
                return
            try:
                needed: set[str] = set()
                for key in shards_on(self._directory):
                    needed |= host_training.model_ids(self.replica(*key))
            except FacegridError as error:
                # What a shard that does not open needs is not known, and a file too many does no harm.
                _LOG.warning("shard host %s keeps every model file: %s", self.name, error)
            else:
                self.model_files.remove_except(needed)
                self.has_swept_models = True

    # Opening

    def held(self) -> list[tuple[tuple[str, int], Replica]]:
        """Gallery id and number, and the replica, of every shard that it was told of or asked for."""
        return list(self._replicas.items())

    def replicas(self, gallery_id: str, numbers: Iterable[int]) -> list[Replica]:
        """See `replica`."""
        return [self.replica(gallery_id, number) for number in numbers]

    def _answering(self, gallery_id: str, numbers: Sequence[int], epochs: Sequence[int] = ()) -> list[Replica]:
        """The replicas, if this host may answer for all of them. epochs: those that the caller knows; any if ()."""
        replicas = [self.routed(gallery_id, number) for number in numbers]
        for replica, epoch in zip(replicas, epochs or (0,) * len(replicas), strict=True):
            replica.check_read(epoch)
        return replicas

    @contextlib.contextmanager
    def readable(self, gallery_id: str, numbers: Sequence[int], epochs: Sequence[int] = ()) -> Iterator[list[Shard]]:
        """The shards, open to the end, if this host may answer reads of all of them; see `_answering`."""
        replicas = self._answering(gallery_id, numbers, epochs)
        with contextlib.ExitStack() as stack:
            is_late = any(replica.lazy.shard is None for replica in replicas)
            shards = [stack.enter_context(replica.using()) for replica in replicas]
            if is_late:  # others may have gone on without it while it was opened
                self._answering(gallery_id, numbers, epochs)
            yield shards

    def routed(self, gallery_id: str, number: int) -> Replica:
        """A replica that a route leads to; StaleRoute where it is not here any more, because it was moved elsewhere.

        One that should be here and is lost is found when the host is told what it holds (`configure_shards`).
        """
        try:
            return self.replica(gallery_id, number)
        except CorruptData:
            if self._shard_directory(gallery_id, number).is_dir():
                raise
            raise StaleRoute(f"shard host {self.name} has no shard {number} of gallery {gallery_id}") from None

    def replica(self, gallery_id: str, number: int) -> Replica:
        """The replica of a shard that is here, open or not; UnknownGallery, CorruptData, and what opening it raises."""
        replica = self._replicas.get((gallery_id, number))
        if replica is not None:
            return replica
        with self._opening:
            if self._is_closed:
                raise ShardClosed(f"shard host {self.name} is closed")
            if (gallery_id, number) not in self._replicas:
                directory = self._shard_directory(gallery_id, number)
                if not directory.parent.is_dir():
                    raise UnknownGallery(
                        f"shard host {self.name} has no gallery {gallery_id} (dropped?): expected {directory.parent}"
                    )
                if not directory.is_dir():
                    raise CorruptData(
                        f"shard host {self.name} has no shard {number} of gallery {gallery_id}: expected {directory}"
                    )
                replica = self._at_rest(gallery_id, number)
                if replica.lazy.rest is None:
                    with replica.using():  # nothing is known of it: it has to open
                        pass
                self._replicas[gallery_id, number] = replica
            return self._replicas[gallery_id, number]

    def _open(self, key: tuple[str, int], directory: Path, is_settled: bool, holds: Holds) -> Shard:
        data_key = self.keys.of(key[0])
        load = partial(self.model_files.load, key=data_key)
        try:
            return Shard(directory, load, key=data_key, is_settled=is_settled, holds=holds)
        except KeyUnavailable:
            raise self.keys.missing(key[0]) from None

    def _checked_key(self, gallery_id: str, is_encrypted: bool) -> bytes | None:
        """The key for a new shard; KeyUnavailable rather than a shard in the clear, if it is not here."""
        key = self.keys.of(gallery_id)
        if is_encrypted and key is None:
            raise self.keys.missing(gallery_id)
        return key

    def _open_ahead(self, keys: Sequence[tuple[str, int]], *, is_few: bool) -> None:
        """Know those of the shards that are there, and open, side by side, those of which nothing is known, or all.

        One that cannot be opened stays unknown: whoever asks for it opens it again, and is told why that fails.
        """
        with self._opening:
            if self._is_closed:
                return
            unknown = [key for key in keys if key not in self._replicas and self._shard_directory(*key).is_dir()]
            replicas = {key: self._at_rest(*key) for key in unknown}
            opened = {key: r for key, r in replicas.items() if is_few or r.lazy.rest is None}
            with ThreadPoolExecutor(OPENED_AT_ONCE, thread_name_prefix="facegrid-open") as pool:
                failed = dict(zip(opened, pool.map(_does_not_open, opened.values()), strict=True))
            self._replicas.update((key, r) for key, r in replicas.items() if not failed.get(key, False))

    def _create(self, gallery_id: str, number: int, dim: int, is_encrypted: bool) -> Shard:
        directory, key = self._shard_directory(gallery_id, number), self._checked_key(gallery_id, is_encrypted)
        load = partial(self.model_files.load, key=key)
        shard = Shard.create(directory, dim=dim, load_model=load, key=key)
        replica = self._at_rest(gallery_id, number)
        self._shards.adopt(replica.lazy, shard)
        self._replicas[gallery_id, number] = replica
        return shard

    def _at_rest(self, gallery_id: str, number: int) -> Replica:
        lazy = self._shards.lazy((gallery_id, number), self._shard_directory(gallery_id, number))
        return Replica(self.name, lazy, self._peers, self._leases)

    def _close(self, key: tuple[str, int]) -> None:
        replica = self._replicas.pop(key, None)
        if replica is not None:
            replica.end()
            replica.lazy.close()
        if self._leases is not None:
            self._leases.forget(key)

    def _remove(self, gallery_id: str, number: int) -> None:
        self._close((gallery_id, number))
        remove_tree(self._shard_directory(gallery_id, number))

    def has_files(self, gallery_id: str, number: int) -> bool:
        """Whether the shard has a directory here."""
        return self._shard_directory(gallery_id, number).is_dir()

    def _shard_directory(self, gallery_id: str, number: int) -> Path:
        return shard_directory(self._directory, gallery_id, number)


def _have_left(shards: Sequence[Shard]) -> bool:
    return any(shard.has_fresh_departures for shard in shards)


def _does_not_open(replica: Replica) -> bool:
    try:
        with replica.using():
            return False
    except FacegridError:
        return True


_HANDLERS: dict[type, Callable[[ShardHost, Any], Reply]] = {
    SearchRequest: ShardHost.search,
    EnrollRequest: ShardHost.enroll,
    DeleteRequest: ShardHost.delete,
    AmendRequest: ShardHost.amend,
    RenameRequest: ShardHost.rename,
    MoveOutRequest: ShardHost.move_out,
    RecordsRequest: ShardHost.records,
    ClaimRequest: host_claims.claim,
    GiveBackRequest: host_claims.give_back,
    IdentitiesRequest: ShardHost.identities,
    ListRequest: ShardHost.listing,
    FlushRequest: ShardHost.flush,
    StatsRequest: ShardHost.stats,
    ReplicateRequest: ShardHost.replicate,
    AbsorbRequest: ShardHost.absorb,
    RestartRequest: ShardHost.restart,
    RowsRequest: ShardHost.rows,
    DigestRequest: ShardHost.digest,
    BeaconRequest: ShardHost.beacon,
    HealthRequest: ShardHost.health,
    InventoryRequest: ShardHost.inventory,
    HeatRequest: ShardHost.heat,
    BuriedRequest: host_erasure.buried,
    CreateShard: ShardHost.create_shard,
    ConfigureShards: ShardHost.configure_shards,
    SetPeers: ShardHost.set_peers,
    SetKeys: ShardHost.set_keys,
    AdmitReplica: ShardHost.admit_replica,
    YieldShards: host_leaving.yield_shards,
    DropShard: ShardHost.drop_shard,
    CompactShards: host_erasure.compact_shards,
    ScrubShards: host_erasure.scrub_shards,
    ErasureRequest: host_erasure.erasure,
    CheckShard: ShardHost.check_shard,
    DropGallery: ShardHost.drop_gallery,
    SampleRows: host_training.sample,
    SampleRecent: host_training.sample_recent,
    DrawIdentities: host_training.draw_identities_of,
    DrawTemplates: host_training.draw_templates,
    PrepareModel: host_training.prepare_model,
    ActivateModel: host_training.activate_model,
    PointRequest: host_exports.point,
    ExportRequest: host_exports.export,
    ExportMovedRequest: host_exports.export_moved,
    DiscardModels: host_training.discard_models,
    ModelsRequest: host_training.models,
}
