"""Takes the README's picture of a report, that of `tests.e2e.verified_spike`.

python -m tests.e2e.screenshot PAGE docs/report.png
"""

from __future__ import annotations

import pathlib
import sys

from tests.browser import Browser, open_browser, opened

_WIDTH, _HEIGHT, _MOST, _MARGIN = 1100, 1160, 2000, 8


def take(browser: Browser, page: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Saves a report down to the remedy of its first spike, where this is unfolded, and returns the picture's path."""
    with opened(browser, page, width=_WIDTH) as (window, complaints):
        window.set_viewport_size({"width": _WIDTH, "height": _MOST})
        # Parts that had not been in sight are laid out in the next frame.
        window.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        remedy = window.locator("#spikes .remedy")
        box = remedy.first.bounding_box() if remedy.count() else None
        height = min(_MOST, box["y"] + box["height"] + _MARGIN) if box else _HEIGHT
        window.screenshot(path=target, clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
    assert complaints == []
    return target


if __name__ == "__main__":
    with open_browser() as started:
        take(started, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
