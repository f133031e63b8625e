"""What all reports of dedup jobs have in common: the page around them, tables, and what the job has read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cluster.dedup.report_style import POLICY, STYLE


def page(title: str, sections: Sequence[str]) -> str:
    """One file of HTML, complete in itself. sections: HTML, in which all text of users is escaped."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *sections,
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def inputs_section(summary: Mapping[str, Any]) -> str:
    """What was read, and with which parameters."""
    lines = [
        f"<tr><td>{escape(entry['gallery'])}</td><td>{entry['templates']:,}</td><td>{entry['shards']}</td>"
        f"<td><code>{escape(entry['snapshot_id'])}</code></td><td><code>{escape(entry['sha256'])}</code></td></tr>"
        for entry in summary["inputs"]
    ]
    parameters = escape(json.dumps(summary["parameters"], ensure_ascii=False, sort_keys=True))
    head = ("gallery", "templates", "shards", "snapshot", "SHA-256 of its manifest")
    return f"<h2>Inputs</h2>{table(head, lines)}<p>Parameters: <code>{parameters}</code></p>"


def table(head: Sequence[str], lines: Sequence[str]) -> str:
    """A table of lines of HTML under escaped headings; nothing where there are none."""
    if not lines:
        return ""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
