"""Trains with and without a trouble, and asks what the spikes came from."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.guarded_trainer.guard import SpikeGuard
from spikeguard.components.guarded_trainer.recorder import CurveRecorder
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget
from spikeguard.components.robust import robust_sd
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.ranking import RankedCause
from spikeguard.components.spike_evaluator.causes.replays import read_replays
from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve
from tests.bench.causes_data import load
from tests.bench.causes_forms import FORMS, Stream
from tests.bench.causes_more_forms import MORE_FORMS
from tests.bench.guard_data import Array, DataSet

STEPS, BATCH = 300, 32
VALIDATIONS = 30
KINDS = ("dense", "conv")
# How long replays take is measured, not bounded: on a busy machine a bound would measure its load.
_BUDGET = ReplayBudget(least_seconds=60.0)
RATES = {"sgd": 0.03, "momentum": 0.005, "adam": 0.003}
# Standard deviations beyond which a row of the data as they are is an outlier in any eyes.
_FAR = 15.0
ALL_FORMS = {**FORMS, **MORE_FORMS}
_OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda rate: keras.optimizers.SGD(rate),
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "adam": lambda rate: keras.optimizers.Adam(rate),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained."""

    data: str
    model: str
    optimizer: str
    forms: tuple[str, ...]
    """The troubles; none for a twin."""
    seed: int
    is_guarded: bool = False


@dataclasses.dataclass(frozen=True)
class Attributed(Run):
    """What became of one training."""

    causes: tuple[str, ...] = ()
    """The true ones; empty for a twin."""
    spikes: int = 0
    step: int = 0
    """Peak of the spike that is scored, the highest that came from the troubles; 0 where none arose."""
    height: float = 0.0
    """Of that spike, in standard deviations."""
    ranked: tuple[tuple[str, str, float], ...] = ()
    """Its causes: cause, status and score."""
    told: str = ""
    """The first of them in words."""
    validation_ranked: tuple[tuple[str, str, float], ...] = ()
    """The same of the highest spike of the validation loss that came from the troubles; of any at all for a twin."""
    verified: tuple[str, ...] = ()
    """Verified causes of any spike that came from the troubles; of any at all for a twin, but for `own_outliers`."""
    own_outliers: int = 0
    """Spikes of a twin with outliers verified, in whose batches the data have a row beyond all measure by themselves."""
    notes: tuple[str, ...] = ()
    fit_seconds: float = 0.0
    """Of the training without replays, and without what is traced once for many runs."""
    replay_seconds: float = 0.0

    @property
    def is_first(self) -> bool:
        return bool(self.ranked) and self.ranked[0][0] in self.causes

    @property
    def is_first_of_validation(self) -> bool:
        return bool(self.validation_ranked) and self.validation_ranked[0][0] in self.causes

    @property
    def is_among_two(self) -> bool:
        named = [cause for cause, _, _ in self.ranked if cause != "unknown"]
        return any(cause in self.causes for cause in named[:2])


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """Rates by step, which each run sets anew."""

    def __init__(self) -> None:
        self._rates = tf.Variable(tf.zeros([1]), shape=[None], trainable=False)

    def set(self, rates: Array) -> None:
        self._rates.assign(rates)

    def __call__(self, step: Any) -> Any:
        return self._rates[tf.minimum(tf.cast(step, tf.int32), tf.shape(self._rates)[0] - 1)]


