"""The ids of raw rows."""

from __future__ import annotations

import tensorflow as tf

from spikeguard.components.preprocessing.example_ids import example_id_of_serialized
from tests.components.outlier_detector.artifacts import serialized

DTYPES = {"a": tf.float32, "b": tf.int64, "c": tf.string}
SHORT = [
    serialized(row)
    for row in (
        {"a": 1.0, "b": 2, "c": "x"},
        {"a": 1.0, "b": [], "c": "x"},
        {"a": [], "b": 2, "c": []},
        {"c": "x"},
        {"a": 1.0, "b": 2, "c": "x", "y": 3.0},
    )
]
LONG = [serialized({"a": [1.0, 2.0], "b": 2, "c": "x"}), serialized({"a": 1.0, "b": [1, 2], "c": ["x", "y"]})]


def test_id_is_the_same_when_other_rows_of_the_batch_have_several_values() -> None:
    short = example_id_of_serialized(SHORT, DTYPES).numpy().tolist()
    both = example_id_of_serialized([*LONG, *SHORT], DTYPES).numpy().tolist()
    assert both[len(LONG) :] == short
    # The last row differs from the first in a column that takes no part.
    assert len(set(both)) == len(both) - 1
    assert short[0] == short[-1]


def test_id_is_the_same_in_a_graph() -> None:
    in_graph = tf.function(lambda rows: example_id_of_serialized(rows, DTYPES))
    for rows in (SHORT, LONG):
        assert in_graph(tf.constant(rows)).numpy().tolist() == example_id_of_serialized(rows, DTYPES).numpy().tolist()


def test_ids_of_no_rows_are_none() -> None:
    assert example_id_of_serialized(tf.constant([], tf.string), DTYPES).shape == (0,)
