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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.directories import gallery_directory, shard_directory, shards_on, tenant_of
from coordinator.host_models import HostModels
from coordinator.messages import (
    AbsorbRequest,
    ActivateModel,
    AdmitReplica,
    AmendReply,
    AmendRequest,
    BeaconReply,
    BeaconRequest,
    CheckReply,
    CheckShard,
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
    DrawnReply,
    DrawTemplates,
    DropGallery,
    DropShard,
    EnrollRequest,
    ErasureReply,
    ErasureRequest,
    ExportMovedRequest,
    ExportRequest,
    FlushRequest,
    HealthReply,
    HealthRequest,
    IdentitiesReply,
    IdentitiesRequest,
    InventoryReply,
    InventoryRequest,
    ListReply,
    ListRequest,
    ModelsReply,
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
    SampleReply,
    SampleRows,
    ScrubShards,
    SearchReply,
    SearchRequest,
    SetPeers,
    ShardHealth,
    StatsReply,
    StatsRequest,
)
from coordinator.peers import Beacons, Leases, Peers, ask
from coordinator.replica import Replica
from shard.catchup import segment_states
from shard.check import check_files
from shard.compaction import compact
from shard.digests import combined
from shard.errors import (
    CorruptData,
    FacegridError,
    HostUnavailable,
    InvalidParameter,
    ShardClosed,
    StaleRoute,
    UnknownGallery,
)
from shard.export import ExportedRows, ShardPoint
from shard.files import DirectoryLock, make_directory, remove_tree
from shard.keys import in_listing_order, template_keys
from shard.labelled import draw_identities, templates_of
from shard.mending import mend
from shard.search import search_by_model
from shard.shard import Shard
from shard.types import EnrollReceipt, FloatArray, IdentityDraw

_LOG = logging.getLogger(__name__)
FETCH_S = 10.0
"""How long another replica may take to give rows that are damaged here."""
OPENED_AT_ONCE = 4
"""Shards that a starting host opens side by side: one waits for the disk while another encodes."""


