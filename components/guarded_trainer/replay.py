"""Replays a spike from the state before it, with one thing changed at a time, after the training."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spikeguard.components.guarded_trainer.curvature import largest_curvature, stability_limit
from spikeguard.components.guarded_trainer.kept_rows import Batch, KeptRows
from spikeguard.components.guarded_trainer.recording import example_losses, single
from spikeguard.components.guarded_trainer.replay_analysis import Replayed, analyse
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget, ReplayKeeper, state_of
from spikeguard.components.guarded_trainer.replay_reference import Layout
from spikeguard.components.training_curve import Floats

logger = logging.getLogger(__name__)

RESULT_NAME, FORMAT = "replay.json", "spikeguard.replay/1"


class ReplayModel:
    """A model whose steps can be run again from a kept state; `restored` brings back where it was."""

    def __init__(self, model: keras.Model, rows: KeptRows) -> None:
        self._model, self._rows = model, rows
        self._variables = state_of(model)
        self._now: list[Any] = []
        signature = rows.specs()
        # Without AutoGraph, as Keras traces a train step, too: it would rewrite the source of all layers for seconds.
        self._step = tf.function(
            self._run_step, input_signature=[signature, tf.TensorSpec((), tf.float32)], autograph=False
        )
        self._rows_of = tf.function(self._run_rows, input_signature=[signature], autograph=False)

    def __enter__(self) -> ReplayModel:
        self._now = [np.array(variable.numpy()) for variable in self._variables]
        return self

    def __exit__(self, *_: object) -> None:
        self.restore(self._now)

    def restore(self, state: Sequence[Any]) -> None:
        """Sets all variables."""
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)

    def run(self, batch: Batch, scale: float) -> float:
        """One training step, its update multiplied by `scale`; the loss before it."""
        return float(self._step([tf.constant(leaf) for leaf in batch.leaves], tf.constant(scale, tf.float32)))

    def losses(self, batch: Batch) -> Floats | None:
        """Losses of the rows with the weights as they are; None where the loss has no such parts. Shape (rows,)."""
        if not len(batch):
            return np.empty(0)
        found = self._rows_of([tf.constant(leaf) for leaf in batch.leaves])
        return None if found is None else np.asarray(found.numpy(), dtype=np.float64)

    def curvature(self, batch: Batch, rate: float) -> tuple[float, float] | None:
        """Largest curvature on some rows, and the largest at which steps at this rate stay stable; None where unknown."""
        found = stability_limit(self._inner_optimizer(), rate) if rate > 0 and len(batch) else None
        if found is None or (found[1] is not None and len(found[1]) != len(self._weights)):
            return None
        leaves = [tf.constant(leaf) for leaf in batch.leaves]
        return largest_curvature(lambda: self._loss_of(leaves), self._weights, found[1]), found[0]

    def gradient_squares(self, batch: Batch) -> float:
        """Squared norm of the gradient on some rows."""
        leaves = [tf.constant(leaf) for leaf in batch.leaves]
        with tf.GradientTape() as tape:
            loss = self._loss_of(leaves)
        gradients = tape.gradient(loss, self._weights, unconnected_gradients="zero")
        return float(tf.linalg.global_norm([tf.convert_to_tensor(one) for one in gradients])) ** 2

    def _loss_of(self, leaves: Any) -> tf.Tensor:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(self._rows.packed(leaves))
        y_pred = self._model(x, training=False)
        return tf.cast(self._model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weights), tf.float32)

    @property
    def _weights(self) -> list[tf.Variable]:
        return [variable.value for variable in self._model.trainable_variables]

    def _inner_optimizer(self) -> keras.optimizers.Optimizer:
        inner = self._model.optimizer
        while hasattr(inner, "inner_optimizer"):
            inner = inner.inner_optimizer
        return inner

    def scale_inputs(self, scale: Floats) -> bool:
        """Multiplies the first layer's weights by what the inputs are divided by; False where there is no such layer."""
        kernels = [one for one in self._model.trainable_variables if one.name == "kernel" and len(one.shape) in (2, 4)]
        flat = len(scale)
        if not kernels or len(self._model.inputs) != 1:
            return False
        kernel = kernels[0]
        if len(kernel.shape) == 2 and kernel.shape[0] == flat:
            factor = scale[:, None]
        elif len(kernel.shape) == 4 and np.all(scale == scale[0]):
            factor = np.full((1, 1, 1, 1), scale[0])
        else:
            return False
        inner = self._inner_optimizer()
        power = {"momentum": 1} if isinstance(inner, keras.optimizers.SGD) else {"momentum": -1, "velocity": -2}
        if not isinstance(inner, keras.optimizers.SGD | keras.optimizers.Adam):
            return False
        kernel.assign(kernel.numpy() * factor)
        # Slots follow the order of the variables, and each is named after its variable and its kind.
        place = [id(one) for one in self._model.trainable_variables].index(id(kernel))
        for kind, exponent in power.items():
            slots = [one for one in inner.variables if one.name.endswith(f"_{kind}")]
            if len(slots) == len(self._model.trainable_variables):
                slots[place].assign(slots[place].numpy() * factor.astype(np.float32) ** exponent)
        return True

    def _run_step(self, leaves: Any, scale: tf.Tensor) -> tf.Tensor:
        model, seen = self._model, []
        compute_loss = model.compute_loss

        def seeing(*args: Any, **kwargs: Any) -> Any:
            seen.append(compute_loss(*args, **kwargs))
            return seen[-1]

        model.compute_loss = seeing
        weights = [variable.value for variable in model.trainable_variables]
        before = [tf.identity(weight) for weight in weights]
        try:
            model.train_step(self._rows.packed(leaves))
        finally:
            model.__dict__.pop("compute_loss", None)
        for weight, old in zip(weights, before, strict=True):
            part = tf.cast(scale, weight.dtype)
            weight.assign(tf.where(scale == 1.0, weight, old + part * (weight - old)))
        return tf.cast(seen[-1], tf.float32)

    def _run_rows(self, leaves: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(self._rows.packed(leaves))
        y_pred = self._model(x, training=False)
        if not isinstance(y, tf.Tensor) or not isinstance(y_pred, tf.Tensor):
            return None
        return example_losses(single(self._model.loss), y, y_pred, weights)


def replay_kept(model: keras.Model, keeper: ReplayKeeper, budget: ReplayBudget, seconds: float, classes: int) -> None:
    """Replays what was kept and not replayed yet, the highest first, and writes the results beside it.

    Args:
      model: trained; all of its state is what it was afterwards.
      keeper: what was kept.
      budget: how long it may take.
      seconds: what the training took.
      classes: classes of the label, 0 where it is none.
    """
    # The first one first: what comes later may be its aftermath.
    highest = sorted(keeper.kept, key=lambda peak: (peak != min(keeper.kept), -keeper.kept[peak]))
    waiting = [peak for peak in highest if not (keeper.result_folder(peak) / RESULT_NAME).exists()]
    if waiting and not keeper.is_off:
        deadline = time.monotonic() + max(budget.least_seconds, budget.time_share * seconds)
        try:
            _replay_all(model, keeper, waiting, deadline, classes)
        except Exception as error:  # Whatever a model does in its train step must not cost the training.
            logger.exception("Spikes could not be replayed")
            # Of an error in a traced function the last line says what it was.
            words = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
            reason = f"{type(error).__name__}: {words[-1][:200]}"
            keeper.notes.append(f"Spikes could not be replayed: {reason}.")
            for peak in waiting:
                if not (keeper.result_folder(peak) / RESULT_NAME).exists():
                    keeper.leave_out(peak, peak, f"the replay failed ({reason})")
    keeper.write_notes()


def _replay_all(model: keras.Model, keeper: ReplayKeeper, waiting: list[int], deadline: float, classes: int) -> None:
    rows = keeper.rows
    layout = Layout(rows.inputs, rows.input_names, classes)
    with ReplayModel(model, rows) as replayed:
        for number, peak in enumerate(waiting):
            if time.monotonic() > deadline:
                keeper.notes.append(f"{len(waiting) - number} kept spikes were not replayed: the time for it was over.")
                for left in waiting[number:]:
                    keeper.leave_out(left, left, "the time for replays was over")
                return
            started = time.monotonic()
            kept = keeper.read(peak)
            found = analyse(kept, Replayed(replayed, kept, deadline), layout)
            content = {"format": FORMAT, "step": peak, "first_step": kept.first, "state_step": kept.state_step, **found}
            content["seconds"] = time.monotonic() - started
            text = json.dumps(_finite(content), allow_nan=False, indent=1)
            (keeper.result_folder(peak) / RESULT_NAME).write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
