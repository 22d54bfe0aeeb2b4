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

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.guarded_trainer.curvature import largest_curvature, stability_limit
from spikeguard.components.guarded_trainer.kept_rows import Batch, KeptRows
from spikeguard.components.guarded_trainer.recording import StepRecording
from spikeguard.components.guarded_trainer.replay_analysis import Replayed, analyse
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget, ReplayKeeper, state_of
from spikeguard.components.guarded_trainer.replay_reference import Layout
from spikeguard.components.spike_evaluator.causes.course import course_of
from spikeguard.components.spike_evaluator.causes.replays import FILE_NAME, FORMAT, belongs_to
from spikeguard.components.spike_evaluator.detection import detect_spikes
from spikeguard.components.training_curve import Floats

logger = logging.getLogger(__name__)


class ReplayModel:
    """A model whose steps can be run again from a kept state; after the `with` block it is where it was before."""

    def __init__(self, model: keras.Model, rows: KeptRows, recording: StepRecording) -> None:
        self._model, self._rows, self._recording = model, rows, recording
        self._variables = state_of(model)
        self._now: list[Any] = []
        self._steps = 0

    def __enter__(self) -> ReplayModel:
        self._now = [np.array(variable.numpy()) for variable in self._variables]
        self._steps = int(self._recording.step.numpy())
        self._recording.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._recording.remove()
        self._recording.step.assign(self._steps)
        self.restore(self._now)

    def restore(self, state: Sequence[Any]) -> None:
        """Sets all variables."""
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)

    def run(self, batch: Batch, scale: float) -> float:
        """One training step, its update multiplied by `scale`; the loss before it."""
        before = [] if scale == 1.0 else [weight.numpy() for weight in self._weights]
        loss = self._recording.run(self._data(batch), batch.ids)
        for weight, old in zip(self._weights, before, strict=scale != 1.0):
            weight.assign(old + np.asarray(scale, old.dtype) * (weight.numpy() - old))
        return loss

    def losses(self, batch: Batch) -> Floats | None:
        """Losses of the rows with the weights as they are; None where the loss has no such parts. Shape (rows,)."""
        if not len(batch):
            return np.empty(0)
        found = self._recording.losses_of_rows([tf.constant(leaf) for leaf in batch.leaves])
        return None if found is None else np.asarray(found.numpy(), dtype=np.float64)

    def _data(self, batch: Batch) -> Any:
        return self._rows.packed([tf.constant(leaf) for leaf in batch.leaves])

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


def replay_kept(
    model: keras.Model,
    keeper: ReplayKeeper,
    recording: StepRecording,
    budget: ReplayBudget,
    seconds: float,
    classes: int,
) -> None:
    """Replays what was kept of spikes and not replayed yet, the highest first, and writes the results beside it.

    What is no spike of the recorded curve is dropped.

    Args:
      model: trained; all of its state is what it was afterwards.
      keeper: what was kept; the curve in its folder is whole.
      recording: of the training, not on the model any more.
      budget: how long it may take.
      seconds: what the training took.
      classes: classes of the label, 0 where it is none.
    """
    waiting: list[int] = []
    try:
        if keeper.kept and not keeper.is_off and (waiting := _waiting(keeper)):
            deadline = time.monotonic() + max(budget.least_seconds, budget.time_share * seconds)
            _replay_all(model, keeper, recording, waiting, deadline, classes)
    except Exception as error:  # Whatever a model does in its train step must not cost the training.
        logger.exception("Spikes could not be replayed")
        # Of an error in a traced function the last line says what it was.
        words = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        reason = f"{type(error).__name__}: {words[-1][:200]}"
        keeper.notes.append(f"Spikes could not be replayed: {reason}.")
        for peak in waiting:
            if not (keeper.result_folder(peak) / FILE_NAME).exists():
                keeper.leave_out(peak, peak, f"the replay failed ({reason})")
    keeper.write_notes()


def _waiting(keeper: ReplayKeeper) -> list[int]:
    """The peaks to replay, in this order, one of each spike and of where the run went wrong; the others are dropped.

    Of a spike it is the one nearest to its beginning, which tells its cause. The first spike comes first, since what comes
    later may be its aftermath, then the highest.
    """
    curve = read_curve(keeper.run_dir)
    findings = detect_spikes(curve)
    course = course_of(curve, findings)
    spikes = [*findings.spikes, *([course] if course else [])]

    def is_of_spike(first: int, last: int) -> bool:
        return any(belongs_to(spike, first, last) for spike in spikes)

    keeper.tell_of(is_of_spike)
    nearest = set()
    for spike in spikes:
        own = [peak for peak, high in keeper.kept.items() if belongs_to(spike, high.first, peak)]
        nearest |= set(sorted(own, key=lambda peak: abs(keeper.kept[peak].first - spike.start_step))[:1])
    for peak in set(keeper.kept) - nearest:
        stands_for_it = is_of_spike(keeper.kept[peak].first, peak)
        nothing = "it is no spike by the default policy"
        keeper.drop(peak, "another step of the same spike stands for it" if stands_for_it else nothing)
    found = [peak for peak in nearest if not (keeper.result_folder(peak) / FILE_NAME).exists()]
    return sorted(found, key=lambda peak: (peak != min(found), -keeper.kept[peak].height))


def _replay_all(
    model: keras.Model,
    keeper: ReplayKeeper,
    recording: StepRecording,
    waiting: list[int],
    deadline: float,
    classes: int,
) -> None:
    rows = keeper.rows
    layout = Layout(rows.inputs, rows.input_names, classes, rows.fixed_size)
    with ReplayModel(model, rows, recording) as replayed:
        least = 0.0  # What to look at a spike and to replay it once takes at least.
        for number, peak in enumerate(waiting):
            if time.monotonic() + least > deadline:
                keeper.notes.append(f"{len(waiting) - number} kept spikes were not replayed: the time for it was over.")
                for left in waiting[number:]:
                    keeper.leave_out(left, left, "the time for replays was over")
                return
            started = time.monotonic()
            kept = keeper.read(peak)
            found = analyse(kept, Replayed(replayed, kept, deadline), layout)
            content = {"format": FORMAT, "step": peak, "first_step": kept.first, "state_step": kept.state_step, **found}
            content["seconds"] = time.monotonic() - started
            least = 2.0 * content["seconds"] / (1 + len(found["changes"]))
            text = json.dumps(_finite(content), allow_nan=False, indent=1)
            (keeper.result_folder(peak) / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
