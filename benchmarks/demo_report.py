"""The demo's report: one HTML file with thumbnails, boxes and scores, no script and nothing from outside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from benchmarks.demo_photos import DemoPhotos, HeldOut
from cluster.faces import decode_image
from cluster.results import Box, ImageSearch, Refusal, Verification
from shard.errors import InvalidImage

_HEIGHT = 132

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #dde3ea;padding-bottom:.3rem}
.row{display:flex;gap:.8rem;align-items:flex-start;margin:.7rem 0;flex-wrap:wrap}
figure{margin:0;width:9.5rem}img{height:132px;max-width:100%;object-fit:cover;border-radius:6px;display:block}
figcaption{font-size:.78rem;overflow-wrap:anywhere}.probe{border-right:2px solid #dde3ea;padding-right:.8rem}
.good{color:#11703a}.bad{color:#b3261e}
.bar{display:block;height:5px;border-radius:3px;background:#e7ecf1;margin:.2rem 0}
.bar i{display:block;height:5px;border-radius:3px;background:#2f6fde}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left}
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A held-out photo and what the search gave."""

    probe: HeldOut
    search: ImageSearch

    @property
    def is_right(self) -> bool:
        """The best candidate is the right person."""
        return len(self.search) > 0 and self.search[0].identity == self.probe.identity


@dataclass(frozen=True, slots=True)
class Pair:
    """Two photos, whether they are labelled the same person, and how they compare."""

    a: Path
    b: Path
    is_same: bool
    verification: Verification

    @property
    def score(self) -> float:
        """Cosine."""
        return self.verification.score

    @classmethod
    def of(cls, a: Path, b: Path, score: float, *, same: bool) -> Pair:
        """A pair found by searching, which has a score and no boxes."""
        nothing = Box(0, 0, 0, 0)
        return cls(a, b, same, Verification(score, 0.0, True, nothing, nothing))


def write(
    folder: Path,
    photos: DemoPhotos,
    found: Sequence[Found],
    pairs: Sequence[Pair],
    twins: Pair | None,
    refused: Sequence[Refusal],
    threshold: float,
) -> Path:
    """Write `<folder>/report.html` and return its path."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Facegrid demo</title>",
        f"<style>{_STYLE}</style><h1>Facegrid demo: {html.escape(photos.origin)}</h1>",
        f"<p>Embedder {html.escape(photos.embedder)}, detector {html.escape(photos.detector)}; a score is the cosine of"
        f" two faces, and {threshold:.3f} or more counts as the same person. Boxes show the face that was used.",
        "<h2>Searches with photos that were held out</h2>",
        *(_search_row(one, photos) for one in found),
        "<h2>The two enrolled photos that look most alike</h2>",
        _pair_row(twins) if twins else "<p>None.",
        "<h2>Verified pairs</h2>",
        *(_pair_row(pair) for pair in pairs),
        "<h2>Photos that were not enrolled</h2>",
        _refusals(refused),
    ]
    folder.mkdir(exist_ok=True)
    path = folder / "report.html"
    path.write_text("\n".join(parts))
    return path


def _search_row(one: Found, photos: DemoPhotos) -> str:
    cells = [_figure(one.probe.path, one.search.face, f"<b>{html.escape(one.probe.identity)}</b>", "probe")]
    for candidate in one.search:
        metadata = candidate.metadata or {}
        verdict = "good" if candidate.identity == one.probe.identity else "bad"
        name = html.escape(candidate.identity or "?")
        caption = f"<span class={verdict}>{name}</span> {candidate.score:.3f}{_bar(candidate.score)}"
        cells.append(_figure(photos.gallery / metadata["source"], Box(*metadata["box"]), caption))
    return f"<div class=row>{''.join(cells)}</div>"


def _pair_row(pair: Pair) -> str:
    is_right = pair.verification.is_match == pair.is_same
    label = "same person" if pair.is_same else "different people"
    text = f"labelled {label}<br><span class={'good' if is_right else 'bad'}>{pair.score:.3f}</span>{_bar(pair.score)}"
    faces = _figure(pair.a, pair.verification.face_a, "") + _figure(pair.b, pair.verification.face_b, "")
    return f"<div class=row>{faces}<figure><figcaption>{text}</figcaption></figure></div>"


def _bar(score: float) -> str:
    return f'<span class=bar><i style="width:{100 * max(0.0, score):.0f}%"></i></span>'


def _refusals(refused: Iterable[Refusal]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.path.name)}<td>{html.escape(one.reason)}<td>{html.escape(one.message)}"
        for one in refused
    )
    return f"<table><tr><th>photo<th>reason<th>what was found{rows}</table>" if rows else "<p>None."


def _figure(path: Path, box: Box, caption: str, kind: str = "") -> str:
    name = html.escape(path.name)
    return f'<figure class="{kind}">{_thumbnail(path, box, name)}<figcaption>{name}<br>{caption}</figcaption></figure>'


def _thumbnail(path: Path, box: Box, name: str) -> str:
    """The part of the photo around the face, with the face's box drawn in."""
    try:
        pixels = cv2.cvtColor(decode_image(path), cv2.COLOR_RGB2BGR)
    except InvalidImage as error:
        return html.escape(str(error))
    if box.width > 0:
        corner, opposite = (int(box.x), int(box.y)), (int(box.x + box.width), int(box.y + box.height))
        cv2.rectangle(pixels, corner, opposite, (222, 111, 47), max(2, int(box.width / 40)))
        left, top = max(0, int(box.x - box.width * 0.7)), max(0, int(box.y - box.height * 0.6))
        pixels = pixels[top : int(box.y + box.height * 1.6), left : int(box.x + box.width * 1.7)]
    scale = _HEIGHT * 2 / pixels.shape[0]
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()).decode()
    return f'<img alt="{name}" src="data:image/jpeg;base64,{data}">'
