"""Trains one data set by one arm many times: model, optimizer and graph are made once, each run resets all variables."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from spikeguard.components.guarded_trainer.guard import SpikeGuard
from spikeguard.components.guarded_trainer.labels import HUBER_TUNING
from spikeguard.components.guarded_trainer.recipe import Recipe, Schedule
from spikeguard.components.guarded_trainer.schedule import GuardedSchedule, warmup_steps_for
from spikeguard.components.spike_evaluator.detection import DetectionConfig, detect_spikes
from spikeguard.components.spike_evaluator.policy import SpikePolicy, judge
from spikeguard.components.training_curve import TrainingCurve
from tests.bench.guard_baselines import AdaGC, GlobalClip, OlmoSkipStep, ZClip
from tests.bench.guard_data import Array, DataSet, load

Optimizer = keras.optimizers.Optimizer
# The bits of `action` that change a training; a guard may use further ones to say why.
ACTIONS = {"skip": 1, "clip": 2, "back_off": 4, "rollback": 8}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    guard: Callable[[Optimizer], Optimizer] | None = None
    """What goes around Adam."""
    schedule: Schedule = "cosine"
    has_huber: bool = True
    """Whether regressions train on Huber's loss, with 1.345 robust standard deviations of the label, or squared error."""
    has_classification: bool = True
    """Whether the arm differs from others on classifications."""


