"""Steps for a preprocessing_fn: numbers to sound sizes, texts to ids, with constants of the analysed split alone.

Each takes and gives dense tensors of shape (batch, d), NaN for missing, so that many columns can be joined to one wide
tensor (`each`): an analyzer per column costs Beam stages, which dominate on small data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.preprocessing.sketched import fitted_columns
from spikeguard.components.robust import MAD_TO_SD, NORMAL_QUARTILE

# Rarer categories share the ids that are out of vocabulary: an embedding row seen a handful of times learns noise.
MAX_CATEGORIES = 1000
# Rank error of the quantiles, as a share of all rows.
QUANTILE_ERROR = 1e-3

Spread = Literal["iqr", "mad"]


def number(column: Any) -> tf.Tensor:
    """A numeric column as dense float32 of shape (batch, d), NaN where a row has no finite value.

    Args:
      column: dense of shape (batch, ...), or sparse with at most one value per row.

    >>> number(tf.constant([[1], [2]])).numpy().ravel().tolist()
    [1.0, 2.0]
    """
    if isinstance(column, tf.SparseTensor):
        values = tf.cast(column.values, tf.float32)
        column = tft.sparse_tensor_to_dense_with_shape(
            tf.SparseTensor(column.indices, values, column.dense_shape), [None, 1], default_value=float("nan")
        )
    column = tf.cast(column, tf.float32)
    column = tf.where(tf.math.is_finite(column), column, float("nan"))
    return tf.reshape(column, [-1, math.prod(column.shape[1:])])


def fixed_length(column: Any, length: int) -> tf.Tensor:
    """Rows of several numbers as dense float32 of shape (batch, length): cut where longer, NaN where shorter.

    Args:
      column: sparse, ragged or dense, of shape (batch, any length).
      length: >= 1.

    >>> fixed_length(tf.ragged.constant([[1.0], [1.0, 2.0, 3.0]]), 2).numpy().tolist()
    [[1.0, nan], [1.0, 2.0]]
    """
    if length < 1:
        raise InvalidArgumentError("length", length, "be at least 1")
    if isinstance(column, tf.SparseTensor):
        column = tf.RaggedTensor.from_sparse(column)
    if not isinstance(column, tf.RaggedTensor):
        column = tf.RaggedTensor.from_tensor(tf.reshape(column, [tf.shape(column)[0], -1]))
    dense = tf.cast(column, tf.float32).to_tensor(default_value=float("nan"), shape=[None, length])
    return tf.where(tf.math.is_finite(dense), dense, float("nan"))


def each(scale: Callable[[tf.Tensor], tf.Tensor], columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Applies a step to all columns as one wide tensor.

    >>> doubled = each(lambda wide: 2 * wide, {"a": tf.ones([3, 1]), "b": tf.ones([3, 4])})
    >>> {name: column.shape.as_list() for name, column in doubled.items()}
    {'a': [3, 1], 'b': [3, 4]}
    """
    if not columns:
        return {}
    widths = [column.shape[1] for column in columns.values()]
    wide = scale(tf.concat(list(columns.values()), axis=1))
    return dict(zip(columns, tf.split(wide, widths, axis=1), strict=True))


def z_score(wide: tf.Tensor) -> tf.Tensor:
    """Minus the mean, over the standard deviation, of each column; NaN enters neither and stays NaN; a constant becomes 0."""
    return tft.scale_to_z_score(wide, elementwise=True)


def robust_scale(wide: tf.Tensor, spread: Spread = "iqr") -> tf.Tensor:
    """Minus the median, over a spread that outliers do not move, which is 1 for a normal distribution.

    Args:
      wide: shape (batch, d); NaN takes no part and stays NaN.
      spread: `iqr`, the interquartile range over 1.349, or `mad`, the median absolute deviation times 1.4826. A column whose spread is 0 is only centered.
    """
    if spread not in ("iqr", "mad"):
        raise InvalidArgumentError("spread", spread, "be 'iqr' or 'mad'")
    if spread == "iqr":
        cuts = tft.quantiles(wide, 4, QUANTILE_ERROR, reduce_instance_dims=False)
        median, width = cuts[:, 1], (cuts[:, 2] - cuts[:, 0]) / (2 * NORMAL_QUARTILE)
    else:
        fitted = fitted_columns(wide)
        median, width = fitted.median, fitted.mad * MAD_TO_SD
    return (wide - median) / tf.where(width > 0, width, 1.0)


def min_max(wide: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """From `low` at the least value of the analysed split to `high` at its largest; others go beyond, and are not clipped.

    Args:
      wide: shape (batch, d); NaN takes no part and stays NaN.
      low: becomes of the minimum, and of a constant.
      high: > low.
    """
    if not low < high:
        raise InvalidArgumentError("low", low, f"be less than high, {high}")
    is_missing = tf.math.is_nan(wide)
    # A NaN would hide its whole batch from the analyzers.
    least = tft.min(tf.where(is_missing, wide.dtype.max, wide), reduce_instance_dims=False)
    largest = tft.max(tf.where(is_missing, wide.dtype.min, wide), reduce_instance_dims=False)
    width = largest - least
    scaled = (wide - least) / tf.where(width > 0, width, 1.0)
    return low + (high - low) * scaled


def log1p(wide: tf.Tensor) -> tf.Tensor:
    """log(1 + x), for heavy upper tails, mirrored at 0: -log(1 - x) below it. NaN stays NaN.

    >>> [round(value, 3) for value in log1p(tf.constant([[0.0, 9.0, -9.0]])).numpy().ravel().tolist()]
    [0.0, 2.303, -2.303]
    """
    return tf.sign(wide) * tf.math.log1p(tf.abs(wide))


def missing(wide: tf.Tensor) -> tf.Tensor:
    """1 where a value is missing; 0 throughout a column that is never missing in the analysed split: its weights would be untrained."""
    is_missing = tf.cast(tf.math.is_nan(wide), tf.float32)
    return is_missing * tft.max(is_missing, reduce_instance_dims=False)


def fill(wide: tf.Tensor, value: float = 0.0) -> tf.Tensor:
    """The value in place of NaN: 0 after `z_score` or `robust_scale` is the mean or the median.

    >>> fill(tf.constant([[float("nan")], [3.0]])).numpy().ravel().tolist()
    [0.0, 3.0]
    """
    return tf.where(tf.math.is_nan(wide), value, wide)


def vocabulary_id(column: Any, max_categories: int = MAX_CATEGORIES, oov_buckets: int = 1) -> tf.Tensor:
    """Ids by falling frequency in the analysed split; what is not among these is hashed into ids after them.

    Args:
      column: text or whole numbers: dense of shape (batch, ...), or sparse with at most one value per row, where a gap is a
        category of its own.
      max_categories: ids besides those out of vocabulary; >= 1.
      oov_buckets: ids for all other values; >= 1.
    """
    for name, given in (("max_categories", max_categories), ("oov_buckets", oov_buckets)):
        if given < 1:
            raise InvalidArgumentError(name, given, "be at least 1")
    if isinstance(column, tf.SparseTensor):
        gap = "" if column.dtype == tf.string else -1
        column = tft.sparse_tensor_to_dense_with_shape(column, [None, 1], default_value=gap)
    return tft.compute_and_apply_vocabulary(column, top_k=max_categories, num_oov_buckets=oov_buckets)
