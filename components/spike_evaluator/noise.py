"""The level that a loss had around each step and the noise around that level, both unmoved by spikes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spikeguard.components.robust import MAD_TO_SD
from spikeguard.components.training_curve import Floats

# Powers that a heavy upper tail is bent back by, 0 for the logarithm; the first that does is taken.
_POWERS = (1.0, 0.5, 0.25, 0.0)
# Distance from the upper quartile to the 95th percentile over that from the median to the quartile: 1.4 for normal noise,
# 2.3 for exponential, 2.9 for squared normal, 3.3 for log-normal. Up to here the tail is left as it is.
_HEAVY = 4.0
# Range of levels from which it is read how the noise grows with the level, and the fastest growth believed.
_WIDE, _FASTEST = 3.0, 1.5
# Windows of the noise are this many times those of the level: a quartile needs more points than a median.
_NOISE_WINDOWS = 3
# Standard deviation of the distance of a point from the mean of its neighbours, for independent noise of unit variance.
_ZIGZAG = np.sqrt(1.5)
# Windows are narrowed down to this many points while their medians miss the losses by this much more than noise does.
_NARROW, _CLOSE = 31, 1.5
# Windows per half of their width: for the level of curves of up to so many points, and for that of longer ones and the noise.
_FINE, _COARSE, _MANY = 16, 2, 200_000
# Levels of neighbouring windows further apart than this, in standard deviations of the noise, are a step.
_STEP = 6.0
# Points that a quantile of the noise rests on at most.
_ENOUGH = 1001
# The noise is nowhere below this share of what it usually is: a flat stretch says little.
_LEAST_NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class Level:
    """Level and noise at each of n points, in a scale in which the noise's upper tail is not too heavy."""

    power: float
    """The scale: loss to this power, 0 for its logarithm. 1 where a loss is not positive."""
    values: Floats
    """The losses in that scale. Shape (n,)."""
    trend: Floats
    """Running median in that scale. Shape (n,)."""
    scale: Floats
    """Robust standard deviation of the noise above the trend in that scale. Shape (n,); > 0."""
    expected: Floats
    """The trend as a loss. Shape (n,)."""
    noise: Floats
    """The scale as a loss, for small deviations from the trend. Shape (n,)."""
    window: int
    """Points that the running median sees; odd."""

    @property
    def height(self) -> Floats:
        """Distance of each loss from the trend, in standard deviations. Shape (n,)."""
        return np.asarray((self.values - self.trend) / self.scale)


