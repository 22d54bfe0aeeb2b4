"""The default preprocessing_fn: train-only z-scores and vocabularies, inside the transform graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID, OUTLIER_FLAG, OUTLIER_SCORE
from spikeguard.components.preprocessing import scaling
from spikeguard.components.preprocessing.example_ids import id_of_row
from spikeguard.components.preprocessing.winsorizing import winsorize


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
        outputs[weight] = scaling.fill(scaling.number(inputs[weight]), 1.0)
    numbers: dict[str, tf.Tensor] = {}
    for name, column in features.items():
        if name == label:
            outputs[name] = _class_id(column) if custom_config["task"] == "classification" else scaling.number(column)
        elif column.dtype == tf.string or name in custom_config["categorical"]:
            outputs[name] = scaling.vocabulary_id(column)
        else:
            numbers[name] = scaling.number(column)
    if custom_config.get("winsorize"):
        numbers = scaling.each(winsorize, numbers)
    if custom_config["normalize"]:
        optional = {name: numbers[name] for name in numbers if isinstance(inputs[name], tf.SparseTensor)}
        outputs |= {f"{name}_missing": column for name, column in scaling.each(scaling.missing, optional).items()}
        numbers = scaling.each(scaling.z_score, numbers)
    return outputs | {name: scaling.fill(column) for name, column in numbers.items()}


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
