"""report.html of an analysis: how many pairs have which score, what each threshold would give. No faces are in it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from cluster.dedup.report_page import inputs_section, page, table
from cluster.dedup.report_svg import scores_svg

ANY = ((("pairs",), "person", "of any kind"),)
"""An analysis does not tell kinds of pairs apart."""
HEAD = ("threshold", "pairs", "groups", "faces in groups", "largest group")


def analysis_html(summary: Mapping[str, Any]) -> str:
    """The page, of the summary of an analysis; see `cluster.dedup.analysis`."""
    steps = summary["analysis"]["thresholds"]
    galleries = " and ".join(entry["gallery"] for entry in summary["inputs"])
    recall = escape(str(summary["recall"].get("statement", "")))
    said = f"<p>{summary['pairs']:,} pairs have a score of at least {summary['floor']:.4f} (cosine). {recall}</p>"
    return page(
        f"Thresholds for {galleries}",
        [
            said,
            _suggestion(summary["analysis"]["suggestion"]),
            "<h2>Pairs by score</h2>",
            f'<div class="wide">{scores_svg(_histogram(steps), summary["floor"], ANY)}</div>',
            "<h2>What each threshold would give</h2>",
            table(HEAD, [_line(step) for step in steps]),
            inputs_section(summary),
        ],
    )


def _suggestion(suggestion: Mapping[str, Any]) -> str:
    threshold = suggestion["threshold"]
    what = "No threshold is suggested" if threshold is None else f"Suggested threshold: <b>{threshold:.3f}</b>"
    return f"<p>{what}: {escape(suggestion['because'])}.</p>"


def _histogram(steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    """As `scores_svg` takes it."""
    counts = [step["pairs_in_step"] for step in steps]
    begin = steps[0]["threshold"] if steps else 0.0
    step = steps[1]["threshold"] - begin if len(steps) > 1 else 0.01
    return {"begin": begin, "step": step, "pairs": counts}


def _line(step: Mapping[str, Any]) -> str:
    cells = (step["pairs"], step["groups"], step["faces"], step["largest"])
    return f"<tr><td>{step['threshold']:.3f}</td>{''.join(f'<td>{cell:,}</td>' for cell in cells)}</tr>"
