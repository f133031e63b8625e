"""Jobs and Duplicates of the console in a real browser: followed, cancelled, resumed, reviewed, applied, taken back."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.job_types import JobState
from tests.browsing import CHROMIUM, DESK, PHONE, chromium, keep, sign_in, status, window
from tests.dedup_jobs import PEOPLE, finished_dedup, finished_job
from tests.job_kinds import register_kinds
from tests.service import Running, running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    register_kinds()
    with running(tmp_path / "home") as s:
        s.tenant("acme", keeps_thumbnails=True)
        yield s


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, service: Running) -> Iterator[Any]:
    with window(browser, service.url, request.param) as opened:
        yield opened


# What is the same at both sizes takes long: it is done at one of them.
at_the_desk = pytest.mark.parametrize("page", [DESK], ids=["desk"], indirect=True)
by_phone = pytest.mark.parametrize("page", [PHONE], ids=["phone"], indirect=True)


def portrait(number: int) -> str:
    """A drawn face as base64 JPEG; no two alike."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (96, 96), (40 + 37 * number % 120, 60 + 53 * number % 120, 90))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 12, 76, 84), fill=(230, 190 - 7 * number % 60, 150))
    for x in (36, 58):
        draw.ellipse((x - 4, 36, x + 4, 44), fill=(30, 30, 30))
    draw.arc((34, 46, 62, 70), 20, 160, fill=(120, 40, 40), width=3)
    data = io.BytesIO()
    image.save(data, "JPEG")
    return base64.b64encode(data.getvalue()).decode()


def row(page: Any, text: str) -> Any:
    return page.locator("#job-rows tr").filter(has_text=text)


@at_the_desk
def test_jobs_are_followed_cancelled_and_resumed(page: Any, service: Running, tmp_path: Path) -> None:
    for name in ("ran", "gates"):
        (tmp_path / name).mkdir()
    grid = service.cluster
    grid.gallery("acme/staff", create=True, dim=64)
    finished_job(grid, "acme/staff", JobState.FAILED)
    given = {"ran": str(tmp_path / "ran"), "gates": str(tmp_path / "gates"), "workers": 1}
    grid.jobs.submit("sum", "acme/staff", given)
    sign_in(page, service.key("acme", "admin"))
    page.get_by_role("link", name="Jobs", exact=True).click()
    job = row(page, "sum acme")
    sync_api.expect(job).to_contain_text("queued")
    grid.jobs.start()
    sync_api.expect(job).to_contain_text("running")
    for number in range(3):
        (tmp_path / "gates" / f"block-{number:04d}").touch()
    sync_api.expect(job).to_contain_text("summing: 3 of 8 blocks")
    sync_api.expect(job.get_by_role("progressbar")).to_have_attribute("value", "3")
    keep(page, "jobs")
    job.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    sync_api.expect(job).to_contain_text("cancelled")
    for number in range(8):
        (tmp_path / "gates" / f"block-{number:04d}").touch()
    job.get_by_role("button", name="Resume").click()
    sync_api.expect(job).to_contain_text("succeeded")
    job.get_by_role("button", name="Show").click()
    sync_api.expect(page.get_by_role("heading", name="sum of acme/staff")).to_be_focused()
    sync_api.expect(page.get_by_role("region", name="Log of the job")).to_contain_text("ended state=succeeded")
    with page.expect_download() as waits:
        page.get_by_role("button", name="Download summary.json").click()
    assert '"sums"' in Path(waits.value.path()).read_text()
    keep(page, "job")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete this job and its files").click()
    sync_api.expect(status(page)).to_have_text("The job is deleted.")
    assert row(page, "sum acme").count() == 0
    sync_api.expect(row(page, "failed")).to_be_visible()


@at_the_desk
def test_a_reader_starts_and_ends_nothing(page: Any, service: Running) -> None:
    finished_dedup(service.cluster)
    finished_job(service.cluster, "acme/staff", JobState.CANCELLED)
    sign_in(page, service.key("acme", "read"))
    page.get_by_role("link", name="Jobs", exact=True).click()
    sync_api.expect(row(page, "cancelled").get_by_role("button", name="Show")).to_be_visible()
    for name in ("Resume", "Start", "Delete this job and its files"):
        assert not page.get_by_role("button", name=name).is_visible()
    row(page, "succeeded").get_by_role("link", name="Review").click()
    sync_api.expect(page.get_by_role("heading", name="Group 0")).to_be_visible()
    for name in ("Accept group 0", "Say what it would do", "Take the last one back"):
        assert not page.get_by_role("button", name=name).is_visible()
    page.get_by_role("button", name="Sign out").click()
    assert page.locator("#groups li").count() == 0
    assert page.locator("#job-rows tr").count() == 0


@at_the_desk
def test_a_job_is_started(page: Any, service: Running) -> None:
    service.cluster.gallery("acme/staff", create=True, dim=64)
    sign_in(page, service.key("acme", "write"))
    page.get_by_role("link", name="Jobs", exact=True).click()
    sync_api.expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    page.get_by_label("Gallery, tenant/gallery").fill("acme/staff")
    page.get_by_label("Least score of a pair").fill("0.6")
    page.get_by_role("button", name="Start").click()
    sync_api.expect(status(page)).to_have_text("The job waits for its turn.")
    job = row(page, "dedup")
    sync_api.expect(job).to_contain_text("queued")
    (made,) = service.cluster.jobs.list()
    assert (made.kind, made.parameters["threshold"], made.parameters["mode"]) == ("dedup", 0.6, "exact")


