"""What speaks for a cause: a score, figures that a person can check, rows, and a remedy as a concrete setting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

Cause = Literal[
    "outliers",
    "imbalance",
    "normalization",
    "learning_rate",
    "batch_size",
    "regularization",
    "numerics",
    "unknown",
]
Status = Literal["verified", "likely", "unknown"]

# Of a whole: an evidence below it does not carry a cause by itself.
LIKELY = 0.5


@dataclasses.dataclass(frozen=True)
class Row:
    """An example that a cause points at."""

    example_id: int | None
    """Its id; None where the data carry none."""
    step: int
    """Step whose batch held it."""
    loss: float | None = None
    """Its loss in that step; None where unknown."""
    feature: str | None = None
    """The input that is most unusual; None where none is known to be."""
    value: float | None = None
    """Its value there."""
    lower: float | None = None
    """Fences of that input; None where unknown."""
    upper: float | None = None


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What to change."""

    text: str
    """One sentence in the imperative."""
    recipe: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `Recipe` and their values."""
    pipeline: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of `PipelineConfig` and their values."""
    flags: tuple[str, ...] = ()
    """Flags of `local_runner.py`."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one test of one cause found."""

    cause: Cause
    score: float
    """How far the figures speak for the cause, in [0, 1]; from 0.5 on the cause is likely."""
    text: str
    """The figures in a sentence."""
    remedy: Remedy
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By name; finite."""
    rows: tuple[Row, ...] = ()


def ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, in between the share of the way on a logarithmic scale; 0 for NaN.

    Args:
      value: any number.
      low: above 0.
      high: above 0; below `low`, the ramp falls.

    >>> ramp(1.0, 1.0, 100.0), ramp(10.0, 1.0, 100.0), ramp(1e6, 1.0, 100.0), ramp(4.0, 64.0, 4.0)
    (0.0, 0.5, 1.0, 1.0)
    """
    if not value > 0:
        return 1.0 if high < low and value == 0 else 0.0
    share = math.log(value / low) / math.log(high / low) if math.isfinite(value) else math.copysign(1.0, high - low)
    return min(1.0, max(0.0, share))


def either(*scores: float) -> float:
    """The score of independent signs together: 1 - the product of what each leaves open.

    >>> either(0.5, 0.5)
    0.75
    """
    return 1.0 - math.prod(1.0 - min(1.0, max(0.0, score)) for score in scores)
