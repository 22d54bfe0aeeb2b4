"""Rows of a CSV or JSON log become one series per column."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.curve_readers import naming
from spikeguard.components.curve_readers.series import RunLog, SeriesBuilder
from spikeguard.components.errors import InvalidDataError

CHUNK_ROWS = 65_536
_MISSING = frozenset(["", "na", "n/a", "null", "none", "-"])

Column = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""Values and where there are any, each of shape (rows,)."""


def to_number(cell: object) -> float | None:
    """The number in a cell; None where it is empty. Booleans and text raise ValueError.

    >>> to_number("1e-3"), to_number(" nan "), to_number("NA")
    (0.001, nan, None)
    """
    if type(cell) is float:  # By far the most of them.
        return cell
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return None
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise ValueError(f"not a number: {cell!r}")
    return float(cell)


@dataclasses.dataclass
class BadCells:
    """Counts cells that hold text where a number belongs."""

    path: pathlib.Path
    count: int = 0
    first: str = ""

    def add(self, line: int, column: str, value: object) -> None:
        """Notes one; the first is what the error will show."""
        self.count += 1
        shown = repr(value)
        self.first = self.first or f"line {line} has {shown[:40]} as {column}"

    def check(self, rows: int) -> tuple[str, ...]:
        """A note on what was skipped, or nothing.

        Args:
          rows: rows of the log, with the skipped ones.

        Raises:
          InvalidDataError: more than one row of the log, and more than 1 % of its rows, are bad.
        """
        if not self.count:
            return ()
        if self.count > max(1, 0.01 * rows) or rows <= 1:
            raise InvalidDataError(
                str(self.path), f"{self.first}, which is not a number", "Repair the line or give another log."
            )
        return (f"{self.count} row(s) were left out: {self.first}, which is not a number.",)


class TableBuilder:
    """Collects the columns of a table, chunk by chunk."""

    def __init__(self) -> None:
        """An empty table."""
        self.rows = 0
        self._builders: dict[str, SeriesBuilder] = {}
        self._step: str | None = None
        self._epoch: str | None = None
        self._last = (0.0, 0.0)  # Step as written and epoch of the last row.
        self._offset = 0.0
        self._is_renumbered = False

    def add_rows(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Adds rows of numbers by column; None and an absent column mean the same."""
        columns: dict[str, Column] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            present = np.array([value is not None for value in values], bool)
            columns[name] = np.array([np.nan if value is None else value for value in values], float), present
        self.add(columns)

    def add(self, columns: Mapping[str, Column]) -> None:
        """Adds a chunk of rows.

        Args:
          columns: by name, of equal length; the first chunk's names decide which column numbers the steps.
        """
        if not columns:
            return
        count = len(next(iter(columns.values()))[0])
        order = np.arange(self.rows, self.rows + count)
        if not self.rows:
            self._step, self._epoch = naming.step_column(columns), naming.epoch_column(columns)
        epoch = np.floor(_filled(columns.get(self._epoch or ""), self._last[1], count))
        if self._step:
            step = self._numbered(_filled(columns.get(self._step), self._last[0], count), epoch)
        else:
            step = epoch if self._epoch else order + 1.0
        for name, (values, present) in columns.items():
            if name == self._step or not present.any():
                continue
            values = np.floor(values) if name == self._epoch else values
            builder = self._builders.setdefault(name, SeriesBuilder())
            builder.extend(step[present], values[present], order[present])
        self.rows += count

    def build(self, notes: tuple[str, ...] = ()) -> RunLog:
        """The table as series, with further notes."""
        if self._is_renumbered:
            notes += (f"{self._step} counts anew in each epoch: the steps were numbered consecutively.",)
        if not (self._step or self._epoch):
            notes += ("There is no step or epoch column: the rows were numbered.",)
        axis = "epoch" if self._epoch and not self._step else "step"
        return RunLog({name: builder.build() for name, builder in self._builders.items()}, axis, notes)  # type: ignore[arg-type]

    def _numbered(self, step: npt.NDArray[np.float64], epoch: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Steps that go on where they start anew with an epoch; steps of a restarted training go back and stay so."""
        before = np.concatenate([[self._last[0] if self.rows else step[0]], step[:-1]])
        epoch_before = np.concatenate([[self._last[1] if self.rows else epoch[0]], epoch[:-1]])
        is_anew = (step < before) & (epoch > epoch_before)
        offset = self._offset + np.cumsum(np.where(is_anew, before + 1 - step, 0.0))
        self._offset, self._last = float(offset[-1]), (float(step[-1]), float(epoch[-1]))
        self._is_renumbered |= bool(is_anew.any())
        numbered: npt.NDArray[np.float64] = step + offset
        return numbered


def _filled(column: Column | None, last: float, count: int) -> npt.NDArray[Any]:
    """The values, with the one before where there is none or it is not finite."""
    if column is None:
        return np.full(count, last)
    values, present = column
    known = present & np.isfinite(values)
    place = np.maximum.accumulate(np.where(known, np.arange(count), -1))
    return np.where(place >= 0, values[place], last)
