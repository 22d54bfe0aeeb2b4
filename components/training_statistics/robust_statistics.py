"""From the quantiles of a feature to its median, MAD, skewness, weight of tails and fences, with NumPy alone.

All functions read one `QuantileGrid`: values with the weight at or below each. A grid of every distinct value gives exact
results; one from a sketch is off by the sketch's rank error.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.robust import MAD_TO_SD, NORMAL_QUARTILE
from spikeguard.components.training_curve import Floats

FenceRule = Literal["constant", "mad", "adjusted_boxplot", "beside_mode", "tail_quantiles"]

# Levels of the quantiles that are kept, finer towards the tails.
_TAIL_LEVELS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
QUANTILE_LEVELS: tuple[float, ...] = (*_TAIL_LEVELS, 0.5, *(round(1 - level, 6) for level in reversed(_TAIL_LEVELS)))
# Robust z-score beyond which a value is an outlier: Iglewicz and Hoaglin 1993.
MAD_FENCE = 3.5
# Skewness by medcouple from which on a symmetric fence is not believed.
SKEWED = 0.1
# Level whose distance from the median, beside that of the quartile, tells the weight of a tail; and its normal value.
_TAIL, _NORMAL_TAIL = 0.01, 2.3263478740408408
# Share of values outside the fence where nearly all values are the same.
_TAIL_FENCE = 0.001
# Least share of the values beside the most frequent one that has fences of its own.
_OTHERS = 0.01
# Points that stand for a distribution when pairs of them are compared.
_REPRESENTATIVES = 200


@dataclasses.dataclass(frozen=True)
class QuantileGrid:
    """A distribution of finite numbers, as a step function.

    Raises:
      InvalidArgumentError: empty, of different lengths, or not rising.

    >>> grid = QuantileGrid.of(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    >>> grid.quantile(0.5), mad(grid)
    (3.0, 1.0)
    """

    values: Floats
    """Distinct values, rising. Shape (k,), k >= 1."""
    cumulative: Floats
    """Weight of all values up to and with each, rising, > 0. Shape (k,)."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.cumulative) or not len(self.values):
            raise InvalidArgumentError("values", len(self.values), "be as many as cumulative weights, and some")
        if not (np.all(np.diff(self.values) > 0) and np.all(np.diff(self.cumulative, prepend=0.0) > 0)):
            raise InvalidArgumentError("values", self.values[:5].tolist(), "rise, each with a weight above 0")

    @staticmethod
    def of(values: Floats, weights: Floats | None = None) -> QuantileGrid:
        """The exact grid of some finite values, shape (n,), with weights > 0, shape (n,); the slow way."""
        distinct, place = np.unique(values, return_inverse=True)
        return QuantileGrid(distinct, np.cumsum(np.bincount(place, weights=weights)).astype(np.float64))

    @staticmethod
    def from_sketch(values: Floats, cumulative: Floats) -> QuantileGrid:
        """From a sketch's quantiles, which repeat values; shape (k,) both."""
        is_last = np.append(np.diff(values) > 0, True)
        values, cumulative = values[is_last], cumulative[is_last]
        has_weight = np.diff(cumulative, prepend=0.0) > 0
        return QuantileGrid(values[has_weight], cumulative[has_weight])

    @property
    def weight(self) -> float:
        return float(self.cumulative[-1])

    def without(self, value: float) -> QuantileGrid | None:
        """The distribution of all other values; None where there are none."""
        is_other = self.values != value
        if not is_other.any():
            return None
        weights = np.diff(self.cumulative, prepend=0.0)[is_other]
        return QuantileGrid(self.values[is_other], np.cumsum(weights))

    def quantile(self, level: float) -> float:
        """Smallest value that at least this share, in [0, 1], of the weight does not exceed: NumPy's `inverted_cdf`."""
        # The last bits of a sum of weights must not move a quantile past its value.
        place = int(np.searchsorted(self.cumulative, level * self.weight * (1 - 1e-12)))
        return float(self.values[min(place, len(self.values) - 1)])


@dataclasses.dataclass(frozen=True)
class Fences:
    """A range that ordinary values lie in."""

    lower: float
    upper: float
    rule: FenceRule
    """`constant`: all values are the same. `mad`: median +- 3.5 * 1.4826 * MAD. `adjusted_boxplot`: for a skewed
    distribution. `beside_mode`: where more than half of all values are the same, the fences of the others, widened to that
    value. `tail_quantiles`: the 0.1 % and 99.9 % quantiles, where the others are too few."""


def mad(grid: QuantileGrid) -> float:
    """Median absolute deviation from the median, not scaled; 0 where more than half of the weight is at one value."""
    deviation = _difference(grid.values, grid.quantile(0.5))
    weight = np.diff(grid.cumulative, prepend=0.0)
    order = np.argsort(np.abs(deviation), kind="stable")
    cumulative = np.cumsum(weight[order])
    place = int(np.searchsorted(cumulative, 0.5 * cumulative[-1] * (1 - 1e-12)))
    return float(np.abs(deviation[order[place]]))


def medcouple(grid: QuantileGrid) -> float:
    """Robust skewness in [-1, 1], of 200 representative quantiles: Brys, Hubert and Struyf 2004.

    >>> round(medcouple(QuantileGrid.of(np.arange(101.0))), 3)
    0.0
    >>> medcouple(QuantileGrid.of(np.exp(np.linspace(-3, 3, 101)))) > 0.3
    True
    """
    # Values of 1e308 have no difference within floats.
    points = np.array([grid.quantile((place + 0.5) / _REPRESENTATIVES) for place in range(_REPRESENTATIVES)]) / 4
    median = np.median(points)
    centered = points - median
    lower, upper = centered[centered <= 0], centered[centered >= 0]
    spread = upper[None, :] - lower[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        kernel = (upper[None, :] + lower[:, None]) / spread
    # Pairs of values that are both the median: as many say left as say right.
    ties = int(np.sum(centered == 0))
    if ties:
        first, second = np.arange(ties)[:, None], np.arange(ties)[None, :]
        # The ties are the last of the lower values and the first of the upper ones.
        kernel[len(lower) - ties :, :ties] = np.sign(first + second - (ties - 1))
    return float(np.median(kernel))


def tail_weights(grid: QuantileGrid) -> tuple[float, float]:
    """Weight of the lower and of the upper tail: 1 for a normal distribution, more for heavier tails, less for lighter.

    The distance of the 1 % (99 %) quantile from the median, over that of the quartile, as a multiple of the same for a
    normal distribution: the ratio of two pseudo-sigmas of letter values (Hoaglin, Mosteller and Tukey 1983). Infinite
    where the quartile is the median and the far quantile is not; NaN where both are the median.
    """
    median = grid.quantile(0.5)

    def weight(far: float, near: float) -> float:
        far_distance = abs(float(_difference(far, median))) / _NORMAL_TAIL
        near_distance = abs(float(_difference(near, median))) / NORMAL_QUARTILE
        if near_distance == 0:
            return np.inf if far_distance > 0 else np.nan
        return far_distance / near_distance

    return weight(grid.quantile(_TAIL), grid.quantile(0.25)), weight(grid.quantile(1 - _TAIL), grid.quantile(0.75))


def adjusted_boxplot(grid: QuantileGrid) -> tuple[float, float]:
    """Fences for a skewed distribution: Hubert and Vandervieren 2008; Tukey's where the medcouple is 0."""
    skew = medcouple(grid)
    first, third = grid.quantile(0.25), grid.quantile(0.75)
    quartiles = float(_difference(third, first))
    down, up = (-4, 3) if skew >= 0 else (-3, 4)
    return _finite(first - 1.5 * np.exp(down * skew) * quartiles), _finite(third + 1.5 * np.exp(up * skew) * quartiles)


def fences(grid: QuantileGrid) -> Fences:
    """The range of ordinary values, by the rule that fits the distribution; see `Fences.rule`.

    >>> fences(QuantileGrid.of(np.array([1.0, 2.0, 3.0, 4.0, 100.0])))
    Fences(lower=-2.1891, upper=8.1891, rule='mad')
    """
    if len(grid.values) == 1:
        return Fences(float(grid.values[0]), float(grid.values[0]), "constant")
    deviation = mad(grid)
    has_quartiles = grid.quantile(0.25) < grid.quantile(0.75)
    if deviation > 0 and (abs(medcouple(grid)) < SKEWED or not has_quartiles):
        median, reach = grid.quantile(0.5), MAD_FENCE * MAD_TO_SD * deviation
        return Fences(_finite(median - reach), _finite(median + reach), "mad")
    if deviation > 0:
        return Fences(*adjusted_boxplot(grid), "adjusted_boxplot")
    others = grid.without(grid.quantile(0.5))
    if others is not None and others.weight >= _OTHERS * grid.weight:
        inner = fences(others)
        mode = grid.quantile(0.5)
        return Fences(min(inner.lower, mode), max(inner.upper, mode), "beside_mode")
    return Fences(grid.quantile(_TAIL_FENCE), grid.quantile(1 - _TAIL_FENCE), "tail_quantiles")


def _difference(left: Floats | float, right: float) -> Floats:
    """The difference, at most the largest float."""
    with np.errstate(over="ignore"):
        return np.asarray(np.nan_to_num(np.asarray(left, dtype=np.float64) - right))


def _finite(value: float) -> float:
    return float(np.nan_to_num(value))