def test_an_analysis_shows_what_each_score_would_give(page: Any, service: Running) -> None:
    job_id = finished_dedup(service.cluster)
    summary = service.cluster.jobs.result(job_id).directory / "summary.json"
    steps = [{"threshold": t / 100, "pairs": 9, "groups": 4, "faces": 10, "largest": 4} for t in range(30, 95)]
    suggestion = {"threshold": 0.62, "because": "lowest point between the scores"}
    summary.write_text(json.dumps({"kind": "dedup", "analysis": {"suggestion": suggestion, "thresholds": steps}}))
    sign_in(page, service.key("acme", "write"))
    page.get_by_role("link", name="Jobs", exact=True).click()
    row(page, "dedup acme").get_by_role("button", name="Show").click()
    sync_api.expect(page.get_by_text("Suggested: 0.62, the lowest point between the scores.")).to_be_visible()
    table = page.get_by_role("table", name="Pairs and groups by least score")
    sync_api.expect(table.get_by_role("row")).to_have_count(66)
    sync_api.expect(page.get_by_label("Least score of a pair")).to_have_value("0.62")
    keep(page, "analysis")


@by_phone
def test_groups_are_reviewed_applied_and_taken_back(page: Any, service: Running) -> None:
    staff = service.cluster.gallery("acme/staff", create=True, shards=2, dim=64)
    job_id = finished_dedup(service.cluster, thumbnails=[portrait(i) for i in range(sum(map(len, PEOPLE)))])
    sign_in(page, service.key("acme", "write"))
    page.get_by_role("link", name="Duplicates", exact=True).focus()
    page.keyboard.press("Enter")
    first = page.locator("#groups > li").first
    sync_api.expect(first).to_contain_text("part of a larger group that did not hold together")
    sync_api.expect(first.get_by_role("img", name="Enrolled face a1")).to_be_visible()
    sync_api.expect(page.locator("#review-facts")).to_contain_text("To review2")
    page.get_by_role("button", name="Split off the chosen faces of group 0").click()
    sync_api.expect(page.get_by_role("alert")).to_contain_text("Choose some of the faces")
    keep(page, "duplicates")
    for box in first.get_by_role("checkbox").all()[:2]:
        box.focus()
        page.keyboard.press("Space")
    page.get_by_role("button", name="Split off the chosen faces of group 0").click()
    sync_api.expect(status(page)).to_contain_text("Split")
    sync_api.expect(page.get_by_role("heading", name="Group 2")).to_be_focused()
    page.get_by_role("button", name="Accept group 2").click()
    sync_api.expect(page.get_by_text("There is none.")).to_be_visible()

    page.get_by_label("Groups", exact=True).select_option("decided")
    sync_api.expect(page.locator("#groups > li").first).to_contain_text("Split, by test")
    for number in (0, 2):
        page.get_by_label(f"Choose group {number} to be merged").check()
    page.get_by_role("button", name="Merge groups 0, 2").click()
    sync_api.expect(page.locator("#groups > li").first).to_contain_text("Merged, 0 and 2")
    page.get_by_role("button", name="Reject group 2").click()
    sync_api.expect(page.locator("#groups > li")).to_have_count(1)

    assert page.get_by_role("button", name="Do it").is_disabled()
    page.get_by_role("radio", name=re.compile("Delete:")).check()
    page.get_by_role("button", name="Say what it would do").click()
    sync_api.expect(page.get_by_role("heading", name="2 faces of 2 groups would be deleted")).to_be_focused()
    sync_api.expect(page.get_by_role("table", name="Faces that would be changed")).to_contain_text("b2")
    keep(page, "apply")
    assert len(staff) == 10
    page.get_by_role("radio", name=re.compile("Merge:")).check()
    assert page.get_by_role("button", name="Do it").is_disabled(), "what it would do was said of something else"
    page.get_by_role("radio", name=re.compile("Delete:")).check()
    page.get_by_role("button", name="Say what it would do").click()
    answers = iter(["dismiss", "accept", "accept"])
    page.on("dialog", lambda dialog: getattr(dialog, next(answers))())
    page.get_by_role("button", name="Do it").click()
    assert len(staff) == 10
    page.get_by_role("button", name="Do it").click()
    sync_api.expect(status(page)).to_have_text("2 faces are deleted.")
    assert len(staff) == 8
    page.get_by_role("button", name="Take the last one back").click()
    sync_api.expect(status(page)).to_have_text("2 faces are as they were.")
    assert len(staff) == 10
    assert service.cluster.jobs.get(job_id).state is JobState.SUCCEEDED


def test_every_control_has_a_name(page: Any, service: Running) -> None:
    finished_dedup(service.cluster)
    sign_in(page, service.key("acme", "admin"))
    for section in ("Jobs", "Duplicates"):
        page.get_by_role("link", name=section, exact=True).click()
        rows = "#job-rows tr" if section == "Jobs" else "#groups > li"
        page.locator(rows).first.wait_for()
        if section == "Jobs":
            page.get_by_role("button", name="Show").click()
            page.get_by_role("heading", name="dedup of acme/staff").wait_for()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, a, progress")].filter(
                (e) => e.offsetParent && !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))
            ).map((e) => e.outerHTML)"""
        )
        assert nameless == []
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(set(ids)) == len(ids)
