"""Hands single batches to a train function, in the form of the dataset that it was traced with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


class BatchFeed:
    """An iterator over the batch that was put last.

    To Keras' train function it is like the iterator of the training, so that the trace of the training serves it: to trace a
    guarded step, or but to make its graph ready for another caller, takes seconds.

    >>> feed = BatchFeed((tf.TensorSpec([None, 1]), tf.TensorSpec([None])))
    >>> feed.put((tf.ones([2, 1]), tf.constant([3.0, 4.0])))
    >>> feed.iterator.get_next()[1].numpy().tolist()
    [3.0, 4.0]
    """

    def __init__(self, element: Any) -> None:
        """Makes the iterator.

        Args:
          element: structure of tf.TensorSpec, as the dataset of the training has it.
        """
        self._element, self._specs = element, keras.tree.flatten(element)
        # tf.data reads on the host.
        with tf.device("CPU:0"):
            self._leaves = [
                tf.Variable(
                    np.zeros([0, *spec.shape[1:]], spec.dtype.as_numpy_dtype),
                    shape=[None, *spec.shape[1:]],
                    trainable=False,
                )
                for spec in self._specs
            ]
        options = tf.data.Options()
        # A batch that was fetched ahead would be an earlier one.
        options.experimental_optimization.inject_prefetch = False
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        batches = (
            tf.data.Dataset.range(np.iinfo(np.int64).max)
            .map(tf.autograph.experimental.do_not_convert(self._batch))
            .with_options(options)
        )
        self.iterator = iter(batches)

    def fits(self, rows: int) -> bool:
        """Whether a batch of as many rows has the form."""
        return all(spec.shape[0] in (None, rows) for spec in self._specs)

    def put(self, data: Any) -> None:
        """Sets the batch, of the same structure, that the iterator gives from now on."""
        for variable, value in zip(self._leaves, keras.tree.flatten(data), strict=True):
            variable.assign(value)

    def _batch(self, _: tf.Tensor) -> Any:
        leaves = [
            tf.ensure_shape(leaf.value(), spec.shape) for leaf, spec in zip(self._leaves, self._specs, strict=True)
        ]
        return keras.tree.pack_sequence_as(self._element, leaves)
