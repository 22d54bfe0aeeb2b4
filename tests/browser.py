"""Headless Chromium, of the system's own package, and the accessibility checker that runs in it."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
else:
    Browser, Page = Any, Any

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A test's browser has no business on the network.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_AXE = "axe-core@4.14.1"
_AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a fresh profile; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev dependencies")
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser, html: str | pathlib.Path, *, width: int = 1200, scheme: str = "light", **options: Any
) -> Iterator[tuple[Page, list[str]]]:
    """A page from a file, as a person opens it.

    Args:
      browser: of `open_browser`.
      html: the page's text, or its file.
      width: of the window, in pixels.
      scheme: light or dark.
      options: further ones of the browser's context.

    Yields:
      The page, and a list that each error, message on the console and request for anything but the file goes into.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = html if isinstance(html, pathlib.Path) else pathlib.Path(folder) / "report.html"
        if isinstance(html, str):
            path.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: complaints.append(f"request: {request.url}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.absolute().as_uri())
        complaints.remove(f"request: {path.absolute().as_uri()}")
        try:
            yield page, complaints
        finally:
            context.close()


def axe_source(folder: pathlib.Path) -> str:
    """The script of axe-core, from npm; skips the test where npm or its registry is not there."""
    if shutil.which("npm") is None:
        pytest.skip("needs axe-core: install npm")
    done = subprocess.run(
        ["npm", "pack", "--silent", _AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"needs axe-core, which npm could not fetch: {done.stderr.strip()[-200:]}")
    with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        source = member.read()
    assert hashlib.sha256(source).hexdigest() == _AXE_SHA256
    return source.decode()
