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
    if len(edges) != len(counts) + 1 or not counts or not all(isinstance(edge, int | float) for edge in edges):
        return ""
    low, high = float(edges[0]), float(edges[-1])
    tallest = math.log1p(max([float(count or 0.0) for count in counts]))
    if not (high > low and tallest > 0):
        return ""
    fences = [feature.get("lower", feature.get("threshold")), feature.get("upper")]
    if "threshold" in feature:
        fences = [None, feature["threshold"]]

    def x(value: float) -> float:
        return min(1.0, max(0.0, (value - low) / (high - low))) * _WIDTH

    paths = {"bar": "", "out": ""}
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if not count or count < 0:
            continue
        height = max(2.0, math.log1p(float(count)) / tallest * (_HEIGHT - 4))
        center = 0.5 * (left + right)
        is_out = (fences[0] is not None and center < fences[0]) or (fences[1] is not None and center > fences[1])
        width = max(1.0, x(right) - x(left) - 0.5)
        paths["out" if is_out else "bar"] += f"M{x(left):.1f} {_HEIGHT}v-{height:.1f}h{width:.1f}v{height:.1f}z"
    lines = "".join(f"M{x(fence):.1f} 0v{_HEIGHT}" for fence in fences if fence is not None and low <= fence <= high)
    return (
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="distribution from {low:.4g} to {high:.4g}">'
        + "".join(f'<path class="{name}" d="{path}"/>' for name, path in paths.items() if path)
        + (f'<path class="fence" d="{lines}"/>' if lines else "")
        + "</svg>"
    )
