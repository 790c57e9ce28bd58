"""A browser in which a test looks at MLflow's web interface, and what it complained of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

PATIENCE_MS = 60_000
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_INSTALL = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
_WEBGL = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-rasterization",
    "--disable-gpu-compositing",
)
"""In software: there is no graphics card here, and some charts are drawn by one. The rest of a page is drawn without
it: that takes a tenth of the CPU."""
_CANCELLED = "net::ERR_ABORTED"
"""Of a request that was under way when the page was left."""


def chromium() -> str:
    """The path of a Chromium; it is installed where that can be done without asking."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update"], check=False, capture_output=True)
        subprocess.run(_INSTALL, check=False, capture_output=True)
        found = shutil.which("chromium")
    assert found, f"This test needs Chromium: run `sudo {' '.join(_INSTALL)}`, or name one in CHROMIUM."
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-background-networking", *_WEBGL],
        )
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody at a browser. ``troubles`` are what went wrong, as the path that was asked for and what came of it."""

    page: Page
    base_url: str
    troubles: set[tuple[str, str]] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    """What was written to the console as an error, other than that a request failed."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._response)

    def visit(self, address: str) -> None:
        # The addresses differ in their fragment alone: without this it would be the same page.
        self.page.goto("about:blank")
        self.page.goto(self.base_url + address)

    def sees(self, *texts: str) -> None:
        for text in texts:
            self.page.get_by_text(text).first.wait_for()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def _failed(self, request: Request) -> None:
        if request.failure != _CANCELLED:
            self.troubles.add((urlsplit(request.url).path, str(request.failure)))

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.add((urlsplit(response.url).path, str(response.status)))


@contextmanager
def visitor(browser: Browser, base_url: str, token: str | None = None) -> Iterator[Visitor]:
    """There is no sign-in at the browser: a token is sent with each request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = browser.new_context(extra_http_headers=headers, viewport={"width": 1600, "height": 1000})
    try:
        yield Visitor(context.new_page(), base_url)
    finally:
        context.close()
