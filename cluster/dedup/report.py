"""report.html: what a dedup job found, for people: one file, nothing from elsewhere, no scripts.

Made of the summary and of groups.parquet, so it is the same for the same input. All text of users is escaped.
Thumbnails are in it where templates have them, at most MAX_PICTURES; they go when the job's copies go (`retention.py`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.dedup.report_page import inputs_section, page, table
from cluster.dedup.report_svg import KINDS, scores_svg, sizes_svg
from cluster.dedup.result_columns import KEEP
from cluster.thumbnails import thumbnail_of
from coordinator.snapshots.places import pyarrow
from shard.types import RowArray

MAX_PICTURES = 300
"""Most thumbnails of a report."""
MAX_PICTURE_BYTES = 32 << 10
"""A larger thumbnail is not shown."""
LARGEST, REVIEWED, MEMBERS, EXAMPLES, BORDERLINE = 10, 40, 12, 20, 50
"""Groups and members that are shown; disagreements of each kind; pairs near the threshold."""

REASONS = {
    "split": "taken apart from a chain of pairs",
    "too_large": "larger than the largest group allowed",
    "two_faces_of_one_photo": "two faces of one photo are linked to it",
    "different_identities": "templates of different identities",
}
"""Reasons of `cluster.dedup.grouping` in words; another one is shown as it is."""

Pictures = Callable[[RowArray], Mapping[int, bytes]]
"""Gets ascending global rows; returns the thumbnails, JPEG, of those that have one."""


def pictures_from(labels: Callable[[RowArray], Any]) -> Pictures:
    """Thumbnails out of the metadata that `labels` reads (see `results.LabelReader`)."""

    def read(rows: RowArray) -> Mapping[int, bytes]:
        table = labels(rows)
        found = {}
        for row, metadata in zip(table.column("row").to_pylist(), table.column("metadata").to_pylist(), strict=True):
            picture = _picture(metadata)
            if picture is not None:
                found[row] = picture
        return found

    return read


def _picture(metadata: bytes | None) -> bytes | None:
    if metadata is None:
        return None
    try:
        jpeg = thumbnail_of(json.loads(metadata))
    except binascii.Error:  # whoever opens the home may put anything there
        return None
    is_good = jpeg is not None and jpeg.startswith(b"\xff\xd8") and len(jpeg) <= MAX_PICTURE_BYTES
    return jpeg if is_good else None


def report_html(summary: Mapping[str, Any], groups: Any, rows: RowArray, near: RowArray, pictures: Pictures) -> str:
    """The page. groups: groups.parquet as a table; rows: (k,) int64 global row of each of its rows; near: (n, 2) those
    of the summary's nearest pairs.
    """
    shown = _Shown(summary, groups, rows, near, pictures)
    galleries = " and ".join(entry["gallery"] for entry in summary["inputs"])
    title = f"Duplicates in {galleries}"
    sections = [
        _figures(summary),
        *_histograms(summary),
        *shown.sections(),
        *_disagreements(summary),
        inputs_section(summary),
    ]
    return page(title, sections)


def _figures(summary: Mapping[str, Any]) -> str:
    counts = summary["counts"]
    figures = {
        "templates": counts["templates"],
        "pairs": counts["pairs"],
        "of the same photo or face": counts["same_photo_pairs"] + counts["same_face_pairs"],
        "groups": counts["groups"],
        "templates in groups": counts["templates_in_groups"],
        "duplicates": counts["duplicate"],
        "groups to review": counts["groups_to_review"],
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{count:,}</dd></div>" for name, count in figures.items())
    recall = escape(str(summary["recall"].get("statement", "")))
    said = f"<p>Pairs have a score of at least <b>{summary['threshold']:.4f}</b> (cosine). {recall}</p>"
    return f'{said}<dl class="figures">{cells}</dl>'


def _histograms(summary: Mapping[str, Any]) -> Iterable[str]:
    yield "<h2>Pairs by score</h2>"
    keys = (f'<span class="key {name}"></span>{said} ' for _, name, said in KINDS)
    yield f'<p class="soft">{"".join(keys)}</p>'
    yield f'<div class="wide">{scores_svg(summary["scores"], summary["threshold"])}</div>'
    yield "<h2>Groups by size</h2>"
    yield f'<div class="wide">{sizes_svg(summary["group_sizes"])}</div>'


class _Shown:
    """Groups and pairs that are shown, and the pictures of their templates."""

    def __init__(
        self, summary: Mapping[str, Any], groups: Any, rows: RowArray, near: RowArray, pictures: Pictures
    ) -> None:
        self._summary, self._groups, self._rows, self._near = summary, groups, rows, near[:BORDERLINE]
        numbers = groups.column("group").to_numpy()
        count = int(numbers[-1]) + 1 if len(numbers) else 0
        self._starts: npt.NDArray[np.int64] = np.searchsorted(numbers, np.arange(count + 1)).astype(np.int64)
        self._is_keep = pyarrow().compute.equal(groups.column("role"), KEEP).to_numpy()
        sizes = np.diff(self._starts)
        self._largest = np.lexsort((np.arange(count), -sizes))[:LARGEST].tolist()
        review = groups.column("needs_review").to_numpy(zero_copy_only=False)[self._starts[:-1]]
        self._review = np.flatnonzero(review)[:REVIEWED].tolist()
        self._pictures = self._chosen(pictures)

    def _chosen(self, pictures: Pictures) -> Mapping[int, bytes]:
        """Of the first MAX_PICTURES templates as they stand in the page."""
        wanted = [row for group in [*self._review, *self._largest] for row in self._rows[self._members(group)].tolist()]
        wanted += self._near.reshape(-1).tolist()
        first = np.array(sorted(list(dict.fromkeys(wanted))[:MAX_PICTURES]), np.int64)
        return pictures(first) if len(first) else {}

    def _members(self, group: int) -> npt.NDArray[np.int64]:
        """Rows of groups.parquet that are shown of it, the one that is kept first."""
        begin, end = (int(at) for at in self._starts[group : group + 2])
        rows = np.arange(begin, end)
        return rows[np.argsort(~self._is_keep[begin:end], kind="stable")][:MEMBERS]

    def sections(self) -> Iterable[str]:
        """Groups to review, the largest ones, pairs near the threshold."""
        to_review = self._summary["counts"]["groups_to_review"]
        yield "<h2>Groups to review</h2>"
        yield f'<p class="soft">{_first_of(len(self._review), to_review)}</p>'
        yield from (self._group(group) for group in self._review)
        yield "<h2>Largest groups</h2>"
        yield f'<p class="soft">{_first_of(len(self._largest), len(self._starts) - 1)}</p>'
        yield from (self._group(group) for group in self._largest)
        yield "<h2>Pairs nearest the threshold</h2>"
        near = self._summary["borderline"]
        shown = near["nearest"][:BORDERLINE]
        yield (
            f"<p>{near['pairs']:,} pairs of one person are above it by less than {near['within']:g}."
            f' <span class="soft">The nearest {len(shown)} pairs:</span></p>'
        )
        yield self._pairs(shown)
        yield f'<p class="soft">At most {MAX_PICTURES} thumbnails are shown; this page has {len(self._pictures)}.</p>'

    def _group(self, group: int) -> str:
        members = self._members(group)
        size = int(self._starts[group + 1] - self._starts[group])
        found = self._groups.take(members).to_pylist()
        items = [self._member(row, entry) for row, entry in zip(self._rows[members].tolist(), found, strict=True)]
        more = f'<p class="soft">and {size - len(found):,} more</p>' if size > len(found) else ""
        reason = f' <span class="warn">{escape(_in_words(found[0]["reason"]))}</span>' if found[0]["reason"] else ""
        return (
            f'<section class="group"><h3>Group {group}: {size:,} templates{reason}</h3>'
            f'<ul class="members">{"".join(items)}</ul>{more}</section>'
        )

    def _member(self, row: int, entry: Mapping[str, Any]) -> str:
        quality = "" if entry["quality"] is None else f", quality {entry['quality']:.2f}"
        gallery = f"<br>{escape(entry['gallery'])}" if len(self._summary["inputs"]) > 1 else ""
        identity = '<span class="soft">no identity</span>' if entry["identity"] is None else escape(entry["identity"])
        return (
            f'<li class="{escape(entry["role"])}">{self._image(row)}<b>{identity}</b><br>'
            f"<code>{escape(entry['template_id'])}</code>{gallery}<br>"
            f"{'kept' if entry['role'] == KEEP else 'duplicate'}, {entry['medoid_score']:.3f} to the"
            f" medoid{quality}</li>"
        )

    def _pairs(self, pairs: Sequence[Mapping[str, Any]]) -> str:
        lines = []
        for pair, (left, right) in zip(pairs, self._near.tolist(), strict=True):
            group = "different groups" if pair["group"] is None else f"group {pair['group']}"
            sides = (
                f"<td>{self._image(row)}<code>{escape(pair[f'{side}_id'])}</code></td>"
                for side, row in (("left", left), ("right", right))
            )
            lines.append(f'<tr><td class="number">{pair["score"]:.4f}</td>{"".join(sides)}<td>{group}</td></tr>')
        return table(("score", "left", "right", "in"), lines)

    def _image(self, row: int) -> str:
        jpeg = self._pictures.get(row)
        if jpeg is None:
            return ""
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def _disagreements(summary: Mapping[str, Any]) -> Iterable[str]:
    found = summary["disagreements"]
    yield "<h2>Where labels disagree</h2>"
    yield (
        f"<p>{found['groups_of_several_identities']:,} groups have templates of several identities;"
        f" {found['identities_in_several_groups']:,} identities are in several groups.</p>"
    )
    several = found["several_identities"][:EXAMPLES]
    yield table(
        ("group", "identities, and how many templates"),
        [
            f'<tr><td class="number">{entry["group"]}</td><td>'
            + ", ".join(f"{escape(name)} ({count:,})" for name, count in entry["identities"].items())
            + "</td></tr>"
            for entry in several
        ],
    )
    yield table(
        ("identity", "in groups"),
        [
            f"<tr><td>{escape(entry['identity'])}</td><td>{', '.join(map(str, entry['groups'][:EXAMPLES]))}</td></tr>"
            for entry in found["several_groups"][:EXAMPLES]
        ],
    )


def _first_of(shown: int, count: int) -> str:
    if not count:
        return "None."
    return f"All {count:,}." if shown >= count else f"The first {shown:,} of {count:,}."


def _in_words(reasons: str) -> str:
    return "; ".join(REASONS.get(reason, reason) for reason in reasons.split(","))
