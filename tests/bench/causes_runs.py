"""Trains with and without a trouble, and asks what the spikes came from."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.guarded_trainer.recorder import CurveRecorder
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.replays import read_replays
from tests.bench.causes_forms import FORMS, Stream
from tests.bench.guard_data import Array, DataSet

STEPS, BATCH = 300, 32
KINDS = ("dense", "conv")
# How long replays take is measured, not bounded: on a busy machine a bound would measure its load.
_BUDGET = ReplayBudget(least_seconds=60.0)
RATES = {"sgd": 0.03, "momentum": 0.005, "adam": 0.003}


@dataclasses.dataclass(frozen=True)
class Attributed:
    """What became of one training."""

    data: str
    model: str
    optimizer: str
    forms: tuple[str, ...]
    seed: int
    causes: tuple[str, ...]
    """The true ones; empty for a twin."""
    spikes: int
    step: int
    """Peak of the spike that is scored, the highest; 0 where none arose."""
    ranked: tuple[tuple[str, str, float], ...]
    """Its causes: cause, status and score."""
    verified: tuple[str, ...]
    """Verified causes of any spike."""
    notes: tuple[str, ...]
    fit_seconds: float
    replay_seconds: float

    @property
    def is_first(self) -> bool:
        return bool(self.ranked) and self.ranked[0][0] in self.causes

    @property
    def is_among_two(self) -> bool:
        named = [cause for cause, _, _ in self.ranked if cause != "unknown"]
        return any(cause in self.causes for cause in named[:2])


class Rates(keras.optimizers.schedules.LearningRateSchedule):
    """Rates by step."""

    def __init__(self, rates: Array) -> None:
        self._rates = tf.constant(rates, tf.float32)

    def __call__(self, step: Any) -> Any:
        return self._rates[tf.minimum(tf.cast(step, tf.int32), len(self._rates) - 1)]


def train(
    data: DataSet,
    kind: str,
    optimizer: str,
    forms: Sequence[str],
    seed: int,
    steps: int = STEPS,
    has_replay: bool = True,
) -> Attributed:
    """One training with the troubles `forms`, none for a twin."""
    generator = np.random.default_rng([7, seed])
    per_epoch = max(1, len(data.train_x) // BATCH)
    epochs = [generator.permutation(len(data.train_x))[: per_epoch * BATCH] for _ in range(-(-steps // per_epoch))]
    order = [one for epoch in epochs for one in np.split(epoch, len(epoch) // BATCH)][:steps]
    rates = np.full(steps, RATES[optimizer], np.float32)
    stream = Stream(data.train_x, data.train_y, data.classes, order, rates)
    for number, form in enumerate(forms):
        FORMS[form][1](stream, np.random.default_rng([seed, number, sorted(FORMS).index(form)]))
    keras.utils.set_random_seed(seed)
    model = build(data, kind)
    made = {
        "sgd": lambda rate: keras.optimizers.SGD(rate),
        "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        "adam": lambda rate: keras.optimizers.Adam(rate),
    }[optimizer](Rates(stream.rates))
    loss = (
        "mse"
        if not data.classes
        else keras.losses.BinaryCrossentropy()
        if data.classes == 2
        else "sparse_categorical_crossentropy"
    )
    model.compile(made, loss, jit_compile=False)
    batches = [stream.batch(step) for step in range(stream.steps)]
    with tempfile.TemporaryDirectory() as folder:
        recorder = CurveRecorder(folder, has_tensorboard=False, replay=_BUDGET if has_replay else False)
        started = time.monotonic()
        model.fit(
            _dataset(batches),
            epochs=10,
            steps_per_epoch=len(batches) // 10,
            validation_data=(data.valid_x[:256], data.valid_y[:256]),
            callbacks=[recorder],
            verbose=0,
        )
        seconds = time.monotonic() - started
        replays, notes = read_replays(folder)
        evaluation = result.with_causes(result.evaluate(read_curve(folder)), replays, notes)
    spent = sum(one["seconds"] for one in replays)
    spikes = [*evaluation.explained_spikes, *([evaluation.course] if evaluation.course else [])]
    highest = max(spikes, key=lambda one: one[0].height, default=None)
    return Attributed(
        data.name,
        kind,
        optimizer,
        tuple(forms),
        seed,
        tuple(FORMS[form][0] for form in forms),
        len(spikes),
        highest[0].peak_step if highest else 0,
        tuple((one.cause, one.status, round(one.score, 3)) for one in highest[1]) if highest else (),
        tuple(sorted({one.cause for _, causes in spikes for one in causes if one.status == "verified"})),
        tuple(evaluation.replay_notes),
        seconds - spent,
        spent,
    )


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
