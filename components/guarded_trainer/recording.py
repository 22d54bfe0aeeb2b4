"""What is recorded of a training step, computed inside the graph of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard import chain, guard_of
from spikeguard.components.guarded_trainer.kept_rows import KeptRows
from spikeguard.components.guarded_trainer.norms import half_squares
from spikeguard.components.guarded_trainer.replay_feed import BatchFeed

# Each operation in a small step costs a thousandth of it, so norms leave the graph as the halves of their squares, which
# are one operation per weight; the rest of the arithmetic is done for a whole block at once.
_HALF_SQUARES = ("gradient_squares", "change_squares", "weight_squares")
# One value per step each, in this order; the worst losses and the class counts follow in the same row.
SCALARS = (
    "loss",
    "total_loss",
    "batch_size",
    "learning_rate",
    "guard_factor",
    "guard_action",
    "largest_input",
    "label_mean",
    "loss_scale",
    *_HALF_SQUARES,
)
# Of more classes than this only the mean label is kept.
_MAX_CLASSES = 100


@dataclasses.dataclass
class Ring:
    """The last steps' records, on the device: one scatter per step, one copy to the host per block."""

    floats: tf.Variable
    """Shape (capacity, scalars + worst + classes)."""
    ids: tf.Variable
    """Shape (capacity, worst)."""
    worst: int
    classes: int

    @classmethod
    def of_width(cls, capacity: int, worst: int, classes: int) -> Ring:
        """An empty ring; made outside of the graph that is being traced."""
        with tf.init_scope():
            floats = tf.Variable(tf.zeros([capacity, len(SCALARS) + worst + classes]), trainable=False)
            ids = tf.Variable(tf.fill([capacity, worst], tf.constant(-1, tf.int64)), trainable=False)
            return cls(floats, ids, worst, classes)

    def columns(self, steps: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """The records of steps numbered from 0, as columns of a curve."""
        places = steps % self.floats.shape[0]
        rows = self.floats.numpy()[places]
        parts = np.split(rows, [len(SCALARS), len(SCALARS) + self.worst], axis=1)
        columns: dict[str, npt.NDArray[Any]] = dict(zip(SCALARS, parts[0].T, strict=True))
        gradient, change, weight = (np.sqrt(2.0 * columns.pop(name).astype(np.float64)) for name in _HALF_SQUARES)
        columns["gradient_norm"] = gradient / columns.pop("loss_scale")
        columns["update_ratio"] = np.divide(change, weight, out=np.zeros_like(change), where=weight != 0.0)
        columns["worst_loss"] = np.where(np.isneginf(parts[1]), np.nan, parts[1])
        columns["worst_id"] = self.ids.numpy()[places]
        columns["class_counts"] = parts[2]
        return columns


class StepRecording:
    """Wraps a model's train step, loss and optimizer so that each step writes its record, from `install` to `remove`."""

    def __init__(
        self,
        model: keras.Model,
        step: tf.Variable,
        ring_of: Callable[[int, int], Ring],
        worst: int,
        id_key: str,
        rows: KeptRows | None = None,
    ) -> None:
        """Prepares the wrappers.

        Args:
          model: compiled.
          step: int64 scalar, number of the next step from 0; incremented by each step.
          ring_of: gives the ring for (worst examples, classes) when the step is traced.
          worst: examples to keep per step.
          id_key: key of the examples' ids in dict inputs.
          rows: where the rows of the batches are kept; None: nowhere.
        """
        self._rows = rows
        self._model, self._step, self._ring_of, self._worst, self._id_key = model, step, ring_of, worst, id_key
        self._optimizers = chain(model.optimizer)
        self._seen: dict[str, Any] = {}
        self._train_step, self._compute_loss = model.train_step, model.compute_loss
        self._apply: Any = model.optimizer.apply if self._optimizers else None
        # For replays: what the training's trace was made for, and functions for what does not fit it.
        self._element: Any = None
        self._ring: Ring | None = None
        self._feed: BatchFeed | None = None
        self._step_function = tf.function(self._recorded_step, reduce_retracing=True, autograph=False)
        self._rows_function: Any = None

    def install(self) -> None:
        """Puts the wrappers on."""
        self._model.train_step, self._model.compute_loss = self._recorded_train_step, self._recorded_compute_loss
        if self._optimizers:
            self._model.optimizer.apply = self._recorded_apply

    def remove(self) -> None:
        """Takes the wrappers off again."""
        for owner, name in (
            (self._model, "train_step"),
            (self._model, "compute_loss"),
            (self._model.optimizer, "apply"),
        ):
            if owner is not None:
                owner.__dict__.pop(name, None)

    @property
    def step(self) -> tf.Variable:
        """Number of the next step from 0."""
        return self._step

    def run(self, data: Any, ids: npt.NDArray[np.int64]) -> float:
        """One training step outside of `fit`, by the training's own trace where that serves; while the wrappers are on.

        Args:
          data: what the train step gets, without ids.
          ids: of the rows.

        Returns:
          The loss before the step, as it is recorded.
        """
        feed = self._own_feed()
        if feed is None or self._ring is None or not feed.fits(len(ids)):
            step = self._recorded_step if self._model.run_eagerly else self._step_function
            return float(step(data, None)[1])
        position = int(self._step.numpy()) % self._ring.floats.shape[0]
        feed.put(_with_ids(data, ids, self._id_key, self._element))
        self._model.train_function(feed.iterator)
        return float(self._ring.floats[position, SCALARS.index("loss")])

    def _own_feed(self) -> BatchFeed | None:
        """What feeds the train function; None where the training's trace is not for single steps."""
        model = self._model
        if model.run_eagerly or int(model.steps_per_execution) != 1 or tf.distribute.has_strategy():
            return None
        if self._feed is None and self._element is not None:
            self._feed = BatchFeed(self._element)
        return self._feed

    def losses_of_rows(self, leaves: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """Losses of some kept rows with the weights as they are. Shape (rows,); None where the loss has no such parts."""
        if self._rows_function is None:
            assert self._rows is not None
            signature = [self._rows.specs()]
            self._rows_function = tf.function(self._losses_of_leaves, input_signature=signature, autograph=False)
        return self._rows_function(list(leaves))

    def _losses_of_leaves(self, leaves: Sequence[tf.Tensor]) -> tf.Tensor | None:
        assert self._rows is not None
        x, y, weights = keras.utils.unpack_x_y_sample_weight(self._rows.packed(leaves))
        y_pred = self._model(x, training=False)
        if not isinstance(y, tf.Tensor) or not isinstance(y_pred, tf.Tensor):
            return None
        return example_losses(single(self._model.loss), y, y_pred, weights)

    def _recorded_train_step(self, data: Any) -> Any:
        if self._rows is not None:
            leaves = keras.tree.flatten(data)
            is_dense = all(isinstance(leaf, tf.Tensor) for leaf in leaves)
            self._element = keras.tree.map_structure(_spec, data) if is_dense else None
            self._feed = None
        data, ids = _without_ids(data, self._id_key)
        if self._rows is not None:
            self._rows.keep(data, ids)
        return self._recorded_step(data, ids)[0]

    def _recorded_step(self, data: Any, ids: tf.Tensor | None) -> tuple[Any, tf.Tensor]:
        """The train step and its record; what it returns, and the loss."""
        self._seen.clear()
        result = self._train_step(data)
        if "loss" not in self._seen:
            raise InvalidArgumentError(
                "model",
                self._model.name,
                "compute its loss by compute_loss",
                "Call self.compute_loss in its train_step.",
            )
        inputs = [_values(tensor) for tensor in keras.tree.flatten(data[0] if isinstance(data, tuple) else data)]
        seen = self._seen
        seen["batch_size"] = inputs[0].shape[0] or tf.shape(inputs[0])[0]
        floats = [tf.cast(tf.reduce_max(tf.abs(tensor)), tf.float32) for tensor in inputs if tensor.dtype.is_floating]
        if floats:
            seen["largest_input"] = tf.reduce_max(tf.stack(floats)) if len(floats) > 1 else floats[0]
        # A custom train step may do without the optimizer: what it does not show is recorded as unknown.
        row = tf.stack([_scalar(seen.get(name, float("nan"))) for name in SCALARS])
        worst_loss, worst_id = self._worst_examples(seen.get("example_losses"), ids)
        counts = seen.get("class_counts", tf.zeros([0]))
        ring = self._ring = self._ring_of(worst_loss.shape[0], counts.shape[0])
        position = self._step % ring.floats.shape[0]
        lists = [part for part in (worst_loss, counts) if part.shape[0]]
        ring.floats.scatter_update(tf.IndexedSlices(tf.concat([row, *lists], 0) if lists else row, position))
        if worst_id is not None:
            ring.ids.scatter_update(tf.IndexedSlices(worst_id, position))
        self._step.assign_add(1)
        return result, tf.cast(seen["loss"], tf.float32)

    def _recorded_compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        total = self._compute_loss(x, y, y_pred, *args, **kwargs)
        seen = self._seen
        seen["total_loss"] = seen["loss"] = tf.cast(total, tf.float32)
        if self._model.losses and self._model.loss is not None:
            penalties = [tf.reduce_sum(tf.cast(penalty, tf.float32)) for penalty in self._model.losses]
            seen["loss"] = seen["total_loss"] - tf.add_n(penalties)
        if isinstance(y, tf.Tensor) and (y.dtype.is_floating or y.dtype.is_integer or y.dtype.is_bool):
            seen["label_mean"] = tf.reduce_mean(tf.cast(y, tf.float32))
            if isinstance(y_pred, tf.Tensor):
                loss = single(self._model.loss)
                counts = _class_counts(loss, y, y_pred)
                if counts is not None:
                    seen["class_counts"] = counts
                weights = kwargs.get("sample_weight", args[0] if args else None)
                losses = example_losses(loss, y, y_pred, weights) if self._worst else None
                if losses is not None:
                    seen["example_losses"] = losses
        return total

    def _recorded_apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        seen, outer, inner = self._seen, self._optimizers[0], self._optimizers[-1]
        pairs = [
            (gradient, variable)
            for gradient, variable in zip(grads, trainable_variables or self._model.trainable_variables, strict=True)
            if gradient is not None
        ]
        guard = guard_of(outer)
        seen["learning_rate"] = inner.learning_rate if guard is None else guard.learning_rate
        seen["loss_scale"] = inner.loss_scale_factor or 1.0
        if isinstance(outer, keras.optimizers.LossScaleOptimizer) and outer.built:
            # The step itself may change it.
            seen["loss_scale"] = tf.identity(outer.dynamic_scale.value)
        seen["gradient_squares"] = half_squares([gradient for gradient, _ in pairs])
        before = [_touched(variable, gradient) for gradient, variable in pairs]
        result = self._apply(grads, trainable_variables)
        after = [_touched(variable, gradient) for gradient, variable in pairs]
        seen["change_squares"] = half_squares([new - old for new, old in zip(after, before, strict=True)])
        seen["weight_squares"] = half_squares(before)
        seen["guard_factor"] = 1.0 if guard is None else guard.factor.value
        seen["guard_action"] = 0.0 if guard is None else guard.action.value
        return result

    def _worst_examples(self, losses: tf.Tensor | None, ids: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The largest losses and the ids of their examples, each of shape (worst,); of shape (0,) where unknown."""
        if losses is None:
            return tf.zeros([0]), None
        # A batch may be smaller than the list, and a loss that is not a number is the worst.
        losses = tf.concat([losses, tf.fill([self._worst], float("-inf"))], 0)
        ranked = tf.where(tf.math.is_nan(losses), float("inf"), losses)
        places = tf.math.top_k(ranked, self._worst).indices
        if ids is None:
            return tf.gather(losses, places), None
        ids = tf.concat(
            [tf.reshape(tf.cast(ids, tf.int64), [-1]), tf.fill([self._worst], tf.constant(-1, tf.int64))], 0
        )
        return tf.gather(losses, places), tf.gather(ids, places)


def _without_ids(data: Any, key: str) -> tuple[Any, tf.Tensor | None]:
    """Takes the ids out of dict inputs, so that the model does not see them."""
    x = data[0] if isinstance(data, tuple) else data
    if not isinstance(x, dict) or key not in x:
        return data, None
    ids, rest = x[key], {name: value for name, value in x.items() if name != key}
    if not ids.dtype.is_integer:
        raise InvalidArgumentError("id_key", key, f"name an integer input, not one of {ids.dtype.name}")
    return (rest, *data[1:]) if isinstance(data, tuple) else rest, ids


def _with_ids(data: Any, ids: npt.NDArray[np.int64], key: str, element: Any) -> Any:
    """The inverse, for data of the structure of `element`."""
    inputs = element[0] if isinstance(element, tuple) else element
    if not isinstance(inputs, dict) or key not in inputs:
        return data
    spec = inputs[key]
    x = data[0] if isinstance(data, tuple) else data
    x = {**x, key: tf.cast(tf.reshape(ids, [len(ids), *spec.shape[1:]]), spec.dtype)}
    return (x, *data[1:]) if isinstance(data, tuple) else x


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _values(tensor: Any) -> tf.Tensor:
    """The values of a dense, sparse or ragged tensor."""
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.flat_values
    return tensor.values if isinstance(tensor, tf.SparseTensor) else tensor


def _touched(variable: Any, gradient: Any) -> tf.Tensor:
    """The part of a weight that the gradient moves: of an embedding only the rows in the batch, for the sake of cost."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    return tf.cast(variable.sparse_read(gradient.indices) if is_sparse else variable.value(), tf.float32)


def _scalar(value: Any) -> tf.Tensor:
    value = tf.cast(value, tf.float32)
    return value if value.shape.rank == 0 else tf.reshape(value, [])


def single(loss: Any) -> Any:
    """The loss of a model with one output, out of the list or dict that it may be given in."""
    parts = list(loss.values()) if isinstance(loss, dict) else list(loss) if isinstance(loss, list | tuple) else [loss]
    return parts[0] if len(parts) == 1 else None


def example_losses(loss: Any, y: tf.Tensor, y_pred: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor | None:
    """Loss of each example, weighted as in the batch loss. Shape (batch,); None where the loss has no such parts."""
    if loss is None:
        return None
    function = loss.call if isinstance(loss, keras.losses.Loss) else keras.losses.get(loss)
    y_pred = tf.cast(y_pred, tf.float32)
    if len(y.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
        y = y[..., tf.newaxis]
    losses = tf.convert_to_tensor(function(tf.cast(y, tf.float32), y_pred))
    if not losses.shape.rank:
        return None
    losses = tf.cast(losses, tf.float32)
    if losses.shape.rank != 1:
        losses = tf.reduce_mean(tf.reshape(losses, [tf.shape(losses)[0], -1]), axis=1)
    if isinstance(weights, tf.Tensor) and (weights.shape.rank == 1 or weights.shape[1:] == [1]):
        losses *= tf.reshape(tf.cast(weights, tf.float32), [-1])
    return losses


def _class_counts(loss: Any, y: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor | None:
    """Examples of each class in the batch, for a loss that is a cross-entropy. Shape (classes,).

    Two classes for a single probability; else as many as there are outputs, of class ids or of one-hot or multi-hot rows.
    """
    name = type(loss).__name__ if isinstance(loss, keras.losses.Loss) else getattr(loss, "__name__", str(loss))
    width = y_pred.shape[-1]
    if "crossentropy" not in name.lower().replace("_", "") or width is None or width > _MAX_CLASSES:
        return None
    if width == 1:
        positive, rows = tf.reduce_sum(tf.cast(y, tf.float32)), tf.cast(tf.size(y), tf.float32)
        return tf.stack([rows - positive, positive])
    if y.shape.rank == y_pred.shape.rank and y.shape[-1] == width:
        return tf.reduce_sum(tf.reshape(tf.cast(y, tf.float32), [-1, width]), axis=0)
    flat = y if y.shape.rank == 1 else tf.reshape(y, [-1])
    return tf.reduce_sum(tf.one_hot(tf.cast(flat, tf.int32), width), axis=0)
