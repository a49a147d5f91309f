"""A real browser for the tests of the report, and a page opened in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import STALLED_AFTER

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name)) is not None
    ),
    None,
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (chromium, chromium-browser, google-chrome)"
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
)


@contextmanager
def started_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


class Opened:
    """A page in the browser with everything that it complained about and asked for."""

    def __init__(self, browser: Any, path: str, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(1000 * STALLED_AFTER)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path if path.startswith("file:") else Path(path).as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def column(self, index: int) -> list[str]:
        texts: list[str] = self.page.locator(f"#trials tbody tr > :nth-child({index + 1})").all_inner_texts()
        return [text.strip() for text in texts]

    def selected_row(self) -> str:
        return str(self.page.locator('#trials tr[aria-current="true"] th button').inner_text()).strip()
