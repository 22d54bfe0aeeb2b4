"""What a transformed column does to its raw column, found from pairs of values alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from spikeguard.components.training_curve import Floats

Booleans = npt.NDArray[np.bool_]

# Distance of neighbouring float32 numbers near 1.
EPSILON = 2.0**-23
# Pairs of quantiles that a line is tried through: winsorizing and clipping bend the ends, not all of these.
_PAIRS = ((0.25, 0.75), (0.05, 0.95), (0.1, 0.5), (0.5, 0.9), (0.4, 0.6), (0.0, 1.0))
# Share of the rows that must lie on the line.
_LEAST_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Effect:
    """The line `(x - location) / scale` that a column follows over most of its rows."""

    location: float
    """Raw value that becomes 0."""
    scale: float
    """Raw difference that becomes 1; negative where the column falls."""
    share: float
    """Rows on the line, in [0.5, 1]; below 1 where the ends are bent."""
    location_error: float
    """What float32 leaves open of the location."""
    scale_error: float


def effect_of(raw: Floats, transformed: Floats) -> Effect | None:
    """The line through pairs of values.

    Args:
      raw, transformed: shape (n,) each; pairs with a NaN are left out.

    Returns:
      None where no line holds half of the pairs, or the column does not change.

    >>> x = np.array([0.0, 1.0, 2.0, 3.0, 50.0])
    >>> found = effect_of(x, np.minimum((x - 1.5) / 2, 4.0))
    >>> (round(found.location, 6), round(found.scale, 6), found.share)
    (1.5, 2.0, 0.8)
    """
    is_known = np.isfinite(raw) & np.isfinite(transformed)
    x, y = raw[is_known], transformed[is_known]
    values = np.unique(x)
    if len(values) < 2:
        return None
    best: tuple[float, float, Booleans] | None = None
    for low, high in _PAIRS:
        ends = np.quantile(x, [low, high], method="nearest")
        if ends[0] == ends[1]:
            ends = values[[0, -1]]
        first, last = (y[np.argmax(x == end)] for end in ends)
        slope = (last - first) / (ends[1] - ends[0])
        on_line = _on_line(x, y, slope, first - slope * ends[0])
        if slope != 0 and (best is None or on_line.sum() > best[2].sum()):
            best = slope, first - slope * ends[0], on_line
    if best is None or best[2].mean() < _LEAST_SHARE or len(np.unique(x[best[2]])) < 2:
        return None
    return _refined(x, y, best[2])


def is_strictly_monotone(raw: Floats, transformed: Floats) -> bool:
    """Whether a larger raw value always gives a larger (or always a smaller) one, without plateaus; shape (n,) each."""
    is_known = np.isfinite(raw) & np.isfinite(transformed)
    values, places = np.unique(raw[is_known], return_index=True)
    steps = np.diff(transformed[is_known][places])
    return len(values) > 2 and bool(np.all(steps > 0) or np.all(steps < 0))


def _on_line(x: Floats, y: Floats, slope: float, intercept: float) -> Booleans:
    # float32 rounds the raw value, the constant and the result.
    tolerance = 32 * EPSILON * (np.abs(y).max() + abs(slope) * np.abs(x).max())
    found: Booleans = np.abs(y - (slope * x + intercept)) <= tolerance
    return found


def _refined(x: Floats, y: Floats, on_line: Booleans) -> Effect | None:
    """Least squares over the rows on the line, in which rounding averages out."""
    x_on, y_on = x[on_line], y[on_line]
    middle = x_on.mean()
    distance = x_on - middle
    slope = float((distance * (y_on - y_on.mean())).sum() / (distance**2).sum())
    if slope == 0 or not np.isfinite(slope):
        return None
    location = float(middle - y_on.mean() / slope)
    residual = np.abs(y_on - slope * (x_on - location)).max()
    # The residual is of single values; that of the line is smaller, but a bias is not.
    error = float(max(residual, EPSILON * np.abs(y_on).max()))
    return Effect(
        location,
        1.0 / slope,
        float(on_line.mean()),
        error / abs(slope),
        error / abs(slope) / float(np.abs(distance).max()) / abs(slope),
    )
