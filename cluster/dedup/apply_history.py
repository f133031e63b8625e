"""What was done about a result before: its applies, and what templates are since.

Pure reading of journals. Applies are taken back in the reverse of the order in which they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from cluster.dedup.apply_journal import ApplyJournal, Phase
from cluster.dedup.apply_plan import TAG_KEY, ApplyAction, Change, Known, TemplateKey, untagged
from cluster.dedup.result_files import DedupResult
from cluster.dedup.row_labels import metadata_digest
from shard.errors import NotFound


def interrupted(result: DedupResult) -> ApplyJournal | None:
    """The apply that was not completed, of which there is at most one: the last."""
    journals = ApplyJournal.all(result.directory)
    return journals[-1] if journals and journals[-1].state in ("applying", "undoing") else None


def last_applied(result: DedupResult) -> ApplyJournal:
    """The last apply that was not undone; NotFound."""
    for journal in reversed(ApplyJournal.all(result.directory)):
        if journal.state != "undone":
            return journal
    raise NotFound(f"nothing of {result.job_id} was applied that could be undone")


def known_templates(result: DedupResult) -> dict[TemplateKey, Known]:
    """What earlier applies made of templates, as far as their journals have it."""
    found: dict[TemplateKey, Known] = {}
    journals = ApplyJournal.all(result.directory)
    keys = tag_keys_of(journals)
    for journal, phase in _events(journals):
        for batch in range(journal.batches()):
            outcomes = journal.outcomes(phase, batch)
            for row, outcome in zip(journal.rows(batch), outcomes, strict=True) if outcomes else ():
                if not outcome.skip and outcome.lsn >= 0:
                    found[row.change.key] = _after(row.change, outcome.lsn, phase, keys)
    return found


def _events(journals: Sequence[ApplyJournal]) -> list[tuple[ApplyJournal, Phase]]:
    """What happened, in its order. The last apply is taken back first. A tag leaves the rest of a template as it is."""
    events: list[tuple[tuple[int, int, int], ApplyJournal, Phase]] = []
    for journal in journals:
        if journal.has_rows and journal.record.action is not ApplyAction.TAG:
            number = journal.record.number
            events.append(((number, 0, 0), journal, "do"))
            events.append(((journal.taken_back_after, 1, -number), journal, "undo"))
    return [(journal, phase) for _, journal, phase in sorted(events, key=itemgetter(0))]


def _after(change: Change, lsn: int, phase: Phase, tag_keys: frozenset[str]) -> Known:
    identity = change.identity if phase == "undo" else change.identity_after
    return Known(lsn, identity, metadata_digest(untagged(change.metadata, tag_keys)))


def tag_keys_of(journals: Sequence[ApplyJournal]) -> frozenset[str]:
    """Keys that tags may have set."""
    return frozenset({TAG_KEY, *(journal.record.key for journal in journals)})
