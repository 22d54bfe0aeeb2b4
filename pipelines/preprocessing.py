"""The default preprocessing_fn: train-only z-scores and vocabularies, inside the transform graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID, OUTLIER_FLAG, OUTLIER_SCORE
from spikeguard.components.preprocessing.example_ids import id_of_row
from spikeguard.components.preprocessing.winsorizing import winsorize

# Rarer categories share one out-of-vocabulary id: an embedding row seen a handful of times learns noise.
MAX_CATEGORIES = 1000


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Makes every column a dense number or a vocabulary id.

    Numbers become z-scores; a missing one becomes 0, the train mean, and its column gets a companion `<name>_missing`.
    Text and the columns named categorical become ids by train frequency, with one id for all others.

    Args:
      inputs: raw columns: dense of shape (batch, ...), or sparse with at most one value per row.
      custom_config: `label`; `task`, regression or classification; `normalize`, False to pass raw numbers on with 0 for
        the missing; `categorical`, names of number columns that are categories; `winsorize`, True to clip numbers to the
        fences of train; `weight`, name of a column with a weight per row, None for none.

    Returns:
      One dense tensor per feature, the label under its own name (float32, or int64 class ids from 0), the weight under its
      own (1 where a row has none), and `example_id`. What OutlierDetector says of a row is no feature.
    """
    label, weight = custom_config["label"], custom_config.get("weight")
    added = {OUTLIER_SCORE, OUTLIER_FLAG, weight} - {label}
    inputs = {name: column for name, column in inputs.items() if name not in added or name == weight}
    features = {name: column for name, column in inputs.items() if name == label or name not in added | {EXAMPLE_ID}}
    outputs = {EXAMPLE_ID: id_of_row({name: column for name, column in inputs.items() if name not in (label, weight)})}
    if weight in inputs:
        outputs[weight] = _fill(_number(inputs[weight]), 1.0)
    numbers: dict[str, tf.Tensor] = {}
    for name, column in features.items():
        if name == label:
            outputs[name] = _class_id(column) if custom_config["task"] == "classification" else _number(column)
        elif column.dtype == tf.string or name in custom_config["categorical"]:
            outputs[name] = _vocabulary_id(column)
        else:
            numbers[name] = _number(column)
    if custom_config.get("winsorize"):
        numbers = _each(winsorize, numbers)
    if custom_config["normalize"]:
        optional = {name: numbers[name] for name in numbers if isinstance(inputs[name], tf.SparseTensor)}
        outputs |= {f"{name}_missing": column for name, column in _each(_missing, optional).items()}
        numbers = _each(_z_score, numbers)
    return outputs | {name: _fill(column, 0.0) for name, column in numbers.items()}


def _each(scale: Callable[[tf.Tensor], tf.Tensor], columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Applies `scale` to all columns as one wide tensor: an analyzer per column costs Beam stages, which dominate on small data."""
    if not columns:
        return {}
    widths = [column.shape[1] for column in columns.values()]
    wide = scale(tf.concat(list(columns.values()), axis=1))
    return dict(zip(columns, tf.split(wide, widths, axis=1), strict=True))


def _z_score(wide: tf.Tensor) -> tf.Tensor:
    """Minus the train mean, over the train standard deviation; NaN enters neither and stays NaN."""
    return tft.scale_to_z_score(wide, elementwise=True)


def _missing(wide: tf.Tensor) -> tf.Tensor:
    """1 where a value is missing; 0 throughout a column that is never missing in train, whose weights would be untrained."""
    is_missing = tf.cast(tf.math.is_nan(wide), tf.float32)
    return is_missing * tft.max(is_missing, reduce_instance_dims=False)


def _number(column: Any) -> tf.Tensor:
    """The column as dense float32 of shape (batch, values), NaN where a row has no finite value."""
    if isinstance(column, tf.SparseTensor):
        values = tf.cast(column.values, tf.float32)
        column = tft.sparse_tensor_to_dense_with_shape(
            tf.SparseTensor(column.indices, values, column.dense_shape), [None, 1], default_value=float("nan")
        )
    column = tf.cast(column, tf.float32)
    column = tf.where(tf.math.is_finite(column), column, float("nan"))
    return tf.reshape(column, [-1, math.prod(column.shape[1:])])


def _fill(column: tf.Tensor, value: float) -> tf.Tensor:
    return tf.where(tf.math.is_nan(column), value, column)


def _vocabulary_id(column: Any) -> tf.Tensor:
    if isinstance(column, tf.SparseTensor):
        missing = "" if column.dtype == tf.string else -1
        column = tft.sparse_tensor_to_dense_with_shape(column, [None, 1], default_value=missing)
    return tft.compute_and_apply_vocabulary(column, top_k=MAX_CATEGORIES, num_oov_buckets=1)


def _class_id(column: Any) -> tf.Tensor:
    """Text classes by falling train frequency, whole numbers from the smallest; -1 for missing or unknown ones."""
    if column.dtype == tf.string:
        if isinstance(column, tf.SparseTensor):
            column = tft.sparse_tensor_to_dense_with_shape(column, [None, 1], default_value="")
        return tft.compute_and_apply_vocabulary(column, default_value=-1)
    values = column.values if isinstance(column, tf.SparseTensor) else column
    smallest = tft.min(tf.cast(values, tf.int64))
    if isinstance(column, tf.SparseTensor):
        ids = tf.SparseTensor(column.indices, tf.cast(column.values, tf.int64) - smallest, column.dense_shape)
        return tft.sparse_tensor_to_dense_with_shape(ids, [None, 1], default_value=-1)
    return tf.cast(column, tf.int64) - smallest
