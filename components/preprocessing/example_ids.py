"""Names for rows that survive shuffling, the same in the transform graph and in components that read the raw rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID


def id_of_row(inputs: Mapping[str, Any]) -> tf.Tensor:
    """The ids that the data carry, or else hashes.

    Args:
      inputs: raw columns without the label: dense of shape (batch, ...), or sparse with at most one value per row. An
        int64 column `example_id` that is >= 0 is the id of its row.

    Returns:
      int64, >= 0, of shape (batch,).
    """
    given = inputs.get(EXAMPLE_ID)
    if given is None or given.dtype != tf.int64:
        return example_id(inputs)
    if isinstance(given, tf.Tensor):
        return tf.reshape(given, [-1])
    given = tf.reshape(tft.sparse_tensor_to_dense_with_shape(given, [None, 1], default_value=-1), [-1])
    # Rows that never went through OutlierDetector, as at serving, have none.
    hashed = example_id({name: column for name, column in inputs.items() if name != EXAMPLE_ID})
    return tf.where(given >= 0, given, hashed)


def example_id(inputs: Mapping[str, Any]) -> tf.Tensor:
    """A name for each row that survives shuffling: a 64-bit hash of its values. Rows that are equal share it.

    Args:
      inputs: raw columns: dense of shape (batch, ...), or sparse with at most one value per row.

    Returns:
      int64, >= 0, of shape (batch,).

    >>> import tensorflow as tf
    >>> ids = example_id({"a": tf.constant([1.0, 2.0, 1.0]), "b": tf.constant(["x", "x", "x"])}).numpy()
    >>> bool(ids[0] == ids[2]), bool(ids[0] == ids[1])
    (True, False)
    """
    parts = []
    for name in sorted(inputs):
        column = inputs[name]
        if isinstance(column, tf.SparseTensor):
            column = tft.sparse_tensor_to_dense_with_shape(column, [None, 1], default_value=_missing(column.dtype))
        column = _as_text(column)
        parts.append(tf.strings.reduce_join(tf.reshape(column, [tf.shape(column)[0], -1]), axis=1, separator=","))
    return _hashed(parts)


def example_id_of_serialized(serialized: Any, dtypes: Mapping[str, tf.DType]) -> tf.Tensor:
    """The same ids from serialized raw tf.Examples, without a transform graph.

    It also names rows that no graph would take, such as those with more values than the schema allows.

    Args:
      serialized: tf.Examples, shape (batch,).
      dtypes: of the columns that take part, by name: all of the schema but the label.

    Returns:
      int64, >= 0, of shape (batch,).
    """
    spec = {name: tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}
    columns = tf.io.parse_example(serialized, spec)
    parts = []
    for name in sorted(columns):
        parts.append(_row_texts(columns[name]))
    return _hashed(parts)


def _row_texts(column: tf.RaggedTensor) -> tf.Tensor:
    """The values of each row as one text, joined by commas; that of a missing value where there is none. Shape (batch,)."""
    texts, lengths = _as_text(column.flat_values), column.row_lengths()
    default = _as_text(tf.constant([_missing(column.dtype)], column.dtype))
    if tf.executing_eagerly() and not tf.reduce_any(lengths > 1):
        # Nothing to join, which takes several times as long.
        places = tf.where(lengths > 0, column.row_starts(), tf.size(texts, tf.int64))
        return tf.gather(tf.concat([texts, default], 0), places)
    rows = tf.strings.reduce_join(column.with_flat_values(texts), axis=1, separator=",")
    return tf.where(lengths == 0, default, rows)


def _missing(dtype: tf.DType) -> str | int:
    return "" if dtype == tf.string else -1


def _as_text(values: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.float32:
        values = tf.bitcast(values, tf.int32)  # As text, close numbers would be equal.
    return values if values.dtype == tf.string else tf.strings.as_string(values)


def _hashed(parts: list[tf.Tensor]) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(tf.strings.join(parts, separator="\x1f"), 2**63 - 1)
