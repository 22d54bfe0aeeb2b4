"""Where a run as a whole went: down, nowhere, or up and away."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikeguard.components.spike_evaluator.noise import Level
from spikeguard.components.training_curve import Floats

# Progress that is none: below this share of all that the run made.
_LEAST_PROGRESS = 0.02
# A rise is more than the noise of a level from this many standard deviations of single losses on.
_NOISE = 4.0
# Rises that a run has come back from are its way of moving: as much again is no divergence.
_WANDER = 1.5
# Levels that stand for a run.
_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Course:
    """Levels of a run, in units of the loss."""

    first: float
    """Level when the loss had settled."""
    best: float
    """Lowest level."""
    final: float
    """Level at the end."""
    wander: float
    """Largest rise of the level that the run came back from."""
    rises_from: int | None
    """Place from which the level left its best for good, by more than noise and the run's usual wandering; else None."""
    flat_from: int | None
    """Place after which the level did not fall any more, where that is in the first half; else None."""


def course_of(level: Level, settled: int) -> Course:
    """Reads a run's course off its trend.

    Args:
      level: of n points.
      settled: first place after the initial transient.
    """
    n, half = len(level.trend), level.window // 2
    # Levels are read off the interior of the trend: its first and last points rest on few.
    first_place = min(max(settled, half), n - 1)
    places = np.unique(np.linspace(first_place, max(first_place, n - 1 - half), _POINTS).astype(np.intp))
    path = np.append(level.trend[places], np.median(level.loss[-max(5, half) :]))
    places = np.append(places, n - 1)
    first, final = float(path[0]), float(path[-1])
    best_at = int(np.argmin(path))
    best, noise = float(path[best_at]), float(np.median(level.noise))
    wander = _wander(path)
    rise = final - best
    rises = rise > _NOISE * noise and rise > _WANDER * wander and rise > 0.5 * max(0.0, first - best)
    rises_from = int(places[np.flatnonzero(path <= best + 0.1 * rise)[-1]]) if rises else None
    lowest = np.minimum.accumulate(path)
    is_done = lowest <= best + max(_LEAST_PROGRESS * (first - best), 0.5 * noise)
    flat_from = int(places[int(np.argmax(is_done))])
    return Course(first, best, final, wander, rises_from, flat_from if flat_from < n // 2 and not rises else None)


def _wander(path: Floats) -> float:
    """Largest rise from a low that was followed by a fall to its half or below."""
    before, after = np.minimum.accumulate(path), np.minimum.accumulate(path[::-1])[::-1]
    rise = path - before
    return float(np.max(np.where(after <= before + 0.5 * rise, rise, 0.0)))
