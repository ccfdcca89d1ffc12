"""Debian's Chromium for tests, and windows of it that complain of what a page does wrong."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    expect,
    sync_playwright,
)

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000.0
"""Milliseconds that a locator waits; far more than anything takes."""
SCREENSHOTS = "KVM_BACKUP_SCREENSHOTS"
"""The variable that names a folder where pictures of what was tested are kept."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is left out where there is none."""
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed")
    expect.set_options(timeout=PATIENCE)
    # Chromium's own sandbox does not work for root, who runs these tests in most places.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def window(browser: Browser, url: str, *, forgiven: str = "", **options: Any) -> Iterator[Page]:
    """A page in a context of its own, on which nothing may go wrong but what `forgiven` (a pattern) tells.

    Errors and warnings of the console (a breach of the Content-Security-Policy is one), exceptions, dialogs that a
    script opens, and requests to other servers all fail the test.
    """
    context: BrowserContext = browser.new_context(base_url=url, **options)
    context.set_default_timeout(PATIENCE)
    said: list[str] = []
    own = urlsplit(url).netloc

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(f"console: {message.text}")

    def asked(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob", "about") and parts.netloc != own:
            said.append(f"a request to {request.url}")

    def opened(dialog: Dialog) -> None:
        said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def watch(page: Page) -> None:
        page.on("console", heard)
        page.on("pageerror", lambda error: said.append(f"exception: {error}"))
        page.on("dialog", opened)

    context.on("request", asked)
    context.on("page", watch)
    try:
        yield context.new_page()
        wrong = [text for text in said if not (forgiven and re.search(forgiven, text))]
        assert not wrong, wrong
    finally:
        context.close()


def sign_in(page: Page, name: str, password: str) -> None:
    """By the form, in whatever language it is."""
    page.goto("/login")
    page.fill("[name=name]", name)
    page.fill("[name=password]", password)
    page.click("main button")
    page.wait_for_url(lambda url: urlsplit(url).path != "/login")


def barriers(page: Page) -> list[tuple[str, str]]:
    """What keeps somebody from using the page, by axe: rule and element. The window needs bypass_csp=True."""
    return [(one["id"], one["nodes"][0]["html"]) for one in Axe().run(page).response["violations"]]


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


def keep(page: Page, name: str) -> None:
    """A picture for who looks at the outcome of the tests, where a folder for them is named."""
    folder = os.environ.get(SCREENSHOTS)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
