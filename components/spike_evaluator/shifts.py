"""Jumps of the level: rises that a running median, which sits in their middle, cannot see."""

from __future__ import annotations

import numpy as np

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
    groups = np.split(high, np.flatnonzero(np.diff(high) > per_side) + 1) if len(high) else []
    return [_range(level, group[np.argmax(jump[group])], jump, medians, borders, points) for group in groups]


def _range(
    level: Level, place: int, jump: Floats, medians: Floats, borders: np.ndarray[int, np.dtype[np.intp]], points: int
) -> tuple[int, int]:
    border = int(borders[place])
    middle = float(medians[place]) + _HALF * float(jump[place] * level.noise[border])
    near = level.loss[border - points // 2 : border + points // 2 + 1] > middle
    start = border - points // 2 + (int(np.argmax(near)) if near.any() else points // 2)
    # At the jump itself the trend may lag; what is below the middle later is the way back.
    later = border + points
    back = np.flatnonzero(level.trend[later:] <= middle)
    return start, int(later + back[0] - 1) if len(back) else len(level.trend) - 1
