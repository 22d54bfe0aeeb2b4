"""Draws a training curve in a terminal."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikeguard.components.spike_evaluator.result import Evaluation
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

# Levels further apart than this are drawn on a logarithmic scale.
_DECADES = 100.0
# Bits of a braille character's dots, from the top, left and right.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclasses.dataclass(frozen=True)
class _Outline:
    """The lowest and the highest finite loss of each column of a drawing."""

    low: Floats
    """Shape (columns,); NaN where a column holds no finite loss."""
    high: Floats
    column_of: Ints
    """Column of each point of the curve. Shape (n,)."""
    is_log: bool

    def rise(self, values: Floats) -> Floats:
        """Where values lie between the lowest and the highest loss of all, as shares."""
        bottom, top = self._scaled(np.array([np.nanmin(self.low), np.nanmax(self.high)]))
        return np.asarray((self._scaled(values) - bottom) / ((top - bottom) or 1.0))

    def _scaled(self, values: Floats) -> Floats:
        return np.log(values) if self.is_log else values


def _outline(curve: TrainingCurve, columns: int) -> _Outline:
    n = len(curve)
    columns = min(columns, n)
    column_of = np.arange(n) * columns // n
    starts = np.searchsorted(column_of, np.arange(columns))
    is_finite = np.isfinite(curve.loss)
    low = np.minimum.reduceat(np.where(is_finite, curve.loss, np.inf), starts)
    high = np.maximum.reduceat(np.where(is_finite, curve.loss, -np.inf), starts)
    is_known = low <= high
    low, high = np.where(is_known, low, np.nan), np.where(is_known, high, np.nan)
    finite = curve.loss[is_finite]
    is_log = bool(finite.min() > 0.0 and finite.max() > _DECADES * np.median(finite))
    return _Outline(low, high, column_of, is_log)


def terminal_plot(evaluation: Evaluation, columns: int = 72, rows: int = 8) -> str:
    """The curve in braille dots, with a mark under each spike; "" where there is nothing to draw.

    Args:
      evaluation: of one curve.
      columns: characters of the drawing without its axis; >= 1.
      rows: lines of the drawing; >= 2.

    >>> from spikeguard.components.spike_evaluator.result import evaluate
    >>> print(terminal_plot(evaluate(TrainingCurve.from_losses([4.0, 3.0, 2.0, 1.0])), rows=2))
              4 ┤⢣⠀
              1 ┤⠈⢆
                1 4
    """
    curve, findings = evaluation.curve, evaluation.findings
    if curve is None or findings is None or not np.isfinite(curve.loss).any():
        return ""
    outline = _outline(curve, 2 * columns)
    height = 4 * rows
    low, high = (
        np.nan_to_num(outline.rise(part) * (height - 1), nan=-1.0).round() for part in (outline.low, outline.high)
    )
    # A column reaches to the next, so that a steep curve stays one line.
    is_known = (low[1:] >= 0) & (low[:-1] >= 0)
    reach_down, reach_up = np.minimum(low[:-1], high[1:] + 1), np.maximum(high[:-1], low[1:] - 1)
    low[:-1], high[:-1] = np.where(is_known, reach_down, low[:-1]), np.where(is_known, reach_up, high[:-1])
    is_drawn = (np.arange(height)[:, None] >= low) & (np.arange(height)[:, None] <= high) & (low >= 0)
    dots = np.zeros((height, len(low) + len(low) % 2), dtype=bool)
    dots[:, : len(low)] = is_drawn[::-1]
    cells = (dots.reshape(rows, 4, -1, 2) * _DOTS[None, :, None, :]).sum(axis=(1, 3))
    lines = ["".join(chr(0x2800 + int(cell)) for cell in row) for row in cells]
    labels = [""] * rows
    labels[0], labels[-1] = f"{np.nanmax(outline.high):.4g}", f"{np.nanmin(outline.low):.4g}"
    drawn = [f"{label:>11} ┤{line}" for label, line in zip(labels, lines, strict=True)]
    marks = _marks(evaluation, outline, cells.shape[1])
    first, last = str(curve.step[0]), str(curve.step[-1])
    axis = first + last.rjust(max(cells.shape[1] - len(first), len(last) + 1))
    return "\n".join([*drawn, *([" " * 13 + marks] if marks else []), " " * 12 + axis])


def _marks(evaluation: Evaluation, outline: _Outline, width: int) -> str:
    assert evaluation.curve is not None
    assert evaluation.findings is not None
    peaks = [spike.peak_step for spike in evaluation.findings.spikes]
    places = np.flatnonzero(np.isin(evaluation.curve.step, peaks))
    line = [" "] * width
    for column in outline.column_of[places] // 2:
        line[column] = "▲"
    return "".join(line).rstrip()
