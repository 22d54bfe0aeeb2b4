"""Winsorizing inside the transform graph: serving clips exactly as training did."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.preprocessing.sketched import fitted_columns


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

    In TFX 1.16's Transform no second analyzer can be fitted on the result, with the Beam of today: give the limits of
    `read_training_statistics` then, or use `winsorized_z_score`.

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
    fitted = fitted_columns(tf.reshape(column, [-1, width]), name)
    low = tf.reshape(fitted.lower, shape) if lower is None else lower
    high = tf.reshape(fitted.upper, shape) if upper is None else upper
    return tf.clip_by_value(tf.cast(column, tf.float32), low, high)


def winsorized_z_score(table: tf.Tensor, name: str | None = None) -> tf.Tensor:
    """Columns clipped as by `winsorize`, minus their mean, over their standard deviation, both of the clipped values.

    Of one analyzer, where `scale_to_z_score(winsorize(x))` has one after the other: TFX 1.16's Transform cannot run that with
    the Beam of today. Mean and deviation come from the sketch that the fences come from, up to its rank error of 0.2 %.

    Args:
      table: dense numbers, shape (batch, width); NaN does not count and stays.
      name: name of the analyzer.

    Returns:
      float32, the same shape. A column without spread is 0; one without a finite value in the analysed split is as it was.
    """
    fitted = fitted_columns(table, name)
    centered = tf.clip_by_value(tf.cast(table, tf.float32), fitted.lower, fitted.upper) - fitted.mean
    return centered / tf.where(fitted.deviation > 0, fitted.deviation, 1.0)
