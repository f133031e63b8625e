"""The report in a real browser: nothing from elsewhere, no script runs, readable on a phone, in light and dark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from tests.dedup_results import DIM, NAME, enroll, faces_of, make_job

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`"),
]
EVIL = "<script>document.title='hit'</script>"
PEOPLE = [[f"{EVIL}:<img src=http://127.0.0.1:9/x onerror=alert(1)>", "a2:ann"], ["b" * 128, "b2"]]


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    with Cluster.open(tmp_path / "home") as grid:
        enroll(grid.gallery(NAME, create=True, dim=DIM), faces_of(PEOPLE))
        groups = [[name.partition(":")[0] for name in people] for people in PEOPLE]
        return make_job(grid, groups, {0: "different_identities"}).path("report.html")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_in_a_browser(page_file: Path, width: int, scheme: Any) -> None:
    asked: list[str] = []
    faults: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.title() == f"Duplicates in {NAME}"
        assert page.get_by_text(EVIL).first.is_visible()
        assert page.get_by_role("img", name="Pairs by score").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert faults == []
    ink, paper = (int(colour.split("(")[1].split(",")[0]) for colour in colours)
    assert (ink > paper) == (scheme == "dark")
