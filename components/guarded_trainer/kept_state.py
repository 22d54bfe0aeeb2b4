"""Copies of variables that cost a training step little: a step pays for each variable that it could reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class KeptState:
    """A copy of what variables hold, in one flat variable per dtype.

    Attributes:
      variables: what is copied, in the order given.
      copies: the flat variables; they hold nothing of use before the first `keep`.

    >>> weights = [tf.Variable([[1.0, 2.0]]), tf.Variable(3.0)]
    >>> state = KeptState(weights, lambda shape, dtype: tf.Variable(tf.zeros(shape, dtype)))
    >>> state.keep()
    >>> _ = weights[0].assign([[0.0, 0.0]])
    >>> state.restore()
    >>> weights[0].numpy().tolist(), len(state.copies)
    ([[1.0, 2.0]], 1)
    """

    def __init__(self, variables: Sequence[Any], make: Callable[[tuple[int], str], Any]) -> None:
        """Makes the copies.

        Args:
          variables: of Keras or TensorFlow, of known shapes.
          make: gives a variable of a shape and dtype.
        """
        self.variables = list(variables)
        self.copies = [
            make((sum(_size(one) for one in group),), dtype.name) for dtype, group in _by_dtype(self.variables).items()
        ]

    def keep(self) -> None:
        """Copies what the variables hold."""
        for copy, group in zip(self.copies, _by_dtype(self.variables).values(), strict=True):
            parts = [tf.reshape(tf.convert_to_tensor(_tensor(one)), [-1]) for one in group]
            _tensor(copy).assign(tf.concat(parts, 0))

    def restore(self) -> None:
        """Gives the variables back what they held when it was kept."""
        for copy, group in zip(self.copies, _by_dtype(self.variables).values(), strict=True):
            parts = tf.split(tf.convert_to_tensor(_tensor(copy)), [_size(one) for one in group])
            for variable, part in zip(group, parts, strict=True):
                _tensor(variable).assign(tf.reshape(part, _tensor(variable).shape))


def _by_dtype(variables: Sequence[Any]) -> dict[tf.DType, list[Any]]:
    groups: dict[tf.DType, list[Any]] = {}
    for variable in variables:
        groups.setdefault(_tensor(variable).dtype, []).append(variable)
    return groups


def _size(variable: Any) -> int:
    return int(_tensor(variable).shape.num_elements())


def _tensor(variable: Any) -> tf.Variable:
    """The variable of TensorFlow in one of Keras."""
    return variable if isinstance(variable, tf.Variable) else variable.value
