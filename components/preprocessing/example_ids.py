"""Names for rows that survive shuffling, the same in the transform graph and in components that read the raw rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.errors import InvalidDataError

_SEPARATOR = "\x1f"
_ARROW_TYPES = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.large_binary()}


# As `_as_text` writes `_missing`.
_MISSING_TEXTS = {"float32": str(np.float32(-1).view(np.int32)).encode(), "int64": b"-1", "string": b""}


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
    return _hashed(tf.strings.join(parts, separator=_SEPARATOR))


def example_id_of_batch(batch: pa.RecordBatch, dtypes: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """The same ids from decoded raw rows, without a transform graph.

    It also names rows that no graph would take, such as those with more values than the schema allows.

    Args:
      batch: a list of values per row and column; a column that is not there is missing in all rows.
      dtypes: of the columns that take part, by name: all of the schema but the label; `float32`, `int64` or `string`.

    Returns:
      >= 0, of shape (rows,).

    Raises:
      InvalidDataError: a column has values of another type.

    >>> column = pa.array([[1.0], [2.0], [1.0]], pa.large_list(pa.float32()))
    >>> batch = pa.RecordBatch.from_arrays([column], ["a"])
    >>> ids = example_id_of_batch(batch, {"a": "float32"})
    >>> bool(ids[0] == ids[2]), bool(ids[0] == ids[1])
    (True, False)
    """
    parts = [_row_texts(batch, name, dtypes[name]) for name in sorted(dtypes)]
    joined = pc.binary_join_element_wise(*parts, pa.scalar(_SEPARATOR.encode(), pa.large_binary()))
    texts = tf.constant(joined.to_numpy(zero_copy_only=False), tf.string, (batch.num_rows,))
    ids: npt.NDArray[np.int64] = _hashed(texts).numpy()
    return ids


def _row_texts(batch: pa.RecordBatch, name: str, dtype: str) -> pa.Array:
    """The values of each row as one text, joined by commas; that of a missing value where there is none. Shape (rows,)."""
    default = pa.scalar(_MISSING_TEXTS[dtype], pa.large_binary())
    index = batch.schema.get_field_index(name)
    column = batch.column(index) if index >= 0 else None
    if column is None or pa.types.is_null(column.type):
        return pa.array([default.as_py()] * batch.num_rows, pa.large_binary())
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    texts = _texts_of(column.flatten(), name, dtype)
    if lengths.max(initial=0) > 1:
        ends = np.concatenate([[0], np.cumsum(lengths)])
        texts = pc.binary_join(pa.LargeListArray.from_arrays(ends, texts), pa.scalar(b",", pa.large_binary()))
        return pc.if_else(pa.array(lengths == 0), default, texts)
    if len(texts) == batch.num_rows:
        return texts
    # Nothing to join, which takes longer.
    places = pa.array(np.cumsum(lengths) - 1, mask=lengths == 0)
    return pc.fill_null(texts.take(places), default)


def _texts_of(values: pa.Array, name: str, dtype: str) -> pa.Array:
    if values.type != _ARROW_TYPES[dtype] and len(values):
        raise InvalidDataError(
            f"feature {name!r}",
            f"is not of the schema's type ({dtype} there, {values.type} here)",
            "Correct the rows or the schema.",
        )
    if dtype == "float32":
        values = values.view(pa.int32())  # As text, close numbers would be equal.
    return values if dtype == "string" else values.cast(pa.large_string()).cast(pa.large_binary())


def _missing(dtype: tf.DType) -> str | int:
    return "" if dtype == tf.string else -1


def _as_text(values: tf.Tensor) -> tf.Tensor:
    if values.dtype == tf.float32:
        values = tf.bitcast(values, tf.int32)  # As text, close numbers would be equal.
    return values if values.dtype == tf.string else tf.strings.as_string(values)


def _hashed(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(texts, 2**63 - 1)
