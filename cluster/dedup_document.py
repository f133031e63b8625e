"""Reviews and applies of dedup results as JSON: what the command line and the service say of them.

The values may be those of `cluster.dedup` or of the client, which have the same names.
"""

from __future__ import annotations

from typing import Any

SHOWN_CHANGES = 100
"""Of a dry run, so many changes are told one by one."""
_MEMBER = ("gallery", "template_id", "identity", "role", "quality", "medoid_score", "is_medoid")
_DECISION = ("version", "by", "at", "note")
_REPORT = ("dry_run", "number", "groups", "templates", "skipped", "left_out", "undo_until")


def page_document(page: Any) -> dict[str, Any]:
    """A page of a review queue."""
    return {
        "version": page.version,
        "open": page.open,
        "decided": page.decided,
        "groups": [item_document(item) for item in page.items],
        "after": page.after,
    }


def item_document(item: Any) -> dict[str, Any]:
    """A group of a review queue."""
    return {
        "group": item.group,
        "reason": item.reason,
        "members": [{name: getattr(member, name) for name in _MEMBER} for member in item.members],
        "decision": None if item.decision is None else decision_document(item.decision),
    }


def decision_document(decision: Any) -> dict[str, Any]:
    """What a reviewer decided. parts: of a split, templates by gallery and id."""
    return {
        "action": getattr(decision.action, "value", decision.action),
        "groups": list(decision.groups),
        "parts": [[ref_document(member) for member in part] for part in decision.parts],
        **{name: getattr(decision, name) for name in _DECISION},
    }


def apply_document(report: Any) -> dict[str, Any]:
    """What an apply or an undo did, or would do. changes: the first of a dry run's."""
    return {
        "action": report.action,
        "state": report.state,
        **{name: getattr(report, name) for name in _REPORT},
        "changes": [change_document(change) for change in report.changes[:SHOWN_CHANGES]],
    }


def change_document(change: Any) -> dict[str, Any]:
    """One template that would be changed. keep: the one that stays for it, of a deletion."""
    return {
        **ref_document(change.key),
        "group": change.group,
        "identity": change.identity,
        "identity_after": change.identity_after,
        "keep": None if change.keep is None else ref_document(change.keep),
    }


def ref_document(ref: Any) -> dict[str, str]:
    """A template by gallery and id."""
    return {"gallery": ref.gallery, "template_id": ref.template_id}
