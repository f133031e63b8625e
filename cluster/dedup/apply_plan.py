"""What an apply would do: which templates it changes and how, which it skips and why. Reads, and changes nothing.

A template is changed only if it is the one that the job saw: the same enrollment (shard and LSN), identity and
metadata. What earlier applies of the same result changed themselves is known from their journals (`Known`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from cluster.dedup.effective import IN, EffectiveGroups
from cluster.dedup.identities import SEVERAL, conflicting_groups, new_identities
from cluster.dedup.result_columns import DUPLICATE, KEEP
from cluster.dedup.result_files import DedupResult
from cluster.dedup.row_labels import metadata_digest
from cluster.metadata import metadata_json
from cluster.thumbnails import RESERVED
from coordinator.types import GalleryRoute
from shard.errors import InvalidParameter
from shard.types import TemplateRecord

if TYPE_CHECKING:
    from cluster.api import Cluster

TAG_KEY = f"{RESERVED}dedup_group"
"""Metadata key of a tag, unless the user has one of their own."""
BATCH = 1_000
"""Templates that are looked at, and changed, at once."""

Tell = Callable[[int, int], None]


class ApplyAction(str, Enum):
    """delete: the duplicates of each group. merge: one identity for all of it. tag: its name in their metadata."""

    DELETE = "delete"
    MERGE = "merge"
    TAG = "tag"


class Skip(str, Enum):
    """Why a template of a group stays as it is."""

    DELETED = "deleted"
    ENROLLED_AGAIN = "enrolled_again"
    IDENTITY = "identity_changed"
    METADATA = "metadata_changed"
    KEEP = "keep_changed"
    DONE = "done_already"
    THERE = "there_again"


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """What is asked for. gallery: of a job of two, the one to change; key: of a tag; accept_all: groups that need
    review and have no decision too, and those of several identities.
    """

    action: ApplyAction
    gallery: str | None = None
    key: str = TAG_KEY
    accept_all: bool = False


class TemplateKey(NamedTuple):
    """A template by gallery and id."""

    gallery: str
    template_id: str


@dataclass(frozen=True, slots=True)
class Known:
    """What a template is to be: LSN in its shard, identity, `metadata_digest` of its metadata."""

    lsn: int
    identity: str | None
    digest: bytes | None

    def skip_of(self, record: TemplateRecord | None, tag_keys: frozenset[str]) -> Skip | None:
        """Why the record is not that template as it was; None if it is. tag_keys: that may have been set since."""
        if record is None:
            return Skip.DELETED
        if record.identity != self.identity:
            return Skip.IDENTITY
        # The identity decides the shard, in which an LSN is one batch of one enrollment.
        if record.lsn != self.lsn:
            return Skip.ENROLLED_AGAIN
        if self.digest in (metadata_digest(record.metadata), metadata_digest(_untagged(record.metadata, tag_keys))):
            return None
        return Skip.METADATA


def _untagged(metadata: bytes | None, tag_keys: frozenset[str]) -> bytes | None:
    if metadata is None:
        return None
    rest = {name: value for name, value in json.loads(metadata).items() if name not in tag_keys}
    return metadata_json(rest or None)


@dataclass(frozen=True, slots=True)
class Change:
    """One template that is changed: as it is, and its identity and metadata afterwards (of no meaning for a deletion).

    source_lsn: the LSN by which the job's snapshot has it. keep: the template that stays for it, of a deletion.
    metadata: None in a plan, since it may be large. In a journal it is UTF-8 JSON; for a tag, of its key alone.
    """

    key: TemplateKey
    group: str
    lsn: int
    source_lsn: int
    identity: str | None
    identity_after: str | None
    keep: TemplateKey | None
    keep_lsn: int
    metadata: bytes | None = None
    metadata_after: bytes | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """One template that an apply leaves as it is, and why."""

    key: TemplateKey
    group: str
    reason: Skip


@dataclass(slots=True)
class ApplyPlan:
    """What would be done. left_out: templates of groups that are not applied, by why."""

    options: ApplyOptions
    changes: list[Change] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def groups(self) -> int:
        """Groups of which a template is changed."""
        return len({change.group for change in self.changes})


def check_options(result: DedupResult, options: ApplyOptions) -> ApplyOptions:
    """InvalidParameter for a gallery that is not the job's, and for a key that is nobody's to set."""
    galleries = [entry["gallery"] for entry in result.summary["inputs"]]
    if options.gallery is not None and options.gallery not in galleries:
        raise InvalidParameter(f"gallery: expected one of {', '.join(galleries)}, got {options.gallery!r:.80}")
    key = options.key
    if not isinstance(key, str) or not key or len(key.encode()) > 256 or "." in key:
        raise InvalidParameter(f"key: expected text of up to 256 bytes without a dot, got {key!r:.80}")
    if key.startswith(RESERVED) and key != TAG_KEY:
        raise InvalidParameter(f"key: keys that begin with {RESERVED!r} are reserved, got {key!r:.80}")
    return options


def routes_of(cluster: Cluster, result: DedupResult) -> dict[str, GalleryRoute]:
    """The galleries of a result by name. UnknownGallery; InvalidParameter if one is not the gallery that was read."""
    found = {}
    for entry in result.summary["inputs"]:
        name = entry["gallery"]
        route = cluster.coordinator.gallery(name)
        if route.gallery_id != entry["gallery_id"]:
            raise InvalidParameter(f"{name} is not the gallery that {result.job_id} read: that one was dropped since")
        found[name] = route
    return found


def records_of(
    cluster: Cluster, routes: Mapping[str, GalleryRoute], keys: list[TemplateKey]
) -> dict[TemplateKey, TemplateRecord]:
    """The records of those templates that are there."""
    found = {}
    for gallery, route in routes.items():
        ids = tuple(dict.fromkeys(key.template_id for key in keys if key.gallery == gallery))
        for begin in range(0, len(ids), BATCH):
            for record in cluster.router.records(route, ids[begin : begin + BATCH]):
                found[TemplateKey(gallery, record.template_id)] = record
    return found


class Planner:
    """Makes the plan of one apply."""

    def __init__(
        self,
        cluster: Cluster,
        result: DedupResult,
        effective: EffectiveGroups,
        options: ApplyOptions,
        known: Mapping[TemplateKey, Known],
        tag_keys: frozenset[str],
    ) -> None:
        """known: what earlier applies of the result made of templates; tag_keys: keys that they set."""
        self._cluster, self._result, self._effective = cluster, result, effective
        self._options, self._known, self._tag_keys = options, known, tag_keys | {TAG_KEY}
        self._routes = routes_of(cluster, result)
        table, members = result.groups, result.members
        self._keys = [
            TemplateKey(gallery, template_id)
            for gallery, template_id in zip(
                table.column("gallery").to_pylist(), table.column("template_id").to_pylist(), strict=True
            )
        ]
        self._identities: list[str | None] = table.column("identity").to_pylist()
        for row, key in enumerate(self._keys):
            if key in known:
                self._identities[row] = known[key].identity
        self._lsns: list[int] = members.column("lsn").to_pylist()
        self._digests: list[bytes | None] = members.column("metadata_digest").to_pylist()

    def plan(self, progress: Tell | None = None) -> ApplyPlan:
        """Every change, in the order of groups.parquet."""
        plan = ApplyPlan(self._options)
        groups = self._included(plan)
        names = new_identities(self._result.job_id, groups, self._identities, self._effective.role)
        keeps = {name: row for name, rows in groups.items() for row in rows if self._effective.role[row] == KEEP}
        done = 0
        for batch in _batches(groups):
            rows = [row for name in batch for row in groups[name]]
            records = records_of(self._cluster, self._routes, [self._keys[row] for row in rows])
            for name in batch:
                for row in groups[name]:
                    self._plan_row(plan, row, name, keeps[name], names[name], records)
            done += len(batch)
            if progress is not None:
                progress(done, len(groups))
        return plan

    def _included(self, plan: ApplyPlan) -> dict[str, list[int]]:
        """Rows of each group that is applied, by its name."""
        out, is_all = self._effective.out, self._options.accept_all
        groups: dict[str, list[int]] = {}
        for row, why in enumerate(out.tolist()):
            if why == IN or (is_all and why == "needs_review"):
                groups.setdefault(self._effective.name[row], []).append(row)
            else:
                plan.left_out[why] += 1
        if self._options.action is not ApplyAction.TAG and not is_all:
            for name in conflicting_groups(groups, self._identities, self._effective.is_reviewed):
                plan.left_out[SEVERAL] += len(groups.pop(name))
        return groups

    def _expected(self, row: int) -> Known:
        key = self._keys[row]
        return self._known.get(key) or Known(self._lsns[row], self._identities[row], self._digests[row])

    def _plan_row(
        self,
        plan: ApplyPlan,
        row: int,
        name: str,
        keep: int,
        identity_after: str,
        records: Mapping[TemplateKey, TemplateRecord],
    ) -> None:
        key, action = self._keys[row], self._options.action
        if self._options.gallery not in (None, key.gallery):
            return
        if action is ApplyAction.DELETE and self._effective.role[row] != DUPLICATE:
            return
        record = records.get(key)
        skip = self._expected(row).skip_of(record, self._tag_keys)
        if skip is Skip.METADATA and action is not ApplyAction.DELETE:
            skip = None  # it stays as somebody changed it
        if skip is None and action is ApplyAction.DELETE and not self._is_kept(keep, records):
            skip = Skip.KEEP
        if skip is not None or record is None:
            plan.skipped.append(Skipped(key, name, skip or Skip.DELETED))
            return
        is_delete = action is ApplyAction.DELETE
        change = Change(
            key=key,
            group=name,
            lsn=record.lsn,
            source_lsn=self._lsns[row],
            identity=record.identity,
            identity_after=identity_after if action is ApplyAction.MERGE else record.identity,
            keep=self._keys[keep] if is_delete else None,
            keep_lsn=self._expected(keep).lsn if is_delete else -1,
        )
        if self._is_done(change, record):
            plan.skipped.append(Skipped(key, name, Skip.DONE))
        else:
            plan.changes.append(change)

    def _is_done(self, change: Change, record: TemplateRecord) -> bool:
        if self._options.action is ApplyAction.DELETE:
            return False
        full = with_metadata(change, record, self._options, self._result.job_id)
        return (full.identity, full.metadata) == (full.identity_after, full.metadata_after)

    def _is_kept(self, keep: int, records: Mapping[TemplateKey, TemplateRecord]) -> bool:
        """Whether the template that stays is there, whatever its metadata is now."""
        skip = self._expected(keep).skip_of(records.get(self._keys[keep]), self._tag_keys)
        return skip in (None, Skip.METADATA)


def with_metadata(change: Change, record: TemplateRecord, options: ApplyOptions, job_id: str) -> Change:
    """The change with its template's metadata as it is, and as it is to be; of a tag, its key's alone."""
    if options.action is not ApplyAction.TAG:
        return replace(change, metadata=record.metadata, metadata_after=record.metadata)
    found = {} if record.metadata is None else json.loads(record.metadata)
    before = {options.key: found[options.key]} if options.key in found else None
    after = {options.key: f"{job_id}/{change.group}"}
    return replace(change, metadata=metadata_json(before), metadata_after=metadata_json(after))


def _batches(groups: Mapping[str, list[int]]) -> Iterator[list[str]]:
    """Names of whole groups, of BATCH templates or a little more together."""
    batch: list[str] = []
    size = 0
    for name, rows in groups.items():
        batch.append(name)
        size += len(rows)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
