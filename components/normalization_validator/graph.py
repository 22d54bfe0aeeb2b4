"""A transform graph, called from outside: raw rows in, numbers out, with no knowledge of its preprocessing_fn."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_curve import Floats

Raw = dict[str, Any]
_RERUN = "Give the transform_graph that Transform made of these examples."


@dataclasses.dataclass(frozen=True)
class Sources:
    """Which raw features an output depends on; found by changing one at a time."""

    features: tuple[str, ...]

    @property
    def only(self) -> str | None:
        """The feature, where it is one."""
        return self.features[0] if len(self.features) == 1 else None


class ProbedGraph:
    """A TransformGraph artifact.

    Attributes:
      numbers: raw numeric features, sorted.
      outputs: transformed numeric features, sorted: floats, and whole numbers that are no categories.

    Raises:
      InvalidDataError: the folder holds no graph, or a part of it, such as a vocabulary, is missing.
    """

    def __init__(self, folder: str | os.PathLike[str], ignored: Sequence[str] = ()) -> None:
        """Loads a graph.

        Args:
          folder: the artifact's `uri`.
          ignored: outputs that are no features, such as ids.
        """
        try:
            self._output = tft.TFTransformOutput(os.fspath(folder))
            self.spec = self._output.raw_feature_spec()
            self._layer = self._output.transform_features_layer()
            transformed = self._output.transformed_feature_spec()
            schema = self._output.transformed_metadata.schema
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidDataError(
                str(folder), f"cannot be loaded as a transform graph ({type(error).__name__}: {reason})", _RERUN
            ) from error
        categories = {feature.name for feature in schema.feature if feature.int_domain.is_categorical}
        self.numbers = sorted(name for name, feature in self.spec.items() if feature.dtype != tf.string)
        self.outputs = sorted(
            name
            for name, feature in transformed.items()
            if feature.dtype != tf.string and name not in categories and name not in ignored
        )
        self._transformed_spec = {name: transformed[name] for name in self.outputs}
        # Traced once for rows of any number, and inlined into the pass over all rows: the layer by itself costs a tenth of a
        # second a call, as it tries the signature that it does not have first.
        # Without AutoGraph, which would rewrite the source of Keras' layers for seconds, and finds nothing to do there.
        self._outputs = tf.function(self._transformed, input_signature=[self._raw_signature()], autograph=False)
        self.measure = tf.function(self._measure, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)

    def parse(self, serialized: Sequence[bytes]) -> Raw:
        """The raw features of serialized tf.Examples, as the graph takes them."""
        return dict(tf.io.parse_example(tf.constant(list(serialized), tf.string), self.spec))

    def apply(self, raw: Raw) -> dict[str, Floats]:
        """The numeric outputs of each row as matrices; see `matrix`."""
        return {name: matrix(values) for name, values in self._outputs(dict(raw)).items()}

    def parse_transformed(self, serialized: tf.Tensor) -> dict[str, Any]:
        """The numeric outputs that were materialized."""
        return dict(tf.io.parse_example(serialized, self._transformed_spec)) if self._transformed_spec else {}

    def _measure(self, serialized: tf.Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        raw = tf.io.parse_example(serialized, self.spec)
        return {name: raw[name] for name in self.numbers}, self._outputs(dict(raw))

    def _transformed(self, raw: Raw) -> dict[str, Any]:
        outputs = self._layer(dict(raw))
        # What is not returned, such as vocabularies and ids, is not computed either.
        return {name: outputs[name] for name in self.outputs if name in outputs}

    def _raw_signature(self) -> dict[str, tf.TypeSpec]:
        parse = tf.function(
            lambda serialized: tf.io.parse_example(serialized, self.spec),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        columns = dict(parse.get_concrete_function().structured_outputs)
        return {name: tf.type_spec_from_value(column) for name, column in columns.items()}


@functools.lru_cache(maxsize=1)
def loaded(folder: str, ignored: tuple[str, ...]) -> ProbedGraph:
    """The graph, loaded once in each process: that takes longer than to transform some thousand rows."""
    return ProbedGraph(folder, ignored)


def sources_of(graph: ProbedGraph, raw: Raw) -> dict[str, Sources]:
    """The raw features that each output depends on.

    Args:
      graph: to be probed.
      raw: a sample of rows.
    """
    found: dict[str, list[str]] = {name: [] for name in graph.outputs}
    base = graph.apply(raw)
    for feature in sorted(graph.spec):
        changed = graph.apply({**raw, feature: changed_values(raw[feature])})
        for name, values in changed.items():
            if values.shape != base[name].shape or not np.array_equal(values, base[name], equal_nan=True):
                found[name].append(feature)
    return {name: Sources(tuple(features)) for name, features in found.items()}


def changed_values(column: Any) -> Any:
    """A column with other values and other gaps: those of the neighbouring row, some of them shifted."""
    if isinstance(column, tf.SparseTensor):
        kept = tf.range(tf.shape(column.values)[0]) % 4 != 1
        return tf.sparse.retain(tf.SparseTensor(column.indices, _shifted(column.values), column.dense_shape), kept)
    if isinstance(column, tf.RaggedTensor):
        return column.with_flat_values(_shifted(column.flat_values))
    return _shifted(column)


def _shifted(values: tf.Tensor) -> tf.Tensor:
    rolled = tf.roll(values, 1, axis=0)
    if values.dtype == tf.string:
        return rolled
    is_shifted = tf.reshape(tf.range(tf.shape(values)[0]) % 2 == 0, [-1] + [1] * (len(values.shape) - 1))
    return tf.where(is_shifted, rolled + tf.ones_like(rolled), rolled)


def with_values(column: Any, values: Sequence[float]) -> Any:
    """As many rows as values, each filled with one of them, in the form of the column."""
    dtype = column.dtype
    numbers = tf.cast(tf.constant(list(values), tf.float64), dtype)
    rows = len(values)
    if isinstance(column, tf.SparseTensor):
        indices = tf.stack([tf.range(rows, dtype=tf.int64), tf.zeros(rows, tf.int64)], axis=1)
        return tf.SparseTensor(indices, numbers, [rows, 1])
    if isinstance(column, tf.RaggedTensor):
        return tf.RaggedTensor.from_row_lengths(numbers, tf.ones(rows, column.row_splits.dtype))
    shape = [rows, *column.shape[1:]]
    return tf.broadcast_to(tf.reshape(numbers, [rows] + [1] * (len(shape) - 1)), shape)


def rows_of(column: Any, places: Sequence[int]) -> Any:
    """Some rows of a column, in the given order, repeats allowed."""
    if isinstance(column, tf.SparseTensor):
        return tf.sparse.concat(0, [tf.sparse.slice(column, [p, 0], [1, column.dense_shape[1]]) for p in places])
    return tf.gather(column, list(places))


def matrix(tensor: Any) -> Floats:
    """A tensor as float64 of shape (rows, d), NaN for missing; of shape (values, 1) where rows hold several in a sparse form."""
    if isinstance(tensor, tf.SparseTensor):
        rows, places, values = int(tensor.dense_shape[0]), tensor.indices.numpy()[:, 0], tensor.values.numpy()
    elif isinstance(tensor, tf.RaggedTensor):
        rows, places = int(tensor.nrows()), tensor.value_rowids().numpy()
        values = tensor.flat_values.numpy()
        if len(values) != len(places):
            return np.asarray(values, dtype=np.float64).reshape(-1, 1)
    else:
        array = np.asarray(tensor, dtype=np.float64)
        return array.reshape(len(array), -1) if array.size else np.zeros((len(array), max(1, *array.shape[1:], 1)))
    if len(places) and np.bincount(places).max() > 1:
        return np.asarray(values, dtype=np.float64).reshape(-1, 1)
    result = np.full((rows, 1), np.nan)
    result[places, 0] = values
    return result


def present(outputs: Floats, raw: Mapping[str, Floats], source: str | None) -> Floats:
    """The outputs with NaN where their raw value is missing, where each belongs to one raw value."""
    if source is None or source not in raw:
        return outputs
    values = raw[source]
    if len(values) != len(outputs) or values.shape[1] not in (1, outputs.shape[1]):
        return outputs
    is_known = np.isfinite(values)
    # The same object where nothing is missing, so that it need not be summed up twice.
    return outputs if is_known.all() else np.where(is_known, outputs, np.nan)