def window_of(points: int, wanted: int | None = None) -> int:
    """Width of the running median for a curve of this many points: a tenth, from 7 to 1,001, odd, and no wider than the curve."""
    window = wanted or int(np.clip(points // 10, 7, 1001))
    return max(1, min(window | 1, points - 1 + points % 2))


def level_of(loss: Floats, is_kept: npt.NDArray[np.bool_], window: int) -> Level:
    """Takes level and noise from the points that are kept; the others get what lies between their neighbours.

    Args:
      loss: shape (n,), finite, n >= 5.
      is_kept: shape (n,), False for points that belong to a spike.
      window: width of the running median in points; odd.
    """
    places = np.flatnonzero(is_kept)
    window = window_of(len(places), window)
    _, raw = _slow_quantiles(loss[is_kept], window, [0.5, 0.75, 0.95])
    is_positive = bool(np.min(loss) > 0.0)
    power = _power(*raw) if is_positive else 1.0
    values = _raised(loss, power)
    per_half = _FINE if len(loss) <= _MANY else _COARSE
    grid, (median,) = _running_quantiles(values[is_kept], window, [0.5], per_half, shrinks=True)
    trend = np.interp(np.arange(len(loss)), places[grid], median)
    expected = _lowered(trend, power)
    # Noise that grows with the level is measured in units that do so, too: levels fall faster than windows can follow.
    unit = expected ** _growth(raw[0], raw[1] - raw[0]) if is_positive and power == 1.0 else np.ones(len(loss))
    rest = ((values - trend) / unit)[is_kept]
    wide = window_of(len(places), _NOISE_WINDOWS * window)
    centers, (middle, upper) = _slow_quantiles(rest, wide, [0.5, 0.75])
    scale = MAD_TO_SD * np.interp(np.arange(len(loss)), places[centers], upper - middle)
    # Where the loss falls steeply a median follows it point by point: there noise shows in how the points zigzag.
    kept = values[is_kept]
    zigzag = np.abs(kept[1:-1] - 0.5 * (kept[:-2] + kept[2:])) / unit[is_kept][1:-1]
    centers, (middle,) = _slow_quantiles(zigzag, wide, [0.5])
    scale = np.maximum(scale, MAD_TO_SD / _ZIGZAG * np.interp(np.arange(len(loss)), places[centers + 1], middle))
    scale = unit * np.maximum(scale, _LEAST_NOISE * float(np.median(scale)))
    slope = np.ones(len(loss)) if power == 1.0 else (power or 1.0) * expected ** (power - 1.0)
    scale = np.maximum(scale, slope * _rounding(loss))
    # Between two windows the level is on a line, but for a step: there it is the one before until the next is reached.
    at = places[grid]
    is_step = np.abs(np.diff(median)) > _STEP * scale[at[:-1]]
    if np.any(is_step):
        lengths = np.diff(at)
        between = trend[at[0] : at[-1]]
        trend[at[0] : at[-1]] = np.where(np.repeat(is_step, lengths), np.repeat(median[:-1], lengths), between)
        expected = _lowered(trend, power)
    return Level(power, values, trend, scale, expected, scale / slope, window)


def _slow_quantiles(values: Floats, window: int, shares: Sequence[float]) -> tuple[npt.NDArray[np.intp], list[Floats]]:
    """Running quantiles of what changes slowly: few windows, of no more points than a quantile needs."""
    thinning = max(1, window // _ENOUGH)
    thin = values[::thinning]
    centers, quantiles = _running_quantiles(thin, window_of(len(thin), window // thinning), shares, _COARSE)
    return centers * thinning, quantiles


def trailing_median(values: Floats, points: int) -> Floats:
    """Median of about this many points before each one, itself left out; 0 where there are not that many. Shape (n,)."""
    if len(values) <= points:
        return np.zeros(len(values))
    stride = max(1, points // 4)
    ranked = np.sort(np.lib.stride_tricks.sliding_window_view(values, points)[::stride], axis=1)[:, points // 2]
    known = np.arange(points, len(values))
    return np.concatenate([np.zeros(points), ranked[np.minimum((known - points) // stride, len(ranked) - 1)]])


def fitting_window(loss: Floats, widest: int) -> int:
    """The widest window, up to a quarter of the widest, whose medians follow the level as closely as the noise allows.

    Args:
      loss: shape (n,), finite, n >= 3.
      widest: points; odd.
    """
    zigzag = float(np.median(np.abs(loss[1:-1] - 0.5 * (loss[:-2] + loss[2:])))) / _ZIGZAG
    for window in (widest, window_of(len(loss), widest // 2), window_of(len(loss), widest // 4)):
        blocks = loss[: len(loss) // window * window].reshape(-1, window)
        centers = np.arange(len(blocks)) * window + window // 2
        trend = np.interp(np.arange(blocks.size), centers, np.median(blocks, axis=1))
        if window <= _NARROW or np.median(np.abs(blocks.ravel() - trend)) <= _CLOSE * zigzag:
            break
    return window


def _running_quantiles(
    values: Floats, window: int, shares: Sequence[float], per_half: int, shrinks: bool = False
) -> tuple[npt.NDArray[np.intp], list[Floats]]:
    """Quantiles of windows at a fixed share of their width apart, which costs the same for each width.

    Where `shrinks`, windows become narrower towards the start, where losses fall steeply, and stay centred.

    Returns:
      The centres, increasing, and for each share the quantiles there.
    """
    half, last = window // 2, len(values) - window
    stride = max(1, half // per_half)
    starts = np.unique(np.append(np.arange(0, last + 1, stride), last))
    ranks = [round(share * (window - 1)) for share in shares]
    ranked = np.partition(np.lib.stride_tricks.sliding_window_view(values, window)[starts], ranks, axis=1)
    centers, quantiles = starts + half, [ranked[:, rank] for rank in ranks]
    if shrinks and half > 2:
        first = np.unique(np.geomspace(2, half, 12).astype(np.intp))[:-1]
        narrow = [np.quantile(values[: 2 * center + 1], shares) for center in first]
        centers = np.concatenate([first, centers])
        quantiles = [np.concatenate([[row[i] for row in narrow], part]) for i, part in enumerate(quantiles)]
    return centers, quantiles


def _power(middle: Floats, upper: Floats, high: Floats) -> float:
    """First power under which the upper tail is not heavy, from running medians, quartiles and 95th percentiles."""
    for power in _POWERS:
        low, center, top = (_raised(part, power) for part in (middle, upper, high))
        is_noisy = center > low
        if not np.any(is_noisy) or np.median((top - center)[is_noisy] / (center - low)[is_noisy]) <= _HEAVY:
            return power
    return _POWERS[-1]


def _growth(level: Floats, noise: Floats) -> float:
    """Power of the level with which the noise grows; 0 where the level hardly changes."""
    is_noisy = noise > 0.0
    if np.sum(is_noisy) < 2 or np.quantile(level, 0.95) < _WIDE * np.quantile(level, 0.05):
        return 0.0
    slope = np.polyfit(np.log(level[is_noisy]), np.log(noise[is_noisy]), 1)[0]
    return float(np.clip(slope, 0.0, _FASTEST))


def _raised(loss: Floats, power: float) -> Floats:
    return np.asarray(np.log(loss) if power == 0.0 else loss if power == 1.0 else loss**power)


def _lowered(values: Floats, power: float) -> Floats:
    return np.asarray(np.exp(values) if power == 0.0 else values if power == 1.0 else values ** (1.0 / power))


def _rounding(loss: Floats) -> float:
    """Smallest step between losses that were rounded when they were logged, and what floats leave otherwise."""
    least = 1e-6 * float(np.median(np.abs(loss))) + 1e-300
    if np.mean(np.diff(loss) == 0.0) < 0.02:
        return least
    steps = np.diff(np.unique(loss))
    return max(least, float(steps.min())) if len(steps) else least
