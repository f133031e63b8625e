"""`ShardHost`: the shards of many galleries in one directory and one process, and what can be asked of them.

    <host>/galleries/<gallery id>/shard-0000/    one `shard.Shard`
    <host>/models/<model id>.model               SearchModels that shards here use

It executes messages; it knows no network, no Ray, no catalog. Thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.host_models import HostModels
from coordinator.messages import (
    ActivateModel,
    CreateShard,
    DeleteReply,
    DeleteRequest,
    DiscardModels,
    Done,
    DropGallery,
    EnrollRequest,
    FlushRequest,
    IdentitiesReply,
    IdentitiesRequest,
    ModelsReply,
    ModelsRequest,
    OpenShards,
    PrepareModel,
    RecordsReply,
    RecordsRequest,
    Reply,
    Request,
    SampleRecent,
    SampleReply,
    SampleRows,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from shard.errors import CorruptData, FacegridError, InvalidParameter, ShardClosed, UnknownGallery
from shard.files import DirectoryLock, make_directory, remove_tree
from shard.keys import template_keys
from shard.search import search_by_model
from shard.shard import Shard
from shard.types import EnrollReceipt

_LOG = logging.getLogger(__name__)
_GALLERY_ID = re.compile(r"[0-9a-f]{16}")


class ShardHost:
    """Opens shards on first use and keeps them open. One process at a time (HomeLocked for the second)."""

    def __init__(self, name: str, directory: Path) -> None:
        """Open or create the host's directory."""
        self.name = name
        self._directory = directory
        make_directory(directory)
        self._lock = DirectoryLock(directory)
        self._opening = threading.RLock()
        self._shards: dict[tuple[str, int], Shard] = {}
        self._models = HostModels(directory / "models", name)
        self._switching = threading.Lock()
        self._is_closed = False

    def execute(self, request: Request) -> Reply:
        """Carry out one request; raises the FacegridError that says why it could not."""
        if self._is_closed:
            raise ShardClosed(f"shard host {self.name} is closed")
        return _HANDLERS[type(request)](self, request)

    def close(self) -> None:
        """Close every shard and release the directory. Idempotent."""
        with self._opening:
            self._is_closed = True
            while self._shards:
                self._shards.popitem()[1].close()
            self._lock.close()

    # Data requests

    def search(self, request: SearchRequest) -> SearchReply:
        """Search the asked shards together."""
        shards = self._open_all(request.gallery_id, request.shards)
        candidates, model_id = search_by_model(shards, request.probes, request.params)
        return SearchReply(candidates, request.shards, model_id)

    def enroll(self, request: EnrollRequest) -> EnrollReceipt:
        """Write to one shard."""
        shard = self._shard(request.gallery_id, request.shard)
        return shard.enroll(request.batch, skip_existing=request.skip_existing)

    def delete(self, request: DeleteRequest) -> DeleteReply:
        """Delete from the asked shards."""
        shards = self._open_all(request.gallery_id, request.shards)
        counts = [s.delete(template_ids=request.template_ids, identities=request.identities) for s in shards]
        return DeleteReply(sum(counts))

    def records(self, request: RecordsRequest) -> RecordsReply:
        """Labels and metadata by template id."""
        shards = self._open_all(request.gallery_id, request.shards)
        keys = template_keys(request.template_ids)  # once for all shards
        return RecordsReply(tuple(record for s in shards for record in s.records(request.template_ids, keys)))

    def identities(self, request: IdentitiesRequest) -> IdentitiesReply:
        """One page of identities over the asked shards."""
        shards = self._open_all(request.gallery_id, request.shards)
        pages = [entry for shard in shards for entry in shard.identities(request.start, request.limit)]
        return IdentitiesReply(tuple(sorted(pages, key=lambda entry: entry.identity.encode())[: request.limit]))

    def flush(self, request: FlushRequest) -> Done:
        """Seal the open tails."""
        for shard in self._open_all(request.gallery_id, request.shards):
            shard.flush()
        return Done()

    def stats(self, request: StatsRequest) -> StatsReply:
        """Sizes, shard by shard."""
        return StatsReply(tuple(shard.stats() for shard in self._open_all(request.gallery_id, request.shards)))

    # Control requests

    def create_shard(self, request: CreateShard) -> Done:
        """Create a shard, or leave the same one as it is."""
        with self._opening:
            key = (request.gallery_id, request.shard)
            if key not in self._shards:
                directory = self._shard_directory(*key)
                self._shards[key] = Shard.create(directory, dim=request.dim, load_model=self._models.load)
        return Done()

    def open_shards(self, request: OpenShards) -> Done:
        """Open shards now instead of on first use. The catalog says that they are here: CorruptData if one is not."""
        try:
            self._open_all(request.gallery_id, request.shards)
        except UnknownGallery as error:
            raise CorruptData(str(error)) from error
        return Done()

    def drop_gallery(self, request: DropGallery) -> Done:
        """Close and remove every shard of the gallery."""
        with self._opening:
            for key in [key for key in self._shards if key[0] == request.gallery_id]:
                self._shards.pop(key).close()
            directory = self._gallery_directory(request.gallery_id)
            if directory.exists():
                remove_tree(directory)
            self._remove_unused_models()
        return Done()

    def sample(self, request: SampleRows) -> SampleReply:
        """Rows from each shard in proportion to its templates."""
        shards = self._open_all(request.gallery_id, request.shards)
        templates = sum(len(shard) for shard in shards)
        share = min(1.0, request.rows / max(1, templates))
        rows = [shard.sample(int(np.ceil(len(shard) * share)), request.seed + i) for i, shard in enumerate(shards)]
        return SampleReply(np.concatenate(rows)[: request.rows], templates)

    def sample_recent(self, request: SampleRecent) -> SampleReply:
        """The same number of recent rows from each shard: shards fill evenly."""
        shards = self._open_all(request.gallery_id, request.shards)
        share = -(-request.rows // max(1, len(shards)))
        found = [s.recent(share, request.seed, lsn) for s, lsn in zip(shards, request.since, strict=True)]
        return SampleReply(np.concatenate([rows for rows, _ in found])[: request.rows], sum(n for _, n in found))

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
                for path in sorted((self._directory / "galleries").glob("*/shard-*")):
                    needed |= self._shard(path.parent.name, int(path.name[6:])).model_ids()
            except FacegridError as error:
                # What a shard that does not open needs is not known, and a file too many does no harm.
                _LOG.warning("shard host %s keeps every model file: %s", self.name, error)
            else:
                self._models.remove_except(needed)

    # Opening

    def _open_all(self, gallery_id: str, numbers: Iterable[int]) -> list[Shard]:
        return [self._shard(gallery_id, number) for number in numbers]

    def _shard(self, gallery_id: str, number: int) -> Shard:
        shard = self._shards.get((gallery_id, number))
        if shard is not None:
            return shard
        with self._opening:
            if self._is_closed:
                raise ShardClosed(f"shard host {self.name} is closed")
            if (gallery_id, number) not in self._shards:
                directory = self._shard_directory(gallery_id, number)
                if not directory.parent.is_dir():
                    raise UnknownGallery(
                        f"shard host {self.name} has no gallery {gallery_id} (dropped?): expected {directory.parent}"
                    )
                if not directory.is_dir():
                    raise CorruptData(
                        f"shard host {self.name} has no shard {number} of gallery {gallery_id}: expected {directory}"
                    )
                self._shards[gallery_id, number] = Shard(directory, self._models.load)
            return self._shards[gallery_id, number]

    def _gallery_directory(self, gallery_id: str) -> Path:
        # It becomes a path, and one that is removed on demand: nothing but an id that a coordinator made may pass.
        if not _GALLERY_ID.fullmatch(gallery_id):
            raise InvalidParameter(f"gallery id: expected 16 hexadecimal digits, got {gallery_id!r:.80}")
        return self._directory / "galleries" / gallery_id

    def _shard_directory(self, gallery_id: str, number: int) -> Path:
        return self._gallery_directory(gallery_id) / f"shard-{number:04d}"


_HANDLERS: dict[type, Callable[[ShardHost, Any], Reply]] = {
    SearchRequest: ShardHost.search,
    EnrollRequest: ShardHost.enroll,
    DeleteRequest: ShardHost.delete,
    RecordsRequest: ShardHost.records,
    IdentitiesRequest: ShardHost.identities,
    FlushRequest: ShardHost.flush,
    StatsRequest: ShardHost.stats,
    CreateShard: ShardHost.create_shard,
    OpenShards: ShardHost.open_shards,
    DropGallery: ShardHost.drop_gallery,
    SampleRows: ShardHost.sample,
    SampleRecent: ShardHost.sample_recent,
    PrepareModel: ShardHost.prepare_model,
    ActivateModel: ShardHost.activate_model,
    DiscardModels: ShardHost.discard_models,
    ModelsRequest: ShardHost.models,
}
