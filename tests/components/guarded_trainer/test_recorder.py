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
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import spikeguard
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.guard import steps_done

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
    curve = spikeguard.read_curve(tmp_path)
    for tag, values in (("batch_loss", curve.loss), ("gradient_norm", curve.gradient_norm)):
        assert [event.step for event in events.Scalars(tag)] == curve.step.tolist()
        np.testing.assert_allclose([event.value for event in events.Scalars(tag)], values, rtol=1e-6)


def test_regularization_is_part_of_the_total_loss_alone(tmp_path: pathlib.Path) -> None:
    x, y = _data()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.1))])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = [weight.copy() for weight in model.get_weights()]
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    curve = spikeguard.read_curve(tmp_path)
    loss = float(np.mean((x @ before[0] + before[1] - y) ** 2))
    assert curve.loss[0] == pytest.approx(loss, rel=1e-5)
    assert curve.total_loss[0] == pytest.approx(loss + 0.1 * np.sum(before[0] ** 2), rel=1e-5)


def test_update_input_and_label_are_measured(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    before = model.get_weights()
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    changes = [new - old for new, old in zip(model.get_weights(), before, strict=True)]
    expected = np.sqrt(sum(np.sum(change**2) for change in changes) / sum(np.sum(old**2) for old in before))
    curve = spikeguard.read_curve(tmp_path)
    assert curve.update_ratio[0] == pytest.approx(expected, rel=1e-4)
    assert curve.largest_input[0] == pytest.approx(np.abs(x).max())
    assert curve.label_mean[0] == pytest.approx(y.mean(), abs=1e-6)
    assert (curve.guard_factor[0], curve.guard_action[0]) == (1.0, 0)


def test_input_that_is_not_a_number_is_not_hidden_by_larger_ones(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    x[17, 2], x[18, 1] = np.nan, 99.0
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    curve = spikeguard.read_curve(tmp_path)
    assert np.isnan(curve.largest_input[0])
    assert np.isfinite(curve.largest_input[1:]).all()
    # TensorFlow's relu makes a zero of it, so that the loss does not tell; the gradient does.
    assert np.isnan(curve.gradient_norm[0])


@pytest.mark.parametrize("is_jit", [False, True])
def test_worst_examples_are_named(tmp_path: pathlib.Path, is_jit: bool) -> None:
    x, y = _data()
    inputs = {"features": keras.Input((4,), name="features")}
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs["features"]))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=is_jit)
    losses = ((model.predict({"features": x}, verbose=0) - y) ** 2).ravel()
    weights = np.linspace(0.5, 1.5, ROWS).astype("float32")
    ids = np.arange(ROWS) + 2**60
    recorder = spikeguard.CurveRecorder(tmp_path, worst_examples=3)
    data = {"features": x, "example_id": ids}
    # 199 rows leave a last batch of 7, and with 64 there is one of 3 + 4 rows.
    model.fit(data, y, sample_weight=weights, batch_size=99, shuffle=False, verbose=0, callbacks=[recorder])
    curve = spikeguard.read_curve(tmp_path)
    for step, rows in enumerate((range(99), range(99, 198), range(198, 200))):
        order = sorted(rows, key=lambda row: -losses[row] * weights[row])[:3]
        found = len(order)
        np.testing.assert_array_equal(curve.worst_id[step][:found], ids[order])
        np.testing.assert_allclose(curve.worst_loss[step][:found], (losses * weights)[order], rtol=1e-4)
        assert np.isnan(curve.worst_loss[step][found:]).all()
        assert (curve.worst_id[step][found:] == -1).all()


