"""A browser for the pages; tests that ask for one are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import Browser, open_browser


# Playwright runs once in a thread: a browser that outlived its module would keep all others from starting.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened
