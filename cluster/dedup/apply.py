"""Acting on the groups of a dedup job, and taking it back.

    result = DedupResult.open(home / "jobs" / job_id)
    print(apply(grid, result, "delete").templates)       # a dry run
    apply(grid, result, "delete", dry_run=False)
    undo(grid, result, dry_run=False)

An apply is written to its journal before it changes anything (`apply_journal.py`), and carried out in batches each of
which may be repeated (`apply_steps.py`). One that was interrupted goes on when it is called again. What it takes to
undo it is removed by the deadline of erasure (`retention.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.dedup.apply_journal import ApplyJournal, ApplyRecord, Phase, Row, State
from cluster.dedup.apply_plan import (
    TAG_KEY,
    ApplyAction,
    ApplyOptions,
    ApplyPlan,
    Change,
    Known,
    Planner,
    Skipped,
    Tell,
    TemplateKey,
    check_options,
    records_of,
    routes_of,
    with_metadata,
)
from cluster.dedup.apply_steps import ApplySteps
from cluster.dedup.decisions import Review
from cluster.dedup.effective import effective_groups
from cluster.dedup.result_files import DedupResult
from cluster.dedup.retention import undo_seconds
from cluster.dedup.review import ReviewQueue
from cluster.dedup.row_labels import metadata_digest
from cluster.dedup.template_floats import float_sources
from shard.errors import HomeLocked, InvalidParameter, NotFound, ResultBusy, UndoExpired
from shard.files import DirectoryLock, make_directory

if TYPE_CHECKING:
    from cluster.api import Cluster

Action = Literal["delete", "merge", "tag"]


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What was done, or would be in a dry run.

    number: of the apply; None for one that is not begun. state: how far it is. groups, templates: that are changed.
    skipped: templates that stay as they are by reason (`apply_plan.Skip`), because they are not what the job saw;
    left_out: those of groups that are not applied, by why (needs_review, rejected, split_off, several_identities).
    changes, skips: one by one, of a dry run.
    """

    action: str
    dry_run: bool
    number: int | None
    state: State | Literal["planned"]
    groups: int
    templates: int
    skipped: dict[str, int]
    left_out: dict[str, int]
    undo_until: float | None
    changes: Sequence[Change] = field(default=(), repr=False)
    skips: Sequence[Skipped] = field(default=(), repr=False)


def apply(
    cluster: Cluster,
    result: DedupResult,
    action: Action,
    *,
    dry_run: bool = True,
    gallery: str | None = None,
    key: str = TAG_KEY,
    accept_all: bool = False,
    by: str = "",
    progress: Tell | None = None,
) -> ApplyReport:
    """Do to the groups of a result, as the review leaves them, what the action says.

    delete: remove the duplicates. merge: give all templates of a group one identity: that of the one it keeps, else the
    most frequent, else a new one. tag: set a key of their metadata to `<job id>/<group>`. Groups that need review are
    left out until somebody accepted them, and by delete and merge also those of several identities; not if accept_all.
    Templates that are not what the job saw any more are skipped. gallery: of a job of two, the only one to change. by:
    who asks, for the journal.

    Repeating the call after it was interrupted completes it. Raises InvalidParameter, also while an apply of another
    kind is interrupted; UnknownGallery; ResultBusy; CorruptData; and what writing to the gallery raises.
    """
    options = check_options(result, ApplyOptions(_action(action), gallery, key, accept_all))
    if dry_run:
        return _dry_run(cluster, result, options, progress)
    with _locked(result):
        left = _interrupted(result)
        if left is None:
            left = _begun(cluster, result, options, by)
        elif left.state != "applying" or left.record.options != options:
            raise InvalidParameter(
                f"apply {left.record.number} of {result.job_id} ({left.record.action.value}) is {left.state};"
                " complete it, or undo it, first"
            )
        _run(cluster, result, left, "do", progress)
        left.enter("applied")
        return _report(left, "do")


