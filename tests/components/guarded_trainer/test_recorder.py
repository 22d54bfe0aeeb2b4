"""The recorder inside real Keras training."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import spikeguard

ROWS, BATCH = 200, 32


def _data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def _model(**compile_options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse", **compile_options)
    return model


def _plain_losses(epochs: int) -> tuple[list[float], list[float]]:
    """True losses and gradient norms of the same training, step by step, without Keras' loop."""
    import tensorflow as tf

    model, (x, y) = _model(), _data()
    losses, norms = [], []
    for _ in range(epochs):
        for start in range(0, ROWS, BATCH):
            with tf.GradientTape() as tape:
                loss = model.compute_loss(y=y[start : start + BATCH], y_pred=model(x[start : start + BATCH]))
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            losses.append(float(loss))
            norms.append(float(tf.linalg.global_norm(gradients)))
    return losses, norms


@pytest.mark.parametrize(
    "options",
    [{}, {"steps_per_execution": 3}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=["graph", "steps_per_execution", "jit", "eager"],
)
def test_recorded_losses_are_those_of_each_batch(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    model, (x, y) = _model(**options), _data()
    recorder = spikeguard.CurveRecorder(tmp_path, block_steps=4)
    history = model.fit(
        x, y, batch_size=BATCH, epochs=3, shuffle=False, validation_data=(x, y), verbose=0, callbacks=[recorder]
    )
    curve = spikeguard.read_curve(tmp_path)
    losses, norms = _plain_losses(epochs=3)
    np.testing.assert_array_equal(curve.step, np.arange(1, 22))
    np.testing.assert_allclose(curve.loss, losses, rtol=1e-4)
    np.testing.assert_allclose(curve.gradient_norm, norms, rtol=1e-4)
    np.testing.assert_array_equal(curve.batch_size, [32, 32, 32, 32, 32, 32, 8] * 3)
    np.testing.assert_array_equal(curve.epoch, np.repeat([0, 1, 2], 7))
    np.testing.assert_allclose(curve.learning_rate, 1e-3, rtol=1e-6)
    np.testing.assert_array_equal(curve.validation_step, [7, 14, 21])
    np.testing.assert_allclose(curve.validation_loss, history.history["val_loss"], rtol=1e-6)


def test_schedule_is_recorded_as_the_update_used_it(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)), "mse")
    model.fit(x, y, batch_size=100, epochs=2, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    np.testing.assert_allclose(spikeguard.read_curve(tmp_path).learning_rate, [0.1, 0.05, 0.025, 0.0125], rtol=1e-6)


def test_second_fit_continues_the_curve(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    recorder = spikeguard.CurveRecorder(tmp_path)
    for _ in range(2):
        model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[recorder])
    np.testing.assert_array_equal(spikeguard.read_curve(tmp_path).step, np.arange(1, 15))


def test_model_is_as_before_when_training_has_ended(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    before = {*model.__dict__}, {*model.optimizer.__dict__}
    model.fit(x, y, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    assert not {"train_step", "compute_loss"} & ({*model.__dict__} - before[0])
    assert "apply_gradients" not in model.optimizer.__dict__
    model.fit(x, y, batch_size=BATCH, verbose=0)
    assert len(spikeguard.read_curve(tmp_path)) == 7


def test_training_is_the_same_with_and_without_recorder(tmp_path: pathlib.Path) -> None:
    x, y = _data()
    plain, recorded = _model(), _model()
    plain.fit(x, y, epochs=2, shuffle=False, verbose=0)
    recorded.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    for one, other in zip(plain.get_weights(), recorded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_tensorboard_shows_the_same_losses(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    shown = [float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors("batch_loss")]
    np.testing.assert_allclose(shown, spikeguard.read_curve(tmp_path).loss, rtol=1e-6)


_ENDLESS = """
import keras, numpy as np, spikeguard, sys
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
class Tell(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print(epoch, flush=True)
x = np.zeros((100, 4), "float32")
recorder = spikeguard.CurveRecorder(sys.argv[1], block_steps=20, has_tensorboard=False)
model.fit(x, x[:, :1], batch_size=10, epochs=10**6, verbose=0, callbacks=[recorder, Tell()])
"""


def test_killed_run_loses_at_most_one_block(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as training:
        assert training.stdout is not None
        for _ in range(25):
            epoch = int(training.stdout.readline())
        training.send_signal(signal.SIGKILL)
    curve = spikeguard.read_curve(tmp_path)
    np.testing.assert_array_equal(curve.step, np.arange(1, len(curve) + 1))
    assert len(curve) >= (epoch + 1) * 10 - 20


def test_error_names_the_folder_when_it_cannot_be_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(spikeguard.InvalidArgumentError, match="log_dir must be a folder that can be written"):
        spikeguard.CurveRecorder(tmp_path / "file" / "run")


def test_error_names_the_folder_when_it_holds_a_curve(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    model.fit(x, y, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    with pytest.raises(spikeguard.InvalidArgumentError, match="log_dir must not hold a curve already"):
        spikeguard.CurveRecorder(tmp_path)


def test_error_names_the_block_length_when_it_is_zero(tmp_path: pathlib.Path) -> None:
    with pytest.raises(spikeguard.InvalidArgumentError, match="block_steps must be at least 1; got 0"):
        spikeguard.CurveRecorder(tmp_path, block_steps=0)
