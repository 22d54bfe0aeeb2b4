"""The ids of raw rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tfx_bsl.coders import example_coder

from spikeguard.components.preprocessing.example_ids import example_id, example_id_of_batch
from tests.components.outlier_detector.artifacts import serialized

DTYPES = {"a": "float32", "b": "int64", "c": "string"}
SHORT: list[dict[str, Any]] = [
    {"a": 1.0, "b": 2, "c": "x"},
    {"a": 1.0, "b": [], "c": "x"},
    {"a": [], "b": 2, "c": []},
    {"c": "x"},
    {"a": 1.0, "b": 2, "c": "x", "y": 3.0},
    {"a": -0.0, "b": -(2**63), "c": "緑"},
    {"a": float("nan"), "b": -1, "c": ""},
    {"a": 1.0000001, "b": 2, "c": "x"},
]
LONG = [{"a": [1.0, 2.0], "b": 2, "c": "x"}, {"a": 1.0, "b": [1, 2], "c": ["x", "y"]}]


def _ids(rows: list[dict[str, Any]]) -> list[int]:
    decoder = example_coder.ExamplesToRecordBatchDecoder(None)
    return example_id_of_batch(decoder.DecodeBatch([serialized(row) for row in rows]), DTYPES).tolist()


def test_id_is_the_same_when_other_rows_of_the_batch_have_several_values() -> None:
    short, both = _ids(SHORT), _ids([*LONG, *SHORT])
    assert both[len(LONG) :] == short
    # The fifth row differs from the first in a column that takes no part.
    assert len(set(both)) == len(both) - 1
    assert short[0] == short[4]


def test_id_is_that_of_the_transform_graph() -> None:
    spec = {name: tf.io.VarLenFeature(tf.as_dtype(dtype)) for name, dtype in DTYPES.items()}

    @tf.function
    def in_graph(rows: tf.Tensor) -> tf.Tensor:
        return example_id(tf.io.parse_example(rows, spec))

    assert in_graph(tf.constant([serialized(row) for row in SHORT])).numpy().tolist() == _ids(SHORT)
    # A column that no row of the batch has.
    assert in_graph(tf.constant([serialized({"b": 5})])).numpy().tolist() == _ids([{"b": 5}])


def test_id_is_that_of_dense_vectors_in_the_transform_graph() -> None:
    rows = [{"a": [1.0, 2.0], "b": [3, 4], "c": ["x", "緑"]}, {"a": [5.0, -1.0], "b": [0, 1], "c": ["", "y"]}]
    dense = example_id({name: tf.constant([row[name] for row in rows]) for name in DTYPES})
    assert dense.numpy().tolist() == _ids(rows)


def test_ids_of_no_rows_are_none() -> None:
    empty = example_coder.ExamplesToRecordBatchDecoder(None).DecodeBatch([serialized(row) for row in SHORT])[:0]
    np.testing.assert_array_equal(example_id_of_batch(empty, DTYPES), np.empty(0, np.int64))