class Trainer:
    """Trains one model on one data set by one optimizer, any number of times from the beginning.

    A step is traced once, which takes longer than 300 of them; weights, optimizer, guard and recorder begin anew each time.
    """

    def __init__(self, data: DataSet, kind: str, optimizer: str, is_guarded: bool) -> None:
        self._data, self._kind = data, kind
        self._rates = Rates()
        inner = _OPTIMIZERS[optimizer](self._rates)
        self._model = build(data, kind)
        binary = keras.losses.BinaryCrossentropy() if data.classes == 2 else "sparse_categorical_crossentropy"
        self._model.compile(
            SpikeGuard(inner) if is_guarded else inner, binary if data.classes else "mse", jit_compile=False
        )
        self._model.optimizer.build(self._model.trainable_variables)
        self._fresh = [np.array(variable.numpy()) for variable in self._model.optimizer.variables]
        self._recorder: CurveRecorder | None = None

    def fit(self, stream: Stream, seed: int, folder: pathlib.Path) -> float:
        """Trains from the beginning into a folder; what it took, in seconds."""
        keras.utils.set_random_seed(seed)
        model = self._model
        model.set_weights(build(self._data, self._kind).get_weights())
        for variable, value in zip(model.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self._rates.set(stream.rates)
        batches = _dataset([stream.batch(step) for step in range(stream.steps)])
        if self._recorder is None:
            self._recorder = CurveRecorder(folder, has_tensorboard=False, replay=_BUDGET)
        else:
            self._recorder.restart(folder)
        started = time.monotonic()
        model.fit(
            batches,
            epochs=VALIDATIONS,
            steps_per_epoch=stream.steps // VALIDATIONS,
            validation_data=(self._data.valid_x[:256], self._data.valid_y[:256]),
            validation_batch_size=256,
            callbacks=[self._recorder],
            verbose=0,
        )
        return time.monotonic() - started


@functools.cache
def _trainer(name: str, kind: str, optimizer: str, is_guarded: bool) -> Trainer:
    return Trainer(load(name), kind, optimizer, is_guarded)


def stream_of(run: Run, steps: int = STEPS) -> Stream:
    """The run's batches and rates, its troubles in them."""
    data, generator = load(run.data), np.random.default_rng([7, run.seed])
    per_epoch = max(1, len(data.train_x) // BATCH)
    epochs = [generator.permutation(len(data.train_x))[: per_epoch * BATCH] for _ in range(-(-steps // per_epoch))]
    order = [one for epoch in epochs for one in np.split(epoch, len(epoch) // BATCH)][:steps]
    stream = Stream(data.train_x, data.train_y, data.classes, order, np.full(steps, RATES[run.optimizer], np.float32))
    for number, form in enumerate(run.forms):
        family = FORMS if form in FORMS else MORE_FORMS
        family[form][1](stream, np.random.default_rng([run.seed, number, sorted(family).index(form)]))
    return stream


def train(run: Run, folder: pathlib.Path, twin: TrainingCurve | None, steps: int = STEPS) -> Attributed:
    """One training, and what its spikes are said to come from.

    Args:
      run: what to train.
      folder: where curve and replays go.
      twin: the curve of the same training without troubles; None where this is the twin.
      steps: a multiple of `VALIDATIONS`.
    """
    trainer = _trainer(run.data, run.model, run.optimizer, run.is_guarded)
    seconds = trainer.fit(stream_of(run, steps), run.seed, folder)
    for kept in folder.glob("replay/*/kept.npz"):
        kept.unlink()  # Large, and of no use after the replay.
    found = attribute(run, folder, twin)
    return dataclasses.replace(found, fit_seconds=seconds - found.replay_seconds)


def came_from_trouble(spike: Spike, step: Ints, loss: Floats) -> bool:
    """Whether a spike came from what was put in: with nothing put in, the loss would not have been half as far up.

    Args:
      spike: of a training with troubles.
      step: of its twin's losses, increasing.
      loss: the twin's losses.
    """
    rise = min(spike.loss_at_peak, 1e30) - spike.expected_loss
    own = float(loss[np.searchsorted(step, spike.peak_step)])
    return np.isfinite(own) and own - spike.expected_loss < 0.5 * rise


def has_far_row(run: Run, spike: Spike) -> bool:
    """Whether a batch of a twin at a spike holds a row whose label or feature is far from all others: an outlier of the data."""
    data = load(run.data)
    rows = np.concatenate(stream_of(run).order[max(0, spike.start_step - 3) : spike.peak_step])
    far = np.abs(data.train_x[rows]).max()
    if not data.classes:
        sd = robust_sd(data.train_y[:, 0].astype(np.float64))
        far = max(far, np.abs(data.train_y[rows] - np.median(data.train_y)).max() / sd)
    return bool(far > _FAR)


def attribute(run: Run, folder: pathlib.Path, twin: TrainingCurve | None) -> Attributed:
    """What the spikes of a recorded run are said to come from; of a run with troubles, those that came from these."""
    replays, notes = read_replays(folder)
    evaluation = result.with_causes(result.evaluate(read_curve(folder)), replays, notes)
    spikes = [*evaluation.explained_spikes, *([evaluation.course] if evaluation.course else [])]
    of_validation = list(evaluation.explained_validation_spikes)
    if twin is not None:
        spikes = [one for one in spikes if came_from_trouble(one[0], twin.step, twin.loss)]
        passes = twin.validation_step, twin.validation_loss
        of_validation = [one for one in of_validation if came_from_trouble(one[0], *passes)]
    verified = [(spike, {one.cause for one in causes if one.status == "verified"}) for spike, causes in spikes]
    own = [spike for spike, names in verified if twin is None and names == {"outliers"} and has_far_row(run, spike)]
    highest = max(spikes, key=lambda one: one[0].height, default=None)
    highest_of_validation = max(of_validation, key=lambda one: one[0].height, default=(None, ()))
    found = Attributed(
        **dataclasses.asdict(run),
        causes=tuple(ALL_FORMS[form][0] for form in run.forms),
        spikes=len(spikes),
        verified=tuple(sorted({name for spike, names in verified if spike not in own for name in names})),
        own_outliers=len(own),
        validation_ranked=_ranked(highest_of_validation[1]),
        notes=tuple(evaluation.replay_notes),
        replay_seconds=sum(one.get("seconds", 0.0) for one in replays),
    )
    if highest is None:
        return found
    spike, causes = highest
    return dataclasses.replace(
        found,
        step=spike.peak_step,
        height=round(spike.height, 1),
        ranked=_ranked(causes),
        told=causes[0].text,
    )


def _ranked(causes: Sequence[RankedCause]) -> tuple[tuple[str, str, float], ...]:
    return tuple((one.cause, one.status, round(one.score, 3)) for one in causes)


def _dataset(batches: list[tuple[Array, Array]]) -> tf.data.Dataset:
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    sizes = np.array([len(one) for one, _ in batches])
    ends = tf.constant(np.cumsum(sizes))
    starts = ends - sizes
    values, labels = tf.constant(x), tf.constant(y)
    return tf.data.Dataset.range(len(batches)).map(
        lambda step: (values[starts[step] : ends[step]], labels[starts[step] : ends[step]])
    )


def build(data: DataSet, kind: str) -> keras.Model:
    """A dense network, or a small convolution along the features."""
    inputs = hidden = keras.Input((data.train_x.shape[1],))
    if kind == "conv":
        hidden = keras.layers.Reshape((-1, 1))(hidden)
        hidden = keras.layers.Conv1D(8, 3, padding="same", activation="relu")(hidden)
        hidden = keras.layers.Flatten()(hidden)
    hidden = keras.layers.Dense(32, activation="relu")(hidden)
    hidden = keras.layers.Dense(16, activation="relu")(hidden)
    if not data.classes:
        return keras.Model(inputs, keras.layers.Dense(1)(hidden))
    return keras.Model(
        inputs,
        keras.layers.Dense(
            1 if data.classes == 2 else data.classes, activation="sigmoid" if data.classes == 2 else "softmax"
        )(hidden),
    )
