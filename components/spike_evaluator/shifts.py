"""Jumps of the level: rises that a running median, which sits in their middle, cannot see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spikeguard.components.spike_evaluator.noise import Level
from spikeguard.components.spike_evaluator.tail import noise_limit
from spikeguard.components.training_curve import Floats

# Points on either side whose medians are compared: a share of the window, and the fewest.
_SHARE, _FEWEST = 4, 5
# Share of a jump that tells above from below.
_HALF = 0.5


def level_jumps(level: Level, first: int, false_alarms: float, least: float) -> list[tuple[int, int]]:
    """Ranges (first, last) of points in which the level is up after a jump.

    Args:
      level: of n points.
      first: place from which on jumps are sought.
      false_alarms: expected number of jumps found in a run without any; in (0, 1).
      least: smallest jump, in standard deviations of the noise.
    """
    points = max(_FEWEST, level.window // _SHARE)
    stride = max(1, points // 4)
    per_side = -(-points // stride)
    if len(level.loss) - first < 4 * points:
        return []
    values = level.loss[first:]
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, points)[::stride], axis=1)
    borders = first + np.arange(len(medians) - per_side) * stride + points
    jump = (medians[per_side:] - medians[:-per_side]) / level.noise[borders]
    high = np.flatnonzero(jump > max(least, noise_limit(jump, false_alarms)))
    high = high[_are_steps(level.loss, borders[high], medians[high], medians[high + per_side], points)]
    groups = np.split(high, np.flatnonzero(np.diff(high) > per_side) + 1) if len(high) else []
    return [_range(level, group[np.argmax(jump[group])], jump, medians, borders, points) for group in groups]


def _are_steps(
    loss: Floats, borders: npt.NDArray[np.intp], before: Floats, after: Floats, points: int
) -> npt.NDArray[np.bool_]:
    """Whether a step between the levels before and after some places is nearer to the losses there than a steady rise is."""
    offsets = np.arange(-points, points)
    near = loss[borders[:, None] + offsets]
    step = np.where(offsets < 0, before[:, None], after[:, None])
    rise = 0.5 * (before + after)[:, None] + (after - before)[:, None] * (offsets + 0.5) / points
    return np.asarray(np.abs(near - step).sum(axis=1) < np.abs(near - rise).sum(axis=1))


def _range(
    level: Level, place: int, jump: Floats, medians: Floats, borders: npt.NDArray[np.intp], points: int
) -> tuple[int, int]:
    border = int(borders[place])
    middle = float(medians[place]) + _HALF * float(jump[place] * level.noise[border])
    near = level.loss[border - points // 2 : border + points // 2 + 1] > middle
    start = border - points // 2 + (int(np.argmax(near)) if near.any() else points // 2)
    # At the jump itself the trend may lag; what is below the middle later is the way back.
    later = border + points
    back = np.flatnonzero(level.trend[later:] <= middle)
    return start, int(later + back[0] - 1) if len(back) else len(level.trend) - 1
