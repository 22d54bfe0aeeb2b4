"""Traces that normalization leaves in the numbers themselves: a mean of 0 and a deviation of 1, or a median of 0 and quartiles 1 apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from spikeguard.components.normalization_validator.effects import EPSILON
from spikeguard.components.normalization_validator.matching import PRECISION, Match, decide
from spikeguard.components.normalization_validator.summaries import Columns
from spikeguard.components.robust import MAD_TO_SD, NORMAL_QUARTILE
from spikeguard.components.training_curve import Floats

# Definitions of a quantile between two values; libraries differ in them.
_QUANTILES: tuple[Literal["linear", "lower", "higher", "midpoint", "inverted_cdf"], ...] = (
    "linear",
    "lower",
    "higher",
    "midpoint",
    "inverted_cdf",
)
# With more zeros than this a median of 0 says nothing.
_MOST_ZEROS = 0.1


def moments_match(train: Columns, others: Mapping[str, Columns], rounding: float = 0.0) -> Match | None:
    """The set of rows over which a column has mean 0 and standard deviation 1 (or sum of squares 1).

    Args:
      train: summary of one column in the train split, each field of shape ().
      others: the same in the forbidden sets, by name.
      rounding: how much less precise than `PRECISION` the numbers are, in standard deviations.
    """
    train_misses = _moment_misses(train, rounding)
    misses: dict[str, dict[str, float]] = {}
    for name, column in others.items():
        for rule, missed in _moment_misses(column, rounding).items():
            misses.setdefault(rule, {})[name] = missed
    return decide(train_misses, misses)


def _moment_misses(column: Columns, rounding: float) -> dict[str, float]:
    count, sd = float(column.count), float(column.sd)
    if count < 3 or sd == 0 or is_two_valued(column):
        return {}
    near = PRECISION + rounding
    mean = abs(float(column.mean)) / sd / near
    scales = {
        "z-score": sd,
        "z-score with n - 1": sd * np.sqrt(count / (count - 1)),
        "unit norm": sd * np.sqrt(count),
    }
    return {rule: float(max(mean, abs(scale - 1) / near)) for rule, scale in scales.items()}


def is_two_valued(column: Columns) -> bool:
    """Whether there are two values or fewer, as in a flag; each field of shape ()."""
    return bool(column.at_minimum + column.at_maximum >= column.count or column.minimum == column.maximum)


def may_have_median_zero(column: Columns) -> bool:
    """Whether as many values lie above as below 0, so that the median is 0; each field of shape ()."""
    above = column.count - column.below - column.zero
    is_centered = abs(above - column.below) <= column.zero + 1
    return bool(column.count >= 4 and is_centered and column.zero <= _MOST_ZEROS * column.count + 1)


def quantiles_match(train: Floats, others: Mapping[str, Floats]) -> Match | None:
    """The set of rows over which a column has median 0 and interquartile range (or MAD) 1, for the usual definitions.

    Args:
      train: all values of the column in the train split; shape (n,), NaN for missing.
      others: the same in the forbidden sets, by name.

    >>> values = np.arange(101.0) / 50 - 1
    >>> found = quantiles_match(values, {"train + eval": np.append(values, [3.0, 5.0, 7.0])})
    >>> found.status, found.rule
    ('proven', 'median and interquartile range')
    """
    train_misses = _quantile_misses(train)
    misses: dict[str, dict[str, float]] = {}
    for name, values in others.items():
        for rule, missed in _quantile_misses(values).items():
            misses.setdefault(rule, {})[name] = missed
    return decide(train_misses, misses)


def _quantile_misses(values: Floats) -> dict[str, float]:
    values = np.sort(values[np.isfinite(values)])
    if len(values) < 4 or values[0] == values[-1]:
        return {}
    spread = float(values[(3 * len(values)) // 4] - values[len(values) // 4])
    if spread == 0:
        return {}
    cuts = np.array([np.quantile(values, [0.25, 0.5, 0.75], method=method) for method in _QUANTILES])
    near = PRECISION + 4 * EPSILON * float(np.abs(values).max()) / spread
    median = float(np.abs(cuts[:, 1]).min()) / spread / near
    deviations = np.abs(values - cuts[0, 1])
    mads = np.array([np.quantile(deviations, 0.5, method=method) for method in _QUANTILES])
    widths = cuts[:, 2] - cuts[:, 0]
    scales = {
        "median and interquartile range": widths,
        "median and normal interquartile range": widths / (2 * NORMAL_QUARTILE),
        "median and MAD": mads,
        "median and normal MAD": mads * MAD_TO_SD,
    }
    return {rule: float(max(median, np.abs(scale - 1).min() / near)) for rule, scale in scales.items()}
