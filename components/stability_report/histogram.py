"""A feature's distribution with its fences, as a small picture."""

from __future__ import annotations

import math

from spikeguard.components.stability_report.content import Json

_WIDTH, _HEIGHT = 220, 44


def histogram_picture(feature: Json) -> str:
    """Bars of the histogram, those beyond the fences marked, and a line at each fence; "" where there is no histogram.

    Heights go by the logarithm of the counts, so that single outliers are seen beside thousands of ordinary rows.

    Args:
      feature: an entry of `outliers.json`, or anything with `histogram` (`edges` and `counts`), `lower` and `upper`.

    >>> "<svg" in histogram_picture({"histogram": {"edges": [0, 1, 2], "counts": [9, 1]}, "upper": 1.5})
    True
    """
    histogram = feature.get("histogram") or {}
    edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
    if len(edges) != len(counts) + 1 or not all(_is_number(value) for value in (*edges, *counts)):
        return ""
    # A score has a threshold, a feature two fences; one with several positions has several fences, which are not drawn.
    sides = (None, feature["threshold"]) if "threshold" in feature else (feature.get("lower"), feature.get("upper"))
    lower, upper = (float(side) if side is not None and _is_number(side) else None for side in sides)
    edges, counts = _without_empty_ends([float(edge) for edge in edges], [float(count) for count in counts])
    if not counts or not edges[-1] > edges[0]:
        return ""
    low, high, tallest = edges[0], edges[-1], math.log1p(max(counts))

    def x(value: float) -> float:
        return min(1.0, max(0.0, (value - low) / (high - low))) * _WIDTH

    paths = {"bar": "", "out": ""}
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count <= 0:
            continue
        height = max(2.0, math.log1p(count) / tallest * (_HEIGHT - 4))
        center = 0.5 * (left + right)
        is_out = (lower is not None and center < lower) or (upper is not None and center > upper)
        width = max(1.0, x(right) - x(left) - 0.5)
        paths["out" if is_out else "bar"] += f"M{x(left):.1f} {_HEIGHT}v-{height:.1f}h{width:.1f}v{height:.1f}z"
    lines = "".join(
        f"M{x(fence):.1f} 0v{_HEIGHT}" for fence in (lower, upper) if fence is not None and low <= fence <= high
    )
    return (
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="distribution from {low:.4g} to {high:.4g}">'
        + "".join(f'<path class="{name}" d="{path}"/>' for name, path in paths.items() if path)
        + (f'<path class="fence" d="{lines}"/>' if lines else "")
        + "</svg>"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _without_empty_ends(edges: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    """The part of a histogram that holds anything."""
    filled = [place for place, count in enumerate(counts) if count > 0]
    if not filled:
        return [], []
    return edges[filled[0] : filled[-1] + 2], counts[filled[0] : filled[-1] + 1]