def undo(
    cluster: Cluster,
    result: DedupResult,
    *,
    dry_run: bool = True,
    progress: Tell | None = None,
    now: float | None = None,
) -> ApplyReport:
    """Take the last apply of a result back that was not taken back yet, one that was interrupted too.

    Deleted templates are enrolled as they were: id, floats to the bit, identity, metadata. Merged ones get back their
    identity, and keep metadata that was changed since; tags are removed. What somebody else changed since is skipped.
    now: unix seconds, for tests. Raises NotFound if there is nothing to take back, UndoExpired after its time,
    ResultBusy.
    """
    with _locked(result):
        last = _last(result)
        record = last.record
        if last.state == "expired" or (record.undo_until is not None and (now or time.time()) >= record.undo_until):
            raise UndoExpired(
                f"apply {record.number} of {result.job_id} could be undone until {_said(record.undo_until)};"
                " what it needs for that is removed by the deadline of erasure"
            )
        if dry_run:
            return _report(last, "do", dry_run=True)
        if last.state == "applying":
            _settle(cluster, result, last)
        last.enter("undoing")
        _run(cluster, result, last, "undo", progress)
        last.enter("undone")
        return _report(last, "undo")


def applied(result: DedupResult) -> tuple[ApplyReport, ...]:
    """Every apply of a result, oldest first, those that were undone too."""
    return tuple(_report(journal, "do") for journal in ApplyJournal.all(result.directory))


def settle(cluster: Cluster, result: DedupResult) -> None:
    """Complete the batch at which an interrupted apply or undo stopped, so that no template is half changed."""
    with _locked(result):
        left = _interrupted(result)
        if left is not None and left.has_rows:
            _settle(cluster, result, left)


def _action(action: str) -> ApplyAction:
    try:
        return ApplyAction(action)
    except ValueError:
        raise InvalidParameter(f"action: expected delete, merge or tag, got {action!r:.80}") from None


def _locked(result: DedupResult) -> DirectoryLock:
    directory = result.directory / "apply"
    make_directory(directory)
    try:
        return DirectoryLock(directory)
    except HomeLocked:
        raise ResultBusy(f"somebody else applies the result of {result.job_id}, or takes it back") from None


# What there is already


def _interrupted(result: DedupResult) -> ApplyJournal | None:
    """The apply that was not completed, of which there is at most one: the last."""
    journals = ApplyJournal.all(result.directory)
    return journals[-1] if journals and journals[-1].state in ("applying", "undoing") else None


def _last(result: DedupResult) -> ApplyJournal:
    for journal in reversed(ApplyJournal.all(result.directory)):
        if journal.state != "undone":
            return journal
    raise NotFound(f"nothing of {result.job_id} was applied that could be undone")


def _known(result: DedupResult) -> dict[TemplateKey, Known]:
    """What earlier applies made of templates, as far as their journals have it."""
    found: dict[TemplateKey, Known] = {}
    for journal in ApplyJournal.all(result.directory):
        if not journal.has_rows or journal.record.action is ApplyAction.TAG:
            continue  # a tag leaves the rest of a template as it is
        for batch in range(journal.batches()):
            rows = journal.rows(batch)
            for phase in ("do", "undo"):
                for row, outcome in zip(rows, journal.outcomes(phase, batch) or (), strict=False):
                    if not outcome.skip and outcome.lsn >= 0:
                        found[row.change.key] = _after(row.change, outcome.lsn, phase)
    return found


def _after(change: Change, lsn: int, phase: Phase) -> Known:
    identity = change.identity if phase == "undo" else change.identity_after
    return Known(lsn, identity, metadata_digest(change.metadata))


# Planning


def _plan(
    cluster: Cluster, result: DedupResult, review: Review, options: ApplyOptions, progress: Tell | None
) -> ApplyPlan:
    keys = frozenset(journal.record.key for journal in ApplyJournal.all(result.directory))
    return Planner(cluster, result, effective_groups(result, review), options, _known(result), keys).plan(progress)