class _Alone:
    """The peers of a host that has none."""

    def __init__(self, host: str) -> None:
        self._host = host

    def submit(self, host: str, request: DataRequest, *, deadline: float) -> Future[Reply]:
        raise HostUnavailable(f"shard host {self._host} knows no other hosts, asked for {host!r}")

    def locate(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """It talks to nobody."""


class ShardHost:
    """Opens shards on first use and keeps them open. One process at a time (HomeLocked for the second)."""

    def __init__(self, name: str, directory: Path, peers: Peers | None = None, *, leases: Leases | None = None) -> None:
        """Open or create the host's directory.

        peers: how the other hosts are reached, for replication; a host without them is alone. leases: where hosts can
        be cut off from each other; see `coordinator.peers`.
        """
        self.name = name
        self.incarnation = secrets.randbits(62)
        self._directory = directory
        make_directory(directory)
        self._lock = DirectoryLock(directory)
        self._opening = threading.RLock()
        self._replicas: dict[tuple[str, int], Replica] = {}
        self._models = HostModels(directory / "models", name)
        self._switching = threading.Lock()
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
            if Path(error.path or "").is_relative_to(replica.shard.directory):
                _LOG.error("shard host %s: %s", self.name, error)
                replica.damage = error

    def close(self) -> None:
        """Close every shard and release the directory. Idempotent."""
        if self._beacons is not None:
            self._beacons.close()
        with self._opening:
            self._is_closed = True
            while self._replicas:
                self._replicas.popitem()[1].close()
            self._lock.close()

    # Reads

    def search(self, request: SearchRequest) -> SearchReply:
        """Search the asked shards together."""
        shards = self._readable(request.gallery_id, request.shards, request.epochs)
        candidates, model_id = search_by_model(shards, request.probes, request.params)
        return SearchReply(candidates, request.shards, model_id, _have_left(shards))

    def records(self, request: RecordsRequest) -> RecordsReply:
        """Labels and metadata by template id."""
        shards = self._readable(request.gallery_id, request.shards, request.epochs)
        keys = template_keys(request.template_ids)  # once for all shards
        records = tuple(record for s in shards for record in s.records(request.template_ids, keys))
        return RecordsReply(records, _have_left(shards))

    def identities(self, request: IdentitiesRequest) -> IdentitiesReply:
        """One page of identities over the asked shards."""
        shards = self._readable(request.gallery_id, request.shards, request.epochs)
        pages = [entry for shard in shards for entry in shard.identities(request.start, request.limit)]
        return IdentitiesReply(tuple(sorted(pages, key=lambda entry: entry.identity.encode())[: request.limit]))

    def listing(self, request: ListRequest) -> ListReply:
        """One page of template ids over the asked shards."""
        shards = self._readable(request.gallery_id, request.shards, request.epochs)
        pages = [i for s in shards for i in s.ids_after(request.after, request.limit, request.identity)]
        return ListReply(tuple(in_listing_order(pages)[: request.limit]), _have_left(shards))

    def stats(self, request: StatsRequest) -> StatsReply:
        """Sizes, shard by shard."""
        shards = self._readable(request.gallery_id, request.shards, request.epochs)
        return StatsReply(tuple(shard.stats() for shard in shards))

    # Exports

    def point(self, request: PointRequest) -> ShardPoint:
        """The moment of one shard, at its primary."""
        return self._exportable(request.gallery_id, request.shard, request.epoch).point(request.shard)

    def export(self, request: ExportRequest) -> ExportedRows:
        """A piece of one shard's rows, at its primary."""
        return self._exportable(request.gallery_id, request.shard, request.epoch).export(request.rows, request.known)

    def export_moved(self, request: ExportMovedRequest) -> ExportedRows:
        """A piece of what compaction moved in one shard, at its primary."""
        shard = self._exportable(request.gallery_id, request.shard, request.epoch)
        return shard.export_moved(request.moved)

    # Writes

    def enroll(self, request: EnrollRequest) -> EnrollReceipt:
        """Write to one shard, at its primary."""
        replica = self._routed(request.gallery_id, request.shard)
        return replica.write(
            request.epoch,
            lambda shard: shard.enroll(request.batch, skip_existing=request.skip_existing, operation=request.operation),
        )

    def delete(self, request: DeleteRequest) -> DeleteReply:
        """Delete from the asked shards, at their primaries."""
        deleted = 0
        for number, epoch in zip(request.shards, request.epochs, strict=True):
            deleted += self._routed(request.gallery_id, number).write(
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
            amended += self._routed(request.gallery_id, number).write(
                epoch,
                lambda shard: shard.amend(request.template_ids, request.metadata, operation=request.operation),
            )
        return AmendReply(amended, self._have_departures(request.gallery_id, request.shards))

    def _have_departures(self, gallery_id: str, numbers: Sequence[int]) -> bool:
        return any(self._routed(gallery_id, number).shard.has_departures for number in numbers)

    def rename(self, request: RenameRequest) -> AmendReply:
        """Rename an identity in one shard, at its primary."""
        return AmendReply(
            self._routed(request.gallery_id, request.shard).write(
                request.epoch,
                lambda shard: shard.rename(
                    request.identity, request.into, limit=request.limit, operation=request.operation
                ),
            )
        )

    def move_out(self, request: MoveOutRequest) -> ExportedRows:
        """Let templates of an identity go, and tell the next, at the primary."""
        return self._routed(request.gallery_id, request.shard).write(
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
            self._routed(request.gallery_id, number).write(epoch, Shard.flush)
        return Done()

    # Between hosts

    def replicate(self, request: ReplicateRequest) -> ProgressReply:
        """Carry out a primary's entries."""
        return self._replica(request.gallery_id, request.shard).replicate(request)

    def absorb(self, request: AbsorbRequest) -> ProgressReply:
        """Take over a piece of a primary's state."""
        return self._replica(request.gallery_id, request.shard).absorb(request)

    def restart(self, request: RestartRequest) -> ProgressReply:
        """Give up what this replica has, and begin from nothing."""
        replica = self._replica(request.gallery_id, request.shard)
        replica.accept(request.epoch)
        model = replica.shard.model
        with self._opening, contextlib.ExitStack() as stack:
            if model is not None:
                stack.enter_context(self._models.using(model.model_id))
            self._remove(request.gallery_id, request.shard)
            shard = self._create(request.gallery_id, request.shard, replica.shard.dim)
            if model is not None:
                shard.activate(model)  # before there is a row, so that each is encoded when it comes
            fresh = self._replicas[request.gallery_id, request.shard]
        fresh.accept(request.epoch)
        if replica.config is not None:
            fresh.configure(replica.config, 1)
        return fresh.progress()

    def rows(self, request: RowsRequest) -> RowsReply:
        """Float rows, for a replica whose own are damaged."""
        (shard,) = self._readable(request.gallery_id, (request.shard,))
        return RowsReply(shard.gather(np.arange(request.first, request.last)))

    def digest(self, request: DigestRequest) -> DigestReply:
        """What replicas compare."""
        shard = self._replica(request.gallery_id, request.shard).shard
        with shard.frozen():
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
            ShardHealth(*key, r.epoch, r.shard.lsn, r.fault, r.shard.is_catching_up, r.unconfirmed)
            for key, r in tuple(self._replicas.items())
            if key in asked or r.config is None or r.fault or r.unconfirmed
        ]
        return HealthReply(self.name, self.incarnation, tuple(told))

    def inventory(self, request: InventoryRequest) -> InventoryReply:
        """Every shard that has a directory here."""
        found = shards_on(self._directory)
        return InventoryReply(tuple(gallery_id for gallery_id, _ in found), tuple(number for _, number in found))

    # Control requests

    def create_shard(self, request: CreateShard) -> Done:
        """Create a shard, or leave the same one as it is. It answers nothing before it is configured."""
        with self._opening:
            if (request.gallery_id, request.shard) not in self._replicas:
                self._create(request.gallery_id, request.shard, request.dim)
        return Done()

    def configure_shards(self, request: ConfigureShards) -> ConfiguredReply:
        """Take up configurations, shard by shard; a shard that cannot be opened keeps no other from it."""
        self._open_ahead([(config.gallery_id, config.shard) for config in request.configs])
        faults = []
        for config, min_in_sync in zip(request.configs, request.min_in_sync, strict=True):
            try:
                self._replica(config.gallery_id, config.shard).configure(config, min_in_sync, request.released)
                faults.append("")
            except UnknownGallery as error:
                # The catalog says that it is here.
                faults.append(f"{CorruptData.code}: {error}")
            except FacegridError as error:
                faults.append(f"{error.code}: {error}")
        if self._beacons is not None and self._leases is not None:
            self._beacons.start_for(sorted(self._leases.partners()))
        return ConfiguredReply(tuple(faults))

    def admit_replica(self, request: AdmitReplica) -> Done:
        """As primary: bring another host's replica level, and from then on confirm nothing without it."""
        if self._beacons is not None:
            self._beacons.start_for((request.host,))
        self._replica(request.gallery_id, request.shard).admit(request.epoch, request.host)
        if self._beacons is not None:
            self._beacons.start_for((request.host,))  # it counts from now on
        return Done()

    def set_peers(self, request: SetPeers) -> Done:
        """Take note of where the other hosts are."""
        addresses = zip(request.addresses, request.ports, strict=True)
        self._peers.locate(dict(zip(request.hosts, addresses, strict=True)))
        return Done()

    def check_shard(self, request: CheckShard) -> CheckReply:
        """Read every sealed file of a shard; mend what is damaged."""
        replica = self._replica(request.gallery_id, request.shard)
        damages = check_files(replica.shard)
        if not damages:
            return CheckReply((), 0)

        def fetch(first: int, last: int) -> FloatArray:
            rows = RowsRequest(request.gallery_id, request.shard, first, last)
            return ask(self._peers, request.source, rows, RowsReply, FETCH_S).embeddings

        left = mend(replica.shard, damages, fetch if request.source else None)
        for damage in left:
            self._note_damage(CorruptData(f"{damage.path}: {damage.what}", path=str(damage.path)))
        if not left:
            replica.damage = None
        return CheckReply(tuple(f"{damage.path}: {damage.what}" for damage in damages), len(damages) - len(left))

    def drop_shard(self, request: DropShard) -> Done:
        """Close and remove one shard, unless a later configuration is known."""
        with self._opening:
            try:
                replica = self._replica(request.gallery_id, request.shard)
            except (UnknownGallery, CorruptData):
                replica = None  # gone, or not to be opened: removed all the same
            if replica is not None and replica.shard.configured_epoch > request.epoch:
                raise StaleRoute(
                    f"shard {request.shard} of {request.gallery_id} on {self.name} is of epoch"
                    f" {replica.shard.configured_epoch}, asked to be dropped in {request.epoch}"
                )
            self._remove(request.gallery_id, request.shard)
            self._remove_unused_models()
        return Done()

    def compact_shards(self, request: CompactShards) -> Done:
        """As primary: give up segments with dead rows."""
        for number in request.shards:
            self._replica(request.gallery_id, number).write(
                0, lambda shard: compact(shard, least_dead=request.least_dead)
            )
        return Done()

    def scrub_shards(self, request: ScrubShards) -> Done:
        """Leave no byte of deleted labels in the databases."""
        for number in request.shards:
            shard = self._replica(request.gallery_id, number).shard
            if shard.erasure().needs_scrub:
                shard.scrub()
        return Done()

    def erasure(self, request: ErasureRequest) -> ErasureReply:
        """What the files of the asked shards still hold of deleted templates."""
        return ErasureReply(
            tuple(self._replica(request.gallery_id, number).shard.erasure() for number in request.shards)
        )

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
            self._remove_unused_models()
        return Done()

    def sample(self, request: SampleRows) -> SampleReply:
        """Rows from each shard in proportion to its templates."""
        shards = self._readable(request.gallery_id, request.shards)
        templates = sum(len(shard) for shard in shards)
        share = min(1.0, request.rows / max(1, templates))
        rows = [shard.sample(int(np.ceil(len(shard) * share)), request.seed + i) for i, shard in enumerate(shards)]
        return SampleReply(np.concatenate(rows)[: request.rows], templates)

    def sample_recent(self, request: SampleRecent) -> SampleReply:
        """The same number of recent rows from each shard: shards fill evenly."""
        shards = self._readable(request.gallery_id, request.shards)
        share = -(-request.rows // max(1, len(shards)))
        found = [s.recent(share, request.seed, lsn) for s, lsn in zip(shards, request.since, strict=True)]
        return SampleReply(np.concatenate([rows for rows, _ in found])[: request.rows], sum(n for _, n in found))

    def draw_identities(self, request: DrawIdentities) -> IdentityDraw:
        """Identities of the asked shards together, by the hash of their names."""
        return draw_identities(self._readable(request.gallery_id, request.shards), request.count, request.seed)

    def draw_templates(self, request: DrawTemplates) -> DrawnReply:
        """Templates of the identities, each of which is in one shard."""
        shards = self._readable(request.gallery_id, request.shards)
        found = [templates_of(s, request.identities, request.per_identity, request.seed) for s in shards]
        return DrawnReply(np.concatenate([rows for rows, _ in found]), tuple(i for _, names in found for i in names))

    def prepare_model(self, request: PrepareModel) -> Done:
        """Store the model, and the codes it makes of every sealed row."""
        shards = self._open_all(request.gallery_id, request.shards)
        with self._models.storing(request.model) as model:
            for shard in shards:
                shard.prepare(model)
        return Done()

    def activate_model(self, request: ActivateModel) -> Done:
        """Build what all the shards need, then switch one right after the other, so that searches meet few mixtures."""
        shards = self._open_all(request.gallery_id, request.shards)
        with self._switching, contextlib.ExitStack() as stack:
            wanted = request.model_id
            model = None if wanted is None else stack.enter_context(self._models.using(wanted))
            late = [shard for shard in shards if (shard.model and shard.model.model_id) != wanted]
            for shard, staged in [(shard, shard.stage(model)) for shard in late]:
                shard.switch(staged)
            for shard in late:
                if model is not None:  # what was sealed between staging and switching
                    shard.prepare(model)
        return Done()

    def discard_models(self, request: DiscardModels) -> Done:
        """Remove codes that are no longer needed, then models that no shard of this host needs."""
        for shard in self._open_all(request.gallery_id, request.shards):
            shard.discard(request.keep)
        self._remove_unused_models()
        return Done()

    def models(self, request: ModelsRequest) -> ModelsReply:
        """The active model of each shard."""
        views = [shard.view() for shard in self._open_all(request.gallery_id, request.shards)]
        return ModelsReply(tuple(model.model_id if model else None for _, model in views))

    def _remove_unused_models(self) -> None:
        with self._opening:
            try:
                needed: set[str] = set()
                for key in shards_on(self._directory):
                    needed |= self._replica(*key).shard.model_ids()
            except FacegridError as error:
                # What a shard that does not open needs is not known, and a file too many does no harm.
                _LOG.warning("shard host %s keeps every model file: %s", self.name, error)
            else:
                self._models.remove_except(needed)

    # Opening

    def _open_all(self, gallery_id: str, numbers: Iterable[int]) -> list[Shard]:
        return [self._replica(gallery_id, number).shard for number in numbers]

    def _readable(self, gallery_id: str, numbers: Sequence[int], epochs: Sequence[int] = ()) -> list[Shard]:
        """The shards, if this host may answer reads of all of them. epochs: those that the caller knows; any if ()."""
        replicas = [self._routed(gallery_id, number) for number in numbers]
        for replica, epoch in zip(replicas, epochs or (0,) * len(replicas), strict=True):
            replica.check_read(epoch)
        return [replica.shard for replica in replicas]

    def _routed(self, gallery_id: str, number: int) -> Replica:
        """A replica that a route leads to; StaleRoute where it is not here any more, because it was moved elsewhere.

        One that should be here and is lost is found when the host is told what it holds (`configure_shards`).
        """
        try:
            return self._replica(gallery_id, number)
        except CorruptData:
            if self._shard_directory(gallery_id, number).is_dir():
                raise
            raise StaleRoute(f"shard host {self.name} has no shard {number} of gallery {gallery_id}") from None

    def _exportable(self, gallery_id: str, number: int, epoch: int) -> Shard:
        """The shard, if this host is its primary under the epoch, and nobody has gone on without it."""
        replica = self._replica(gallery_id, number)
        replica.check_primary(epoch)
        replica.check_read(epoch)
        return replica.shard

    def _replica(self, gallery_id: str, number: int) -> Replica:
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
                self._add(gallery_id, number, Shard(directory, self._models.load))
            return self._replicas[gallery_id, number]

    def _open_ahead(self, keys: Sequence[tuple[str, int]]) -> None:
        """Open those of the shards that are there and closed, side by side.

        One that cannot be opened stays closed: whoever asks for it opens it again, and is told why that fails.
        """
        with self._opening:
            closed = [key for key in keys if key not in self._replicas and self._shard_directory(*key).is_dir()]
            if self._is_closed or len(closed) < 2:
                return
            with ThreadPoolExecutor(min(len(closed), OPENED_AT_ONCE), thread_name_prefix="facegrid-open") as pool:
                opened = [(key, pool.submit(Shard, self._shard_directory(*key), self._models.load)) for key in closed]
            for key, shard in opened:
                if shard.exception() is None:
                    self._add(*key, shard.result())

    def _create(self, gallery_id: str, number: int, dim: int) -> Shard:
        directory = self._shard_directory(gallery_id, number)
        shard = Shard.create(directory, dim=dim, load_model=self._models.load)
        self._add(gallery_id, number, shard)
        return shard

    def _add(self, gallery_id: str, number: int, shard: Shard) -> None:
        self._replicas[gallery_id, number] = Replica(self.name, shard, self._peers, self._leases)

    def _close(self, key: tuple[str, int]) -> None:
        replica = self._replicas.pop(key, None)
        if replica is not None:
            replica.close()
        if self._leases is not None:
            self._leases.forget(key)

    def _remove(self, gallery_id: str, number: int) -> None:
        self._close((gallery_id, number))
        remove_tree(self._shard_directory(gallery_id, number))

    def _shard_directory(self, gallery_id: str, number: int) -> Path:
        return shard_directory(self._directory, gallery_id, number)


def _have_left(shards: Sequence[Shard]) -> bool:
    return any(shard.has_fresh_departures for shard in shards)


_HANDLERS: dict[type, Callable[[ShardHost, Any], Reply]] = {
    SearchRequest: ShardHost.search,
    EnrollRequest: ShardHost.enroll,
    DeleteRequest: ShardHost.delete,
    AmendRequest: ShardHost.amend,
    RenameRequest: ShardHost.rename,
    MoveOutRequest: ShardHost.move_out,
    RecordsRequest: ShardHost.records,
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
    CreateShard: ShardHost.create_shard,
    ConfigureShards: ShardHost.configure_shards,
    SetPeers: ShardHost.set_peers,
    AdmitReplica: ShardHost.admit_replica,
    DropShard: ShardHost.drop_shard,
    CompactShards: ShardHost.compact_shards,
    ScrubShards: ShardHost.scrub_shards,
    ErasureRequest: ShardHost.erasure,
    CheckShard: ShardHost.check_shard,
    DropGallery: ShardHost.drop_gallery,
    SampleRows: ShardHost.sample,
    SampleRecent: ShardHost.sample_recent,
    DrawIdentities: ShardHost.draw_identities,
    DrawTemplates: ShardHost.draw_templates,
    PrepareModel: ShardHost.prepare_model,
    ActivateModel: ShardHost.activate_model,
    PointRequest: ShardHost.point,
    ExportRequest: ShardHost.export,
    ExportMovedRequest: ShardHost.export_moved,
    DiscardModels: ShardHost.discard_models,
    ModelsRequest: ShardHost.models,
}