@pytest.mark.parametrize(
    ("loss", "width", "encode"),
    [
        ("binary_crossentropy", 1, lambda label: (label > 1).astype("float32")),
        ("sparse_categorical_crossentropy", 3, lambda label: label),
        (keras.losses.CategoricalCrossentropy(), 3, lambda label: np.eye(3, dtype="float32")[label]),
        (keras.losses.SparseCategoricalCrossentropy(), 3, lambda label: label[:, None]),
    ],
    ids=["binary", "sparse", "one-hot", "column"],
)
def test_classes_are_counted_in_each_batch(tmp_path: pathlib.Path, loss: Any, width: int, encode: Any) -> None:
    x, _ = _data()
    label = np.random.default_rng(3).integers(0, 3, size=ROWS)
    activation = "sigmoid" if width == 1 else "softmax"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, activation=activation)])
    model.compile("sgd", loss)
    # One class counts double, which changes losses and no count.
    weights = {0: 2.0, 1: 1.0} if width == 1 else {0: 1.0, 1: 1.0, 2: 2.0}
    recorder = spikeguard.CurveRecorder(tmp_path)
    model.fit(x, encode(label), batch_size=50, shuffle=False, class_weight=weights, verbose=0, callbacks=[recorder])
    classes = (label > 1).astype(int) if width == 1 else label
    expected = [np.bincount(classes[start : start + 50], minlength=max(2, width)) for start in range(0, ROWS, 50)]
    curve = spikeguard.read_curve(tmp_path)
    np.testing.assert_array_equal(curve.class_counts, expected)
    assert (np.diff(curve.worst_loss) <= 0).all()


def test_actions_of_the_guard_are_recorded(tmp_path: pathlib.Path) -> None:
    model, (x, y) = _model(), _data()
    model.compile(spikeguard.SpikeGuard(keras.optimizers.Adam(0.01)), "mse")
    x[BATCH + 1] = np.inf
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    curve = spikeguard.read_curve(tmp_path)
    assert [bool(action) for action in curve.guard_action] == [False, True] + [False] * 5
    assert spikeguard.GuardAction.SKIP in spikeguard.GuardAction(int(curve.guard_action[1]))
    assert curve.update_ratio[1] == 0.0
    assert (curve.update_ratio[2:] > 0).all()
    np.testing.assert_allclose(curve.learning_rate, 0.01, rtol=1e-6)


def test_guard_is_found_when_it_is_inside_a_loss_scale_optimizer(tmp_path: pathlib.Path) -> None:
    x, y = _data()
    guard = spikeguard.SpikeGuard(keras.optimizers.Adam(0.01))
    layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.LossScaleOptimizer(guard, initial_scale=4.0), "mse", jit_compile=False)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    assert [copy.shape.as_list() for copy in guard.protected_copies] == [[8]]  # Mean and variance of four features.
    assert steps_done(model.optimizer) == guard.steps == 7
    assert steps_done(keras.optimizers.SGD()) == 0


class TwoHeads(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.heads = {"a": keras.layers.Dense(1), "b": keras.layers.Dense(2)}

    def call(self, inputs: Any) -> Any:
        return {name: head(inputs) for name, head in self.heads.items()}


def test_subclassed_model_with_two_outputs_is_recorded(tmp_path: pathlib.Path) -> None:
    x, y = _data()
    model = TwoHeads()
    model.compile("sgd", {"a": "mse", "b": "mae"})
    recorder = spikeguard.CurveRecorder(tmp_path)
    logs = model.fit(x, {"a": y, "b": x[:, :2]}, batch_size=ROWS, verbose=0, callbacks=[recorder]).history
    curve = spikeguard.read_curve(tmp_path)
    assert curve.loss[0] == pytest.approx(logs["loss"][0], rel=1e-5)
    assert curve.worst_loss.shape == (1, 0)


class OwnStep(keras.Model):
    def __init__(self, shows_loss: bool) -> None:
        super().__init__()
        self.dense, self.shows_loss = keras.layers.Dense(1), shows_loss

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred) if self.shows_loss else tf.reduce_mean((y - y_pred) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_own_train_step_is_recorded(tmp_path: pathlib.Path) -> None:
    model, (x, y) = OwnStep(shows_loss=True), _data()
    model.compile("sgd", "mse")
    expected = np.mean((model.predict(x, verbose=0) - y) ** 2)
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])
    curve = spikeguard.read_curve(tmp_path)
    assert curve.loss[0] == pytest.approx(expected, rel=1e-5)
    assert curve.gradient_norm[0] > 0


