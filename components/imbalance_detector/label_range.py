"""How a regression label lies in its range: few rows far out teach a model little and move its loss much."""

from __future__ import annotations

import dataclasses

from spikeguard.components.training_statistics.results import RobustStatistics

# Between these quantiles lie all rows but two in a thousand.
_LOW, _HIGH = 0.001, 0.999


@dataclasses.dataclass(frozen=True)
class LabelRange:
    """Tails and emptiness of a regression label on one split; figures are None where the label is constant or not finite."""

    split: str
    minimum: float
    maximum: float
    median: float
    lower_fence: float | None
    upper_fence: float | None
    lower_tail: float | None
    """Weight of the tail: 1 for a normal distribution, more for heavier ones; see `RobustStatistics`."""
    upper_tail: float | None
    emptiness: float | None
    """Share of the range from minimum to maximum that only 0.2 % of the rows reach: beyond the 0.1 % and the 99.9 %
    quantile; in [0, 1]."""


def label_range(split: str, label: RobustStatistics) -> LabelRange | None:
    """The range of a label, from TrainingStatistics; None where it has no finite value.

    >>> quantiles = ((0.0, -80.0), (0.001, -60.0), (0.5, 0.0), (0.999, 140.0), (1.0, 920.0))
    >>> label_range("train", RobustStatistics(name="y", rows=9, median=0.0, quantiles=quantiles)).emptiness
    0.8
    """
    if label.median is None or not label.quantiles:
        return None
    value = dict(label.quantiles)
    low, high = label.quantiles[0][1], label.quantiles[-1][1]
    width = high - low
    # A range of 1e308 on both sides has no width within floats.
    inner = value.get(_HIGH, high) / 2 - value.get(_LOW, low) / 2
    emptiness = 1.0 - inner / (high / 2 - low / 2) if width > 0 else None
    return LabelRange(
        split,
        low,
        high,
        label.median,
        label.fences.lower if label.fences else None,
        label.fences.upper if label.fences else None,
        label.lower_tail,
        label.upper_tail,
        emptiness,
    )
