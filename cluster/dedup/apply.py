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

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.dedup.apply_begin import begin_apply, make_plan
from cluster.dedup.apply_history import interrupted, known_templates, last_applied
from cluster.dedup.apply_journal import ApplyJournal, Phase, State
from cluster.dedup.apply_lock import only_apply
from cluster.dedup.apply_plan import (
    TAG_KEY,
    ApplyAction,
    ApplyOptions,
    ApplyPlan,
    Change,
    Known,
    Skipped,
    Tell,
    TemplateKey,
    check_options,
    routes_of,
)
from cluster.dedup.apply_steps import ApplySteps
from cluster.dedup.result_files import DedupResult
from cluster.dedup.review import ReviewQueue
from shard.errors import InvalidParameter, UndoExpired, UnknownGallery

if TYPE_CHECKING:
    from cluster.api import Cluster

Action = Literal["delete", "merge", "tag"]


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What was done, or would be in a dry run.

    number: of the apply; None for a dry run, and where there was nothing to do. state: how far it is.
    groups, templates: that are changed.
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
        return _planned(make_plan(cluster, result, ReviewQueue(result).review(), options, progress), dry_run=True)
    with only_apply(result.directory):
        left = interrupted(result)
        if left is None:
            review = ReviewQueue(result).review()
            plan = make_plan(cluster, result, review, options, None)
            if not plan.changes:
                return _planned(plan, dry_run=False)
            left = begin_apply(cluster, result, plan, review, by)
        elif left.state != "applying" or left.record.options != options:
            raise InvalidParameter(
                f"apply {left.record.number} of {result.job_id} ({left.record.action.value}) is {left.state};"
                " complete it, or undo it, first"
            )
        _run(cluster, result, left, "do", progress)
        left.enter("applied", left.record.number)
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
    with only_apply(result.directory):
        last = last_applied(result)
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
        newest = ApplyJournal.all(result.directory)[-1].record.number
        last.enter("undoing", newest)
        _run(cluster, result, last, "undo", progress)
        last.enter("undone", newest)
        return _report(last, "undo")


def applied(result: DedupResult) -> tuple[ApplyReport, ...]:
    """Every apply of a result, oldest first, those that were undone too."""
    return tuple(_report(journal, "do") for journal in ApplyJournal.all(result.directory))


def settle(cluster: Cluster, result: DedupResult) -> None:
    """Complete the batch at which an interrupted apply or undo stopped, so that no template is half changed.

    Raises ResultBusy if somebody is at it.
    """
    with only_apply(result.directory, wait_s=0):
        _settle_left(cluster, result)


@contextlib.contextmanager
def settled(cluster: Cluster, job_directory: Path) -> Iterator[None]:
    """Inside, no apply of that job is half done, and none can begin. Where its gallery was dropped nothing is settled.

    Raises ResultBusy if somebody is at it, and what writing to the gallery raises.
    """
    with only_apply(job_directory, wait_s=0):
        if ApplyJournal.all(job_directory):
            with contextlib.suppress(UnknownGallery):
                _settle_left(cluster, DedupResult.open(job_directory))
        yield


def _settle_left(cluster: Cluster, result: DedupResult) -> None:
    left = interrupted(result)
    if left is not None and left.has_rows:
        _settle(cluster, result, left)


def _action(action: str) -> ApplyAction:
    try:
        return ApplyAction(action)
    except ValueError:
        raise InvalidParameter(f"action: expected delete, merge or tag, got {action!r:.80}") from None


def _planned(plan: ApplyPlan, *, dry_run: bool) -> ApplyReport:
    """What would be done; and what was, if there is nothing to do, which leaves nothing to undo either."""
    skipped = Counter(entry.reason.value for entry in plan.skipped)
    return ApplyReport(
        action=plan.options.action.value,
        dry_run=dry_run,
        number=None,
        state="planned" if dry_run else "applied",
        groups=plan.groups,
        templates=len(plan.changes),
        skipped=dict(sorted(skipped.items())),
        left_out=dict(sorted(plan.left_out.items())),
        undo_until=None,
        changes=plan.changes,
        skips=plan.skipped,
    )


# Doing


def _run(cluster: Cluster, result: DedupResult, journal: ApplyJournal, phase: Phase, progress: Tell | None) -> None:
    """Every batch that was not done yet. Of an undo: every batch that was done."""
    steps, known = _steps(cluster, result, journal), known_templates(result) if phase == "undo" else {}
    for batch in range(journal.batches()):
        _run_batch(steps, journal, phase, batch, known)
        if progress is not None:
            progress(batch + 1, journal.batches())


def _settle(cluster: Cluster, result: DedupResult, journal: ApplyJournal) -> None:
    steps, known = _steps(cluster, result, journal), known_templates(result)
    phases: tuple[Phase, ...] = ("do", "undo")
    for phase in phases:
        for batch in range(journal.batches()):
            if journal.has_begun(phase, batch):
                _run_batch(steps, journal, phase, batch, known)


def _run_batch(
    steps: ApplySteps, journal: ApplyJournal, phase: Phase, batch: int, known: Mapping[TemplateKey, Known]
) -> None:
    """known: of an undo, what templates are since later applies were taken back, which enrolled them again."""
    done = journal.outcomes("do", batch)
    if journal.outcomes(phase, batch) is not None or (phase == "undo" and done is None):
        return
    is_retry = journal.begin(phase, batch)
    rows = journal.rows(batch)
    if phase == "do":
        outcomes = steps.do(rows, is_retry)
    else:
        latest = [known.get(row.change.key) for row in rows]
        was = [old if new is None else replace(old, lsn=new.lsn) for old, new in zip(done or (), latest, strict=True)]
        outcomes = steps.undo(rows, was, is_retry)
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
