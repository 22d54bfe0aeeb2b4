"""Records the true loss of every optimizer step of a Keras `fit`, inside the graph.

Keras logs the running mean of the epoch, in which a spike all but disappears. The recorder writes each step's own loss
into a ring variable from within the train step, so it needs no second pass, sees every step under
`steps_per_execution` > 1, and moves data to the host once per block.
"""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_curve import CURVE_FOLDER, STEP_SCHEMA, VALIDATION_SCHEMA, write_block

logger = logging.getLogger(__name__)

# What the ring holds per step, in this order.
_RECORDED = ("loss", "batch_size", "learning_rate", "gradient_norm")


class CurveRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that keeps the true training curve of any compiled Keras model.

    It works with functional, sequential and subclassed models, with or without `jit_compile`, for any
    `steps_per_execution` and across several calls of `fit` on the same recorder. Read the curve back with
    `spikeguard.read_curve(log_dir)`; TensorBoard shows the scalars of the same folder.

    Example:
      ```python
      model.fit(dataset, epochs=5, callbacks=[spikeguard.CurveRecorder("logs/run-1")])
      curve = spikeguard.read_curve("logs/run-1")
      ```
    """

    def __init__(self, log_dir: str | os.PathLike[str], block_steps: int = 256, has_tensorboard: bool = True) -> None:
        """Prepares the recorder.

        Args:
          log_dir: folder of the run; made where missing. It must not hold a curve already.
          block_steps: steps per block on disk, the most that a killed run loses; >= 1.
          has_tensorboard: whether TensorBoard scalars are written as well.

        Raises:
          InvalidArgumentError: `log_dir` cannot be written or holds a curve, or `block_steps` < 1.
        """
        super().__init__()
        if block_steps < 1:
            raise InvalidArgumentError("block_steps", block_steps, "be at least 1")
        self._log_dir = pathlib.Path(log_dir)
        self._folder = self._log_dir / CURVE_FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if any(self._folder.glob("*.parquet")):
                raise InvalidArgumentError(
                    "log_dir", str(log_dir), "not hold a curve already", "Give each run its own folder."
                )
            (self._folder / ".writable").touch()
            (self._folder / ".writable").unlink()
        except OSError as error:
            raise InvalidArgumentError(
                "log_dir", str(log_dir), f"be a folder that can be written ({error.strerror})"
            ) from error
        self._block_steps = block_steps
        self._has_tensorboard = has_tensorboard
        self._writers: dict[str, Any] = {}
        self._pending = 0  # Upper bound of the steps that are in the ring and not on disk.
        self._flushed = 0  # Steps on disk.
        self._epochs: list[tuple[int, int]] = []  # (steps recorded when the epoch began, epoch)
        self._validations: list[tuple[int, int, float]] = []  # (step, epoch, loss), not on disk
        self._step: Any = None  # The two variables are made for the first model, with a ring that fits its executions.
        self._ring: Any = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if self._ring is None:
            # One execution may run past the block's end before the host gets to look.
            capacity = self._block_steps + 2 * max(1, int(model.steps_per_execution))
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="recorded_steps")
            self._ring = tf.Variable(tf.zeros([capacity, len(_RECORDED)]), trainable=False, name="recorded_ring")
        self._instrument(model)

    def _instrument(self, model: keras.Model) -> None:
        """Puts the recording into this model's train step, until training ends."""
        seen: dict[str, tf.Tensor] = {}
        train_step, compute_loss, optimizer = model.train_step, model.compute_loss, model.optimizer
        apply_gradients = optimizer.apply_gradients
        step_variable, ring = self._step, self._ring

        def recorded_compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = compute_loss(*args, **kwargs)
            seen["loss"] = tf.cast(loss, tf.float32)
            return loss

        def recorded_apply_gradients(grads_and_vars: Any) -> Any:
            pairs = list(grads_and_vars)
            seen["learning_rate"] = tf.cast(tf.convert_to_tensor(optimizer.learning_rate), tf.float32)
            gradients = [tf.cast(gradient, tf.float32) for gradient, _ in pairs if gradient is not None]
            seen["gradient_norm"] = tf.linalg.global_norm(gradients)
            return apply_gradients(pairs)

        def recorded_train_step(data: Any) -> Any:
            seen.clear()
            result = train_step(data)
            inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
            seen["batch_size"] = tf.cast(tf.shape(keras.tree.flatten(inputs)[0])[0], tf.float32)
            # A custom train step may bypass compute_loss or the optimizer: what it did not show is recorded as unknown.
            row = tf.stack([seen.get(name, tf.constant(float("nan"))) for name in _RECORDED])
            position = step_variable % ring.shape[0]
            ring.scatter_nd_update([[position]], [row])
            step_variable.assign_add(1)
            return result

        model.train_step = recorded_train_step
        model.compute_loss = recorded_compute_loss
        optimizer.apply_gradients = recorded_apply_gradients
        model.train_function = None  # Keras would go on with a train step that it traced before.

    def _restore(self) -> None:
        for owner, name in (
            (self.model, "train_step"),
            (self.model, "compute_loss"),
            (self.model.optimizer, "apply_gradients"),
        ):
            owner.__dict__.pop(name, None)
        self.model.train_function = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epochs.append((self._recorded(), epoch))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._pending += max(1, int(self.model.steps_per_execution))
        if self._pending >= self._block_steps:
            self._flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss")
        if loss is not None:
            self._validations.append((self._recorded(), epoch, float(loss)))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._flush()
        self._restore()
        for writer in self._writers.values():
            writer.flush()

    def _recorded(self) -> int:
        """Steps in the ring or on disk."""
        return int(self._step.numpy())

    def _flush(self) -> None:
        self._pending = 0
        recorded = self._recorded()
        if recorded > self._flushed:
            self._flush_steps(np.arange(self._flushed, recorded), self._ring.numpy())
            self._flushed = recorded
        if self._validations:
            step, epoch, loss = (np.array(column) for column in zip(*self._validations, strict=True))
            write_block(self._folder, {"step": step, "epoch": epoch, "loss": loss}, VALIDATION_SCHEMA)
            self._write_scalars("validation", step, {"epoch_loss": loss})
            self._validations.clear()

    def _flush_steps(self, steps: npt.NDArray[np.int64], ring: npt.NDArray[np.float32]) -> None:
        columns = dict(zip(_RECORDED, ring[steps % len(ring)].T, strict=True))
        starts, epochs = (np.array(column) for column in zip(*self._epochs, strict=True))
        epoch = epochs[np.searchsorted(starts, steps, side="right") - 1]
        write_block(self._folder, {"step": steps + 1, "epoch": epoch, **columns}, STEP_SCHEMA)
        self._epochs = self._epochs[-1:]
        scalars = {
            "batch_loss": columns["loss"],
            **{name: columns[name] for name in ("learning_rate", "gradient_norm")},
        }
        self._write_scalars("train", steps + 1, scalars)
        step, loss = int(steps[-1]) + 1, float(columns["loss"][-1])
        logger.info("step %d loss %.4g", step, loss, extra={"spikeguard_step": step, "spikeguard_loss": loss})

    def _write_scalars(self, run: str, steps: npt.NDArray[Any], scalars: dict[str, npt.NDArray[Any]]) -> None:
        if not self._has_tensorboard:
            return
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self._log_dir / run))
        with self._writers[run].as_default():
            for name, values in scalars.items():
                for step, value in zip(steps, values, strict=True):
                    tf.summary.scalar(name, value, step=int(step))
