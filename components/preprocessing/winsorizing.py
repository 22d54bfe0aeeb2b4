"""Winsorizing inside the transform graph: serving clips exactly as training did."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.robust_statistics import fences
from spikeguard.components.training_statistics.summaries import NumberSummary


def winsorize(
    column: Any,
    lower: float | None = None,
    upper: float | None = None,
    elementwise: bool = True,
    name: str | None = None,
) -> Any:
    """Clips numbers to the range of the analysed split's ordinary values.

    The range is that of TrainingStatistics (`Fences.rule` tells how it is drawn), fitted by tf.Transform on the split that
    it analyses and kept as two constants in the graph.

    Args:
      column: numbers, dense of shape (batch, ...) or sparse. NaN and gaps stay what they are and do not count; infinite
        values do not count either and are clipped.
      lower: the least value to be left, in the column's unit; None: the lower fence, -inf: none.
      upper: the same for the largest.
      elementwise: whether each position of a dense column has fences of its own, as each column of a table that was put
        together; else, and for a sparse column, all values share theirs.
      name: name of the analyzer.

    Returns:
      float32, of the same kind and shape. A position without a finite value in the analysed split is passed on as it is.

    Raises:
      InvalidArgumentError: `lower` is above `upper` or one is NaN, or the column is text.

    >>> import tensorflow as tf
    >>> winsorize(tf.constant([[-5.0], [2.0], [float("nan")]]), lower=0.0, upper=1.0).numpy().ravel().tolist()
    [0.0, 1.0, nan]
    """
    if not (column.dtype.is_floating or column.dtype.is_integer):
        raise InvalidArgumentError("column", column.dtype.name, "hold numbers", "Winsorize numeric columns alone.")
    for side, limit in (("lower", lower), ("upper", upper)):
        if limit is not None and math.isnan(limit):
            raise InvalidArgumentError(side, limit, "be a number")
    if lower is not None and upper is not None and lower > upper:
        raise InvalidArgumentError("lower", lower, f"be at most upper, {upper}")
    if isinstance(column, tf.SparseTensor):
        values = winsorize(column.values, lower, upper, elementwise=False, name=name)
        return tf.SparseTensor(column.indices, values, column.dense_shape)
    if lower is not None and upper is not None:
        return tf.clip_by_value(tf.cast(column, tf.float32), lower, upper)
    shape = list(column.shape[1:]) if elementwise else []
    width = math.prod(shape)
    limits = _fitted_fences(tf.reshape(column, [-1, width]), width, name)
    low = tf.reshape(limits[0], shape) if lower is None else lower
    high = tf.reshape(limits[1], shape) if upper is None else upper
    return tf.clip_by_value(tf.cast(column, tf.float32), low, high)


def _fitted_fences(table: tf.Tensor, width: int, name: str | None) -> tf.Tensor:
    """Lower and upper fence of each of the columns of a table of shape (n, width). Shape (2, width), constant once fitted."""
    (limits,) = tft.experimental.ptransform_analyzer(
        inputs=[tf.cast(table, tf.float64)],
        ptransform=_FitFences(width),
        output_dtypes=[tf.float32],
        output_shapes=[[2, width]],
        name=name,
    )
    return limits


class _FitFences(beam.PTransform):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def expand(self, batches: beam.PCollection[tuple[Floats]]) -> beam.PCollection[Floats]:
        return batches | "Fences" >> beam.CombineGlobally(_Fences(self._width))


class _Fences(beam.CombineFn):  # type: ignore[misc]
    """Fences of each column, from the sketches that TrainingStatistics has of a scalar."""

    def __init__(self, width: int) -> None:
        self._width = width

    def create_accumulator(self) -> list[NumberSummary]:
        return [NumberSummary.empty(1) for _ in range(self._width)]

    def add_input(self, accumulator: list[NumberSummary], batch: tuple[Floats]) -> list[NumberSummary]:
        (table,) = batch
        for number, summary in enumerate(accumulator):
            summary.add(table[:, number : number + 1], None)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[NumberSummary]]) -> list[NumberSummary]:
        first, *others = accumulators
        for other in others:
            for own, summary in zip(first, other, strict=True):
                own.merge(summary)
        return first

    def extract_output(self, accumulator: list[NumberSummary]) -> Floats:
        limits = np.array([[-np.inf, np.inf]] * self._width)
        for number, summary in enumerate(accumulator):
            (grid,) = summary.grids()
            if grid is not None:
                fence = fences(grid)
                limits[number] = fence.lower, fence.upper
        # What float32 cannot hold has become infinite, and clips nothing.
        with np.errstate(over="ignore"):
            return limits.T.astype(np.float32)
