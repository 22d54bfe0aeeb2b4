"""Renders a comparison as one page that needs no network."""

from __future__ import annotations

import markupsafe

from spikeguard.components.stability_report.comparison import Comparison
from spikeguard.components.stability_report.picture import overlay
from spikeguard.components.stability_report.rendering import drawing_data, page_of, rendered_within

_MOST_ROWS = 2_000


def render_comparison(comparison: Comparison) -> str:
    """The page: both verdicts, both curves in one drawing, and a table of what differs.

    Args:
      comparison: of two runs.

    Returns:
      HTML within the size of a report.
    """
    curves = [
        (name, content.curve)
        for name, content in (("A", comparison.a), ("B", comparison.b))
        if content.curve is not None
    ]
    differences = comparison.differences
    view = {
        "comparison": comparison,
        "differences": differences,
        "picture": markupsafe.Markup(overlay([curve for _, curve in curves])) if curves else "",
        "data": drawing_data(curves, []) if curves else None,
    }
    return rendered_within(
        lambda share: page_of("compare.html.jinja", view | {"most": max(10, int(_MOST_ROWS * share))}, share)
    )
