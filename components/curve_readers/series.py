"""The values of one tag or column in the order written, in bounded memory."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikeguard.components.training_curve import Floats, Ints

MAX_POINTS = 4_000_000
_CHUNK = 3 * 65_536


@dataclasses.dataclass(frozen=True)
class Series:
    """What one tag or column held; all arrays have the shape (n,)."""

    step: Ints
    """Step or epoch of each value; goes back where a training was restarted."""
    value: Floats
    order: Ints
    """Number of the record or row in the log that held the value."""
    group: int = 1
    """Consecutive values of which each kept one is the largest; 1 where all are kept."""


@dataclasses.dataclass(frozen=True)
class RunLog:
    """All that was logged of one run."""

    series: Mapping[str, Series]
    """By name of the tag or column."""
    axis: Literal["step", "epoch"]
    """What `Series.step` counts."""
    notes: tuple[str, ...] = ()
    """Sentences on what had to be left out or assumed."""
    is_cut: bool = False
    """Whether the last file breaks off in the middle of a record."""


class SeriesBuilder:
    """Collects a series; of more than `max_points` values it keeps the largest of every 2, then of every 4, ..."""

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        """An empty series.

        Args:
          max_points: values to hold at most, apart from a chunk that was just added; >= 1.
        """
        self._max_points = max_points
        self._pending = array.array("d")
        self._raw = np.empty((0, 3))  # Not yet a whole group.
        self._kept: list[npt.NDArray[np.float64]] = []
        self._count = 0
        self._group = 1

    def append(self, step: float, value: float, order: float) -> None:
        """Adds one value."""
        self._pending.extend((step, value, order))
        if len(self._pending) >= _CHUNK:
            self._flush()

    def extend(self, step: npt.NDArray[Any], value: npt.NDArray[Any], order: npt.NDArray[Any]) -> None:
        """Adds values, each of shape (k,)."""
        self._flush()
        self._add(np.column_stack([step, value, order]).astype(np.float64))

    def build(self) -> Series:
        """The series so far."""
        self._flush()
        rows = np.concatenate([*self._kept, _largest(self._raw, self._group)])
        return Series(rows[:, 0].astype(np.int64), rows[:, 1].copy(), rows[:, 2].astype(np.int64), self._group)

    def _flush(self) -> None:
        if self._pending:
            rows = np.frombuffer(self._pending, np.float64).reshape(-1, 3).copy()
            self._pending = array.array("d")
            self._add(rows)

    def _add(self, rows: npt.NDArray[np.float64]) -> None:
        rows = np.concatenate([self._raw, rows])
        whole = len(rows) // self._group * self._group
        self._raw = rows[whole:]
        self._kept.append(_largest(rows[:whole], self._group))
        self._count += len(self._kept[-1])
        while self._count > self._max_points:
            self._kept = [_largest(np.concatenate(self._kept), 2)]
            self._count = len(self._kept[0])
            self._group *= 2


def _largest(rows: npt.NDArray[np.float64], group: int) -> npt.NDArray[np.float64]:
    """Of every `group` consecutive rows the one with the largest value; a value that is not finite counts as largest."""
    if group == 1 or not len(rows):
        return rows
    size = -(-len(rows) // group) * group
    rank = np.full(size, -np.inf)
    rank[: len(rows)] = np.where(np.isfinite(rows[:, 1]), rows[:, 1], np.inf)
    place = rank.reshape(-1, group).argmax(axis=1) + np.arange(0, size, group)
    # An all -inf group can only win at its first row, which is always there.
    kept: npt.NDArray[np.float64] = rows[place]
    return kept
