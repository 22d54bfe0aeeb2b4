"""The level that a loss had around each step and the noise around that level, both unmoved by spikes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spikeguard.components.robust import MAD_TO_SD
from spikeguard.components.training_curve import Floats

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
# Levels of neighbouring windows further apart than this, in standard deviations of the noise, are a step, where the slope is so many
# times that on one side at least: else the level falls or rises all the time.
_STEP, _STEEPER = 6.0, 3.0
# Points that a quantile of the noise rests on at most.
_ENOUGH = 1001
# The noise is nowhere below this share of what it usually is: a flat stretch says little.
_LEAST_NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class Level:
    """Level and noise at each of n points."""

    loss: Floats
    """What they were taken from. Shape (n,)."""
    trend: Floats
    """Running median. Shape (n,)."""
    noise: Floats
    """Robust standard deviation of the losses above the trend. Shape (n,); > 0."""
    window: int
    """Points that the running median sees; odd."""

    @property
    def height(self) -> Floats:
        """Distance of each loss from the trend, in standard deviations. Shape (n,)."""
        return np.asarray((self.loss - self.trend) / self.noise)


def window_of(points: int, wanted: int | None = None) -> int:
    """Width of the running median for a curve of this many points: a tenth, from 7 to 1,001, odd, and no wider than the curve."""
    window = wanted or int(np.clip(points // 10, 7, 1001))
    return max(1, min(window | 1, points - 1 + points % 2))


def level_of(loss: Floats, window: int) -> Level:
    """Takes level and noise of a curve.

    Args:
      loss: shape (n,), finite, n >= 5.
      window: width of the running median in points; odd, at most n.
    """
    every = np.arange(len(loss))
    grid, (median,) = _running_quantiles(loss, window, [0.5], _FINE if len(loss) <= _MANY else _COARSE, shrinks=True)
    trend = np.interp(every, grid, median) + _further_rise(grid, median, len(loss))
    # Noise that grows with the level is measured in units that do so, too: levels fall faster than windows can follow.
    unit = _unit(loss, trend, window)
    wide = window_of(len(loss), _NOISE_WINDOWS * window)
    centers, (middle, upper) = _slow_quantiles((loss - trend) / unit, wide, [0.5, 0.75])
    noise = MAD_TO_SD * np.interp(every, centers, upper - middle)
    # Where the loss falls steeply a median follows it point by point: there noise shows in how the points zigzag.
    zigzag = np.abs(loss[1:-1] - 0.5 * (loss[:-2] + loss[2:])) / unit[1:-1]
    centers, (middle,) = _slow_quantiles(zigzag, wide, [0.5])
    noise = np.maximum(noise, MAD_TO_SD / _ZIGZAG * np.interp(every, centers + 1, middle))
    noise = np.maximum(unit * np.maximum(noise, _LEAST_NOISE * float(np.median(noise))), _rounding(loss))
    # Between two windows the level is on a line, but for a step: there it is the one before until the next is reached.
    change = np.abs(np.diff(median))
    is_step = (change > _STEP * noise[grid[:-1]]) & _are_apart(change / np.diff(grid))
    if np.any(is_step):
        lengths, inner = np.diff(grid), slice(grid[0], grid[-1])
        trend[inner] = np.where(np.repeat(is_step, lengths), np.repeat(median[:-1], lengths), trend[inner])
    return Level(loss, trend, noise, window)


def _further_rise(grid: npt.NDArray[np.intp], median: Floats, points: int) -> Floats:
    """What a steady rise adds after the last window's centre, where there is no median: at most the slope of both of its halves.

    A level that falls goes on as it is, and so does one that has just jumped: neither may hide a spike, or invent one.
    """
    half = points - 1 - int(grid[-1])
    before = np.interp([grid[-1] - 2 * half, grid[-1] - half], grid, median)
    slopes = np.diff([*before, median[-1]]) / max(1, half)
    return np.asarray(max(0.0, float(slopes.min())) * np.maximum(np.arange(points) - grid[-1], 0))


def _are_apart(slopes: Floats) -> npt.NDArray[np.bool_]:
    """Which of some slopes are far steeper than the flatter one of their neighbours. Shape (n,), n >= 0."""
    if len(slopes) < 2:
        return np.ones(len(slopes), dtype=bool)
    before, after = np.append(slopes[1], slopes[:-1]), np.append(slopes[1:], slopes[-2])
    return np.asarray(slopes > _STEEPER * np.minimum(before, after))


def fitting_window(loss: Floats, widest: int) -> int:
    """The widest window, down to a quarter of the widest, whose medians follow the level as closely as the noise allows.

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


def _slow_quantiles(values: Floats, window: int, shares: Sequence[float]) -> tuple[npt.NDArray[np.intp], list[Floats]]:
    """Running quantiles of what changes slowly: few windows, of no more points than a quantile needs."""
    thinning = max(1, window // _ENOUGH)
    thin = values[::thinning]
    centers, quantiles = _running_quantiles(thin, window_of(len(thin), window // thinning), shares, _COARSE)
    return centers * thinning, quantiles


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


def _unit(loss: Floats, trend: Floats, window: int) -> Floats:
    """The trend to the power with which the noise grows with it; 1 where it hardly changes or a loss is not positive."""
    if np.min(loss) <= 0.0:
        return np.ones(len(loss))
    _, (level, upper) = _slow_quantiles(loss, window, [0.5, 0.75])
    is_noisy = upper > level
    if np.sum(is_noisy) < 2 or np.quantile(level, 0.95) < _WIDE * np.quantile(level, 0.05):
        return np.ones(len(loss))
    slope = np.polyfit(np.log(level[is_noisy]), np.log((upper - level)[is_noisy]), 1)[0]
    return np.asarray(trend ** np.clip(slope, 0.0, _FASTEST))


def _rounding(loss: Floats) -> float:
    """Smallest step between losses that were rounded when they were logged, and what floats leave otherwise."""
    least = 1e-6 * float(np.median(np.abs(loss))) + 1e-300
    if np.mean(np.diff(loss) == 0.0) < 0.02:
        return least
    steps = np.diff(np.unique(loss))
    return max(least, float(steps.min())) if len(steps) else least
