"""The console in a real browser: sign in, enroll, search, choose a threshold; by keyboard, at phone width, by labels.

Screenshots are kept in $FACEGRID_SCREENSHOTS, where that is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import CHROMIUM, DESK, PHONE, chromium, keep, sign_in, status, window
from tests.service import Running, running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian's package is `chromium`"),
]
GALLERY = "acme/people"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Running]:
    settings = {"models": (data_dir / "models",), "embedder": "sface_int8"}
    with running(tmp_path_factory.mktemp("console") / "home", **settings) as opened:
        opened.tenant("acme", keeps_thumbnails=True)
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, service: Running) -> Iterator[Any]:
    with window(browser, service.url, request.param) as opened:
        yield opened


def test_a_wrong_key_is_refused(page: Any) -> None:
    sign_in(page, "fg_0123456789ab_" + "a" * 43)
    sync_api.expect(page.get_by_role("alert")).to_have_text(re.compile("key"))
    assert page.get_by_label("API key").is_visible()
    keep(page, "refused")


def test_a_photo_is_enrolled_and_found_again(page: Any, service: Running, data_dir: Path) -> None:
    sign_in(page, service.key("acme", "admin"))
    sync_api.expect(page.get_by_role("heading", name="Galleries")).to_be_visible()
    name = f"{GALLERY}-{page.viewport_size['width']}"
    page.get_by_label("Name, tenant/gallery").fill(name)
    page.get_by_label("Network that makes its embeddings").fill("sface_int8")
    page.get_by_role("button", name="Create").click()
    page.get_by_role("link", name=name).click()
    sync_api.expect(page.get_by_role("heading", name=name)).to_be_visible()

    for photo, identity in (("img1.jpg", "Angelina"), ("img3.jpg", "Somebody <b>else</b>")):
        page.get_by_label("Drop a photo here").set_input_files(data_dir / "photos" / photo)
        page.get_by_role("button", name="Face 1").wait_for()
        page.get_by_label("Identity (who it is)").fill(identity)
        page.get_by_role("button", name="Enroll").click()
        sync_api.expect(status(page)).to_have_text("Enrolled.")

    page.get_by_label("Drop a photo here").set_input_files(data_dir / "photos" / "img2.jpg")
    page.get_by_role("button", name="Search for the chosen face").click()
    first = page.locator("#candidates li").first
    sync_api.expect(first.locator("strong")).to_have_text("Angelina")
    sync_api.expect(first.get_by_role("img", name="Enrolled face of Angelina")).to_be_visible()
    # Text of users is text, never markup.
    sync_api.expect(page.get_by_text("Somebody <b>else</b>").first).to_be_visible()

    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("End")
    sync_api.expect(first).to_have_class("below")
    slider.press("Home")
    sync_api.expect(first).not_to_have_class("below")
    keep(page, "search")
    page.get_by_label("Type its full name to confirm").fill(name)
    page.get_by_role("button", name="Remove").click()
    sync_api.expect(status(page)).to_have_text(re.compile("removed"))


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page: Any, service: Running) -> None:
    sign_in(page, service.operator)
    sync_api.expect(page.get_by_role("heading", name="Galleries")).to_be_visible()
    for section in ("Galleries", "Jobs", "Duplicates", "Keys", "Cluster"):
        link = page.get_by_role("link", name=section, exact=True)
        link.focus()
        page.keyboard.press("Enter")
        sync_api.expect(link).to_have_attribute("aria-current", "page")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, a")].filter(
                (e) => e.offsetParent && !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))
            ).map((e) => e.outerHTML)"""
        )
        assert nameless == []
        keep(page, section.lower())
    sync_api.expect(page.get_by_role("table", name="Shard hosts")).to_be_visible()
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Skip to content", "Galleries", "Jobs", "Duplicates", "Keys", "Cluster", "Sign out"} <= reached


def test_keys_are_made_and_revoked(page: Any, service: Running) -> None:
    sign_in(page, service.key("acme", "admin"))
    page.get_by_role("link", name="Keys", exact=True).click()
    name = f"door-{page.viewport_size['width']}"
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Create").click()
    secret = page.locator("#new-key-text")
    sync_api.expect(secret).to_have_text(re.compile(r"^fg_[0-9a-f]{12}_"))
    with service.client(secret.text_content()) as client:
        assert client.get("/v1/whoami").json()["name"] == name
        page.get_by_role("button", name=f"Revoke {name}").click()
        sync_api.expect(status(page)).to_have_text(re.compile("revoked"))
        assert client.get("/v1/whoami").status_code == 401


def test_a_reader_sees_nothing_that_it_may_not_do(page: Any, service: Running) -> None:
    sign_in(page, service.key("acme", "read"))
    sync_api.expect(page.get_by_role("heading", name="Galleries")).to_be_visible()
    assert not page.get_by_role("link", name="Keys", exact=True).is_visible()
    assert not page.get_by_role("link", name="Cluster", exact=True).is_visible()
    assert not page.get_by_role("button", name="Create").is_visible()
    page.get_by_role("button", name="Sign out").click()
    assert page.get_by_label("API key").is_visible()


def test_the_page_may_load_nothing_from_elsewhere(service: Running) -> None:
    with service.client("") as client:
        answer = client.get("/console")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
        assert client.get("/console/../serve.py").status_code in (401, 404)
        assert client.get("/console/%2e%2e/serve.py").status_code in (401, 404)
