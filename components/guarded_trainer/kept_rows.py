"""Keeps the rows of the last batches on the device, so that steps can be replayed whatever dataset they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Most rows that are kept, however small they are.
_MOST_ROWS = 32_768


@dataclasses.dataclass(frozen=True)
class Batch:
    """The rows of one step, or any others, on the host."""

    leaves: tuple[npt.NDArray[Any], ...]
    """Inputs, labels and sample weights, flattened; each of shape (rows, ...)."""
    ids: npt.NDArray[np.int64]
    """Ids of the examples, -1 where the data carry none. Shape (rows,)."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any]) -> Batch:
        """Some of the rows, by index or mask."""
        return Batch(tuple(leaf[rows] for leaf in self.leaves), self.ids[rows])

    def with_leaf(self, place: int, values: npt.NDArray[Any]) -> Batch:
        """The same with one leaf replaced."""
        leaves = list(self.leaves)
        leaves[place] = values.astype(leaves[place].dtype)
        return Batch(tuple(leaves), self.ids)


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of all of at least one batch, in order."""
    leaves = zip(*(batch.leaves for batch in batches), strict=True)
    return Batch(tuple(np.concatenate(parts) for parts in leaves), np.concatenate([batch.ids for batch in batches]))


class KeptRows:
    """A ring of rows, written inside the graph of the train step: one scatter per dtype and step.

    Rows rather than batches are counted, so that batches of different sizes fit.

    Attributes:
      reason: why nothing is kept; "" where rows are.
      structure: what a step's data look like, ids left out; None before the first trace.
      inputs: number of leaves that are inputs of the model; labels and weights follow.
      input_names: of the inputs; keys of a dict, else numbered.
      fixed_size: rows of each batch, where the dataset promises the same for all; None where they may differ.
    """

    def __init__(self, most_bytes: int) -> None:
        """Prepares the ring; it takes its shape from the first step that is traced.

        Args:
          most_bytes: memory that the rows may take; >= 0.
        """
        self._most_bytes = most_bytes
        self.reason = ""
        self.structure: Any = None
        self.inputs = 0
        self.input_names: tuple[str, ...] = ()
        self.capacity = 0
        self.fixed_size: int | None = None
        self._specs: list[tuple[tuple[int, ...], tf.DType]] = []
        self._rings: dict[tf.DType, tf.Variable] = {}
        self._ids: tf.Variable | None = None
        self._written: tf.Variable | None = None

    def keep(self, data: Any, ids: tf.Tensor | None) -> None:
        """Writes the rows of the step that is traced or run.

        Args:
          data: what the train step gets, without ids.
          ids: int tensor with one id per row; None where there are none.
        """
        leaves = keras.tree.flatten(data)
        if self.structure is None and not self.reason:
            self._prepare(data, leaves)
        if self.reason:
            return
        if [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves] != self._specs:
            self.reason = "the shape of the batches changed"
            return
        assert self._ids is not None
        assert self._written is not None
        rows = tf.shape(leaves[0], tf.int64)[0]
        places = (self._written + tf.range(rows)) % self.capacity
        for dtype, ring in self._rings.items():
            parts = [tf.reshape(leaf, [rows, -1]) for leaf in leaves if leaf.dtype == dtype]
            block = tf.concat(parts, 1) if len(parts) > 1 else parts[0]
            ring.scatter_update(tf.IndexedSlices(block, places))
        if ids is not None:
            self._ids.scatter_update(tf.IndexedSlices(tf.reshape(tf.cast(ids, tf.int64), [-1]), places))
        self._written.assign_add(rows)

    def _prepare(self, data: Any, leaves: list[Any]) -> None:
        self.reason = _objection(leaves)
        if self.reason:
            return
        specs = [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        widths: dict[tf.DType, int] = {}
        for shape, dtype in specs:
            widths[dtype] = widths.get(dtype, 0) + int(np.prod(shape, dtype=np.int64))
        row_bytes = 8 + sum(width * dtype.size for dtype, width in widths.items())
        capacity = min(_MOST_ROWS, self._most_bytes // row_bytes)
        least = 8 * (leaves[0].shape[0] or 1)
        if capacity < least:
            self.reason = f"8 batches do not fit into {self._most_bytes:,} bytes"
            return
        self.fixed_size = leaves[0].shape[0]
        self.structure = keras.tree.map_structure(lambda _: 0, data)
        inputs = data[0] if isinstance(data, tuple) else data
        self.inputs = len(keras.tree.flatten(inputs))
        self.input_names = tuple(sorted(inputs)) if isinstance(inputs, dict) else ()
        if len(self.input_names) != self.inputs:
            self.input_names = tuple(f"input_{place}" if self.inputs > 1 else "input" for place in range(self.inputs))
        self.capacity, self._specs = capacity, specs
        with tf.init_scope():
            self._rings = {
                dtype: tf.Variable(tf.zeros([capacity, width], dtype), trainable=False)
                for dtype, width in widths.items()
            }
            self._ids = tf.Variable(tf.fill([capacity], tf.constant(-1, tf.int64)), trainable=False)
            self._written = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def written(self) -> int:
        """Rows written so far."""
        return 0 if self._written is None else int(self._written.numpy())

    def read(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """Rows by their number, from 0 in the order written; they must be among the last `capacity`."""
        assert self._ids is not None
        places = tf.constant(numbers % self.capacity)
        blocks = {dtype: tf.gather(ring, places).numpy() for dtype, ring in self._rings.items()}
        used = dict.fromkeys(blocks, 0)
        leaves = []
        for shape, dtype in self._specs:
            width = int(np.prod(shape, dtype=np.int64))
            part = blocks[dtype][:, used[dtype] : used[dtype] + width]
            used[dtype] += width
            leaves.append(part.reshape(len(numbers), *shape))
        return Batch(tuple(leaves), tf.gather(self._ids, places).numpy())

    def specs(self) -> list[tf.TensorSpec]:
        """The leaves as a function's signature, with any number of rows."""
        return [tf.TensorSpec([None, *shape], dtype) for shape, dtype in self._specs]

    def packed(self, leaves: Any) -> Any:
        """Leaves in the structure of a step's data."""
        return keras.tree.pack_sequence_as(self.structure, list(leaves))


def _objection(leaves: list[Any]) -> str:
    for leaf in leaves:
        if not isinstance(leaf, tf.Tensor):
            return f"the batches hold a {type(leaf).__name__}, of which no rows can be kept"
        if leaf.dtype == tf.string or leaf.shape.rank is None or leaf.shape.rank < 1 or None in leaf.shape[1:]:
            return (
                f"the batches hold a tensor of {leaf.dtype.name} and shape {leaf.shape}, of which no rows can be kept"
            )
    return "" if leaves else "the batches hold no tensors"
