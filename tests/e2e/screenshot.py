"""Takes the README's picture of a report.

python -m tests.e2e.screenshot PAGE docs/report.png
"""

from __future__ import annotations

import pathlib
import sys

from tests.browser import Browser, open_browser, opened


def take(browser: Browser, page: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Saves what a person first sees of a report, and returns the picture's path."""
    with opened(browser, page, width=1100) as (window, complaints):
        window.set_viewport_size({"width": 1100, "height": 1160})
        window.screenshot(path=target)
    assert complaints == []
    return target


if __name__ == "__main__":
    with open_browser() as started:
        take(started, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
