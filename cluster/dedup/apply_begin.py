"""Beginning an apply: its plan, and the journal with every template that it will change, before any is changed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.dedup import apply_plan
from cluster.dedup.apply_history import known_templates, tag_keys_of
from cluster.dedup.apply_journal import ApplyJournal, ApplyRecord, Row
from cluster.dedup.apply_plan import (
    ApplyAction,
    ApplyOptions,
    ApplyPlan,
    Change,
    Planner,
    Tell,
    TemplateKey,
    records_of,
    routes_of,
    with_metadata,
)
from cluster.dedup.decisions import Review
from cluster.dedup.effective import effective_groups
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import undo_seconds
from cluster.dedup.template_floats import float_sources

if TYPE_CHECKING:
    from cluster.api import Cluster


def make_plan(
    cluster: Cluster, result: DedupResult, review: Review, options: ApplyOptions, progress: Tell | None
) -> ApplyPlan:
    """What an apply would do now. Raises as `cluster.dedup.apply.apply` does."""
    keys = tag_keys_of(ApplyJournal.all(result.directory))
    return Planner(cluster, result, effective_groups(result, review), options, known_templates(result), keys).plan(
        progress
    )


def begin_apply(cluster: Cluster, result: DedupResult, plan: ApplyPlan, review: Review, by: str) -> ApplyJournal:
    """The journal of a new apply of a plan that was made by that review."""
    options = plan.options
    journals = ApplyJournal.all(result.directory)
    at = time.time()
    has_floats = options.action is not ApplyAction.TAG
    record = ApplyRecord(
        number=journals[-1].record.number + 1 if journals else 1,
        action=options.action,
        gallery=options.gallery,
        key=options.key,
        accept_all=options.accept_all,
        by=by,
        at=at,
        undo_until=at + undo_seconds(cluster.settings.erasure_hours) if has_floats else None,
        review_version=review.version,
        groups=plan.groups,
        templates=len(plan.changes),
        skipped=dict(sorted(Counter(entry.reason.value for entry in plan.skipped).items())),
        left_out=dict(sorted(plan.left_out.items())),
        batch_rows=apply_plan.BATCH,
    )
    rows = _rows_with_floats(cluster, result, plan) if has_floats else _rows(cluster, result, plan, plan.changes)
    return ApplyJournal.create(result.directory, record, rows, _dim(cluster, result) if has_floats else None)


def _dim(cluster: Cluster, result: DedupResult) -> int:
    return next(iter(routes_of(cluster, result).values())).dim


def _rows(cluster: Cluster, result: DedupResult, plan: ApplyPlan, changes: Sequence[Change]) -> Iterator[Row]:
    """With metadata; without those that were changed since the plan was made."""
    routes = routes_of(cluster, result)
    for begin in range(0, len(changes), apply_plan.BATCH):
        some = changes[begin : begin + apply_plan.BATCH]
        records = records_of(cluster, routes, [change.key for change in some])
        for change in some:
            record = records.get(change.key)
            if record is not None and (record.lsn, record.identity) == (change.lsn, change.identity):
                yield Row(with_metadata(change, record, plan.options, result.job_id), None)


def _rows_with_floats(cluster: Cluster, result: DedupResult, plan: ApplyPlan) -> Iterator[Row]:
    """In the order of the snapshot that has the floats."""
    changes = {change.key: change for change in plan.changes}
    galleries = dict.fromkeys(key.gallery for key in changes)
    with float_sources(cluster, result, galleries, _scratch(result)) as sources:
        for gallery, source in sources.items():
            ids = [key.template_id for key in changes if key.gallery == gallery]
            for found in source.read(ids):
                some, floats = [], {}
                for entry in found:
                    change = changes[TemplateKey(gallery, entry.template_id)]
                    if entry.lsn == (change.lsn if source.is_fresh else change.source_lsn):
                        some.append(change)
                        floats[change.key] = entry.floats
                for row in _rows(cluster, result, plan, some):
                    yield Row(row.change, floats[row.change.key])


def _scratch(result: DedupResult) -> Path:
    return result.directory / "apply" / "source"
