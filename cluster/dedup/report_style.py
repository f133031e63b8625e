"""The style sheet of a dedup report, and the policy under which it is shown: no scripts, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #55595f; --paper: #ffffff; --card: #f4f5f7; --line: #d0d3d8;
  --person: #0b5cad; --photo: #b34700; --warn: #8a3c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceef1; --soft: #a8aeb7; --paper: #15171a; --card: #202429;
  --line: #3a4048; --person: #6cb0f5; --photo: #f0a060; --warn: #f0b080; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; }
.soft { color: var(--soft); }
.warn { color: var(--warn); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem; margin: 0; }
.figures div, .group { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.group { margin: 0 0 .75rem; }
.members { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .5rem; list-style: none;
  margin: 0; padding: 0; }
.members li { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; background: var(--paper);
  font-size: .85rem; overflow-wrap: anywhere; min-width: 0; }
.members img, td img { display: block; width: 72px; height: 72px; object-fit: cover; border-radius: .3rem; }
.members li.keep { border: 2px solid var(--person); }
svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .person { fill: var(--person); } svg .photo { fill: var(--photo); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--ink); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .3em; }
.key.person { background: var(--person); } .key.photo { background: var(--photo); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 600; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'"