def _dry_run(cluster: Cluster, result: DedupResult, options: ApplyOptions, progress: Tell | None) -> ApplyReport:
    plan = _plan(cluster, result, ReviewQueue(result).review(), options, progress)
    skipped = Counter(entry.reason.value for entry in plan.skipped)
    return ApplyReport(
        action=options.action.value,
        dry_run=True,
        number=None,
        state="planned",
        groups=plan.groups,
        templates=len(plan.changes),
        skipped=dict(sorted(skipped.items())),
        left_out=dict(sorted(plan.left_out.items())),
        undo_until=None,
        changes=plan.changes,
        skips=plan.skipped,
    )


def _begun(cluster: Cluster, result: DedupResult, options: ApplyOptions, by: str) -> ApplyJournal:
    """The journal of a new apply."""
    review = ReviewQueue(result).review()
    plan = _plan(cluster, result, review, options, None)
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
    )
    rows = _rows_with_floats(cluster, result, plan) if has_floats else _rows(cluster, result, plan, plan.changes)
    return ApplyJournal.create(result.directory, record, rows, _dim(cluster, result) if has_floats else None)


def _dim(cluster: Cluster, result: DedupResult) -> int:
    return next(iter(routes_of(cluster, result).values())).dim


def _rows(
    cluster: Cluster, result: DedupResult, plan: ApplyPlan, changes: Sequence[Change], batch: int = 1_000
) -> Iterator[Row]:
    """With metadata; without those that were changed since the plan was made."""
    routes = routes_of(cluster, result)
    for begin in range(0, len(changes), batch):
        some = changes[begin : begin + batch]
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


# Doing


def _run(cluster: Cluster, result: DedupResult, journal: ApplyJournal, phase: Phase, progress: Tell | None) -> None:
    """Every batch that was not done yet. Of an undo: every batch that was done."""
    steps = _steps(cluster, result, journal)
    for batch in range(journal.batches()):
        _run_batch(steps, journal, phase, batch)
        if progress is not None:
            progress(batch + 1, journal.batches())


def _settle(cluster: Cluster, result: DedupResult, journal: ApplyJournal) -> None:
    steps = _steps(cluster, result, journal)
    phases: tuple[Phase, ...] = ("do", "undo")
    for phase in phases:
        for batch in range(journal.batches()):
            if journal.has_begun(phase, batch):
                _run_batch(steps, journal, phase, batch)


def _run_batch(steps: ApplySteps, journal: ApplyJournal, phase: Phase, batch: int) -> None:
    if journal.outcomes(phase, batch) is not None:
        return
    done = journal.outcomes("do", batch)
    if phase == "undo" and done is None:
        return
    is_retry = journal.begin(phase, batch)
    rows = journal.rows(batch)
    outcomes = steps.do(rows, is_retry) if phase == "do" else steps.undo(rows, done or (), is_retry)
    journal.end(phase, batch, outcomes)


def _steps(cluster: Cluster, result: DedupResult, journal: ApplyJournal) -> ApplySteps:
    return ApplySteps(cluster, routes_of(cluster, result), journal.record.action, journal.record.key)


def _report(journal: ApplyJournal, phase: Phase, *, dry_run: bool = False) -> ApplyReport:
    """What the journal has of a phase; what was skipped while planning counts too, of doing."""
    record = journal.record
    skipped: Counter[str] = Counter(record.skipped if phase == "do" else {})
    changed = 0
    for batch in range(journal.batches()):
        for outcome in journal.outcomes(phase, batch) or ():
            changed += not outcome.skip
            skipped[outcome.skip] += 1
    skipped.pop("", None)
    return ApplyReport(
        action=record.action.value,
        dry_run=dry_run,
        number=record.number,
        state=journal.state,
        groups=record.groups,
        templates=changed,
        skipped=dict(sorted(skipped.items())),
        left_out=dict(record.left_out),
        undo_until=record.undo_until,
    )


def _said(at: float | None) -> str:
    return "its rows were removed" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
