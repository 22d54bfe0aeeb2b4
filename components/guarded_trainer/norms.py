"""Norms in as few operations as there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def half_squares(tensors: Sequence[Any]) -> tf.Tensor:
    """Half the sum of the squares of all elements, float32; of slices those that are there, like `tf.linalg.global_norm`.

    One operation per tensor, and one for their sum.
    """
    dense = [tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor for tensor in tensors]
    squares = [tf.nn.l2_loss(tf.cast(tensor, tf.float32)) for tensor in dense]
    return tf.add_n(squares) if squares else tf.constant(0.0)