ARMS = (
    Arm("keras", schedule="constant", has_huber=False),
    Arm("recipe"),
    Arm("global_clip", GlobalClip),
    Arm("zclip", ZClip),
    Arm("zclip_no_ceiling", functools.partial(ZClip, max_norm=None)),
    Arm("adagc", AdaGC),
    Arm("olmo_skip_step", OlmoSkipStep),
    Arm("spikeguard", SpikeGuard),
    Arm("spikeguard_no_skip", functools.partial(SpikeGuard, skips=False)),
    Arm("spikeguard_no_bound", functools.partial(SpikeGuard, bounds_updates=False)),
    Arm("spikeguard_no_clip", functools.partial(SpikeGuard, clips=False)),
    Arm("spikeguard_no_back_off", functools.partial(SpikeGuard, backs_off=False)),
    Arm("spikeguard_no_rollback", functools.partial(SpikeGuard, rolls_back=False)),
    Arm("spikeguard_constant_rate", SpikeGuard, schedule="constant"),
    Arm("spikeguard_squared_error", SpikeGuard, has_huber=False, has_classification=False),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training and what came of it."""

    data: str
    twin: str
    """The same data unspoiled."""
    metric: str
    """What `error` is."""
    arm: str
    rate: float
    seed: int
    verdict: str
    """`stable`, `unstable`, `diverged` or `insufficient`, as the gate judges the recorded losses but those of batches with a
    row of `DataSet.strange`: theirs are high, whatever the weights, and the gate would pass no run that met one."""
    reasons: tuple[str, ...]
    error: float | None
    """Validation error after the last step; None where it is not finite."""
    interventions: dict[str, int]
    """Steps by kind of intervention; a step may count for several."""
    intervened: int
    """Steps intervened in."""
    factor: float | None
    """The guard's factor on the rate after the last step; None where it has none."""
    steps: int
    seconds: float
    gaps: int = 0
    """Steps whose batch held a row that is not finite."""


class Training:
    """Everything that one data set and one arm share over their runs."""

    def __init__(self, data: DataSet, arm: Arm, steps: int) -> None:
        self.data, self.arm, self.steps = data, arm, steps
        self.model = build(data, seed=0)
        self._peak = tf.Variable(0.0, trainable=False, name="peak_rate")
        adam = keras.optimizers.Adam(Schedules(self._peak, arm.schedule, steps))
        self.optimizer = arm.guard(adam) if arm.guard else adam
        self.model.compile(self.optimizer, loss_of(data, arm))
        self.optimizer.build(self.model.trainable_variables)
        signature = tf.TensorSpec((steps, data.batch_size), tf.int32)
        self._train = tf.function(self._loop).get_concrete_function(signature)
        self._predict = tf.function(lambda: self.model(data.valid_x, training=False)).get_concrete_function()
        # Taken from the graph, so that no wrapper can hold state that a reset misses.
        self._state = list({id(variable): variable for variable in self._train.graph.variables}.values())
        self._initial = [variable.numpy() for variable in self._state]
        self._weights: dict[int, list[Any]] = {}

    def _loop(self, batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.constant(self.data.train_x), tf.constant(self.data.train_y)

        def body(step: tf.Tensor, losses: tf.TensorArray, actions: tf.TensorArray) -> tuple[Any, ...]:
            loss, action = self._step(tf.gather(x, batches[step]), tf.gather(y, batches[step]))
            return step + 1, losses.write(step, loss), actions.write(step, action)

        arrays = (tf.TensorArray(tf.float32, self.steps), tf.TensorArray(tf.int32, self.steps))
        _, losses, actions = tf.while_loop(
            lambda step, *_: step < self.steps, body, (tf.constant(0), *arrays), parallel_iterations=1
        )
        return losses.stack(), actions.stack()

    def _step(self, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What Keras' own train step does, without metrics."""
        with tf.GradientTape() as tape:
            true_loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=True), training=True)
            loss = self.optimizer.scale_loss(true_loss)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        action = getattr(self.optimizer, "action", None)
        return true_loss, tf.constant(0) if action is None else tf.cast(tf.convert_to_tensor(action), tf.int32)

    def losses(self, seed: int, rate: float) -> tuple[Array, npt.NDArray[np.int32]]:
        """Trains from the start; the loss of each step before its update, and the action taken in it."""
        if seed not in self._weights:
            self._weights[seed] = build(self.data, seed).get_weights()
        for variable, value in zip(self._state, self._initial, strict=True):
            variable.assign(value)
        self.model.set_weights(self._weights[seed])
        self._peak.assign(rate)
        loss, action = self._train(tf.constant(self.data.batches(seed, self.steps)))
        return loss.numpy(), action.numpy()

    def run(self, seed: int, rate: float) -> Run:
        """Trains, judges and validates."""
        started = time.monotonic()
        loss, action = self.losses(seed, rate)
        rows = self.data.batches(seed, self.steps)
        strange = np.zeros(len(self.data.train_x), dtype=bool) if self.data.strange is None else self.data.strange
        curve = TrainingCurve.from_losses(loss[~strange[rows].any(axis=1)])
        is_whole = np.isfinite(self.data.train_x).all(axis=1)[rows].all(axis=1)
        verdict, reasons = judge(curve, detect_spikes(curve, DetectionConfig()), SpikePolicy())
        error, factor = self.data.error(self._predict().numpy()), getattr(self.optimizer, "factor", None)
        return Run(
            data=self.data.name,
            twin=self.data.twin,
            metric=self.data.metric,
            arm=self.arm.name,
            rate=rate,
            seed=seed,
            verdict=verdict,
            reasons=reasons,
            error=error if np.isfinite(error) else None,
            interventions={name: int(np.sum(action & bit > 0)) for name, bit in ACTIONS.items()},
            intervened=int(np.sum(action & sum(ACTIONS.values()) > 0)),
            factor=None if factor is None else float(tf.convert_to_tensor(factor)),
            steps=self.steps,
            seconds=time.monotonic() - started,
            gaps=int(np.sum(~is_whole)),
        )


class Schedules(keras.optimizers.schedules.LearningRateSchedule):
    """The recipe's schedule of a peak rate that is read from a variable at every step."""

    def __init__(self, peak: tf.Variable, schedule: Schedule, steps: int) -> None:
        self._peak = peak
        self._shape = GuardedSchedule(1.0, steps, 0 if schedule == "constant" else warmup_steps_for(steps), schedule)

    def __call__(self, step: Any) -> Any:
        return self._peak * self._shape(step)


def build(data: DataSet, seed: int) -> keras.Model:
    """The default dense network on a matrix of features; regressions predict in robust units of the label."""
    keras.utils.set_random_seed(seed)
    inputs = hidden = keras.Input((data.train_x.shape[1],))
    for units in Recipe().hidden_units:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    if data.task == "regression":
        return keras.Model(inputs, keras.layers.Dense(1)(hidden))
    if data.classes <= 2:
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    return keras.Model(inputs, keras.layers.Dense(data.classes, activation="softmax")(hidden))


def loss_of(data: DataSet, arm: Arm) -> keras.losses.Loss:
    """The loss that an arm trains this data set on."""
    if data.task == "regression":
        return keras.losses.Huber(delta=HUBER_TUNING) if arm.has_huber else keras.losses.MeanSquaredError()
    return keras.losses.BinaryCrossentropy() if data.classes <= 2 else keras.losses.SparseCategoricalCrossentropy()


def arm_named(name: str) -> Arm:
    """The arm of this name; StopIteration where there is none."""
    return next(arm for arm in ARMS if arm.name == name)


def run_all(data: str, arm: str, rates: Sequence[float], seeds: int, steps: int | None) -> list[Run]:
    """All runs of one data set and one arm. Names only, so that it can be called in another process."""
    loaded = load(data)
    training = Training(loaded, arm_named(arm), steps or loaded.steps)
    return [training.run(seed, rate) for seed in range(seeds) for rate in rates]