def test_error_names_the_model_when_its_loss_cannot_be_seen(tmp_path: pathlib.Path) -> None:
    model, (x, y) = OwnStep(shows_loss=False), _data()
    model.compile("sgd", "mse")
    with pytest.raises(spikeguard.InvalidArgumentError, match="model must compute its loss by compute_loss"):
        model.fit(x, y, verbose=0, callbacks=[spikeguard.CurveRecorder(tmp_path)])


def test_nothing_is_lost_when_fit_raises(tmp_path: pathlib.Path) -> None:
    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                raise KeyboardInterrupt

    model, (x, y) = _model(), _data()
    recorder = spikeguard.CurveRecorder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder, Stop()])
    recorder.flush()
    assert len(spikeguard.read_curve(tmp_path)) == 4
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder])
    np.testing.assert_array_equal(spikeguard.read_curve(tmp_path).step, np.arange(1, 12))
    assert "train_step" not in model.__dict__


def test_step_is_traced_once_for_many_fits(tmp_path: pathlib.Path) -> None:
    traces = []

    class Counted(keras.Model):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            traces.append(1)
            return super().compute_loss(*args, **kwargs)

    x, y = _data()
    inputs = keras.Input((4,))
    model = Counted(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    recorder = spikeguard.CurveRecorder(tmp_path)
    for _ in range(4):
        model.fit(x, y, batch_size=50, verbose=0, callbacks=[recorder])
        per_fit = len(traces)
    after_first = len(traces)
    for _ in range(4):
        model.fit(x, y, batch_size=50, verbose=0, callbacks=[recorder])
    assert len(traces) == after_first == per_fit
    model.compile("sgd", "mae")
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[recorder])
    expected = np.abs(model.predict(x, verbose=0) - y).mean()
    assert spikeguard.read_curve(tmp_path).loss[-1] == pytest.approx(expected, rel=0.2)
    # Nor is it traced for another run, whose curve begins anew.
    before, steps = len(traces), len(spikeguard.read_curve(tmp_path))
    recorder.restart(tmp_path / "again")
    for _ in range(2):
        model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[recorder])
    assert len(traces) == before
    assert len(spikeguard.read_curve(tmp_path)) == steps
    again = spikeguard.read_curve(tmp_path / "again")
    np.testing.assert_array_equal(again.step, [1, 2])
    np.testing.assert_array_equal(again.position, [0, 0])
    with pytest.raises(InvalidArgumentError, match="not hold a curve already"):
        recorder.restart(tmp_path)


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


_RESUMED = """
import keras, numpy as np, os, signal, spikeguard, sys
folder, kill_at = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(1)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
model.compile(spikeguard.SpikeGuard(keras.optimizers.Adam(0.01)), "mse")
x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
callbacks = [
    keras.callbacks.BackupAndRestore(folder + "/backup", delete_checkpoint=False),
    spikeguard.CurveRecorder(folder, block_steps=4, resumes=True),
    Kill(),
]
model.fit(x, x.sum(1), batch_size=10, epochs=6, shuffle=False, verbose=0, callbacks=callbacks)
np.save(folder + "/weights.npy", model.get_weights()[0])
"""


def test_killed_and_resumed_fit_ends_with_the_undisturbed_curve(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ends = []
    for folder, kills in (("whole", [0]), ("killed", [47, 0])):
        (tmp_path / folder).mkdir()
        for kill_at in kills:
            command = [sys.executable, "-c", _RESUMED, str(tmp_path / folder), str(kill_at)]
            status = subprocess.run(command, env=environment, capture_output=True).returncode
            assert status == (-signal.SIGKILL if kill_at else 0)
        ends.append((spikeguard.read_curve(tmp_path / folder), np.load(tmp_path / folder / "weights.npy")))
    (whole, weights), (killed, resumed_weights) = ends
    for column in ("step", "epoch", "position", "batch_size"):
        np.testing.assert_array_equal(getattr(whole, column), getattr(killed, column))
    np.testing.assert_allclose(whole.loss, killed.loss, rtol=1e-5)
    np.testing.assert_allclose(weights, resumed_weights, rtol=1e-5)


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
