"""A real browser for tests of the console. Screenshots are kept in $FACEGRID_SCREENSHOTS, where that is set."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=30_000)
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextlib.contextmanager
def window(browser: Any, url: str, size: dict[str, int]) -> Iterator[Any]:
    """A page of this size on a service. What it finds wrong, or asks for elsewhere, fails the test at its end."""
    context = browser.new_context(viewport=size, base_url=url)
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: _check_origin(request.url, url, faults))
    yield opened
    context.close()
    # A 404 of a thumbnail or a calibration that is not there is an answer, which the browser calls an error.
    assert [fault for fault in faults if "404" not in fault and "409" not in fault and "401" not in fault] == []


def _check_origin(url: str, own: str, faults: list[str]) -> None:
    if not url.startswith((f"{own}/", "blob:")):
        faults.append(f"the page asked for {url}")


def sign_in(page: Any, key: str) -> None:
    """By keyboard."""
    page.goto("/console")
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")


def status(page: Any) -> Any:
    """Where the page says what it does."""
    return page.locator("#status")


def keep(page: Any, name: str) -> None:
    """Keep a screenshot, where somebody wants them; nothing may be wider than the window."""
    folder = os.environ.get("FACEGRID_SCREENSHOTS")
    if folder:
        width = page.viewport_size["width"]
        page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
