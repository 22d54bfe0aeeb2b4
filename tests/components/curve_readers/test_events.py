"""Event files as TensorFlow and TensorBoard write them."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import spikeguard
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.recorded_curve import read_recorded
from spikeguard.components.spike_evaluator.result import evaluate


def _write(folder: pathlib.Path, tag: str, losses: list[float], first: int = 1) -> pathlib.Path:
    """Scalars of the first kind, which PyTorch's writer still writes."""
    writer = EventFileWriter(str(folder))
    for step, loss in enumerate(losses, start=first):
        value = summary_pb2.Summary.Value(tag=tag, simple_value=loss)
        writer.add_event(event_pb2.Event(step=step, wall_time=step, summary=summary_pb2.Summary(value=[value])))
    writer.close()
    (path,) = folder.glob("*tfevents*")
    return path


def test_scalars_of_tensorflow_are_read(tmp_path: pathlib.Path) -> None:
    with tf.summary.create_file_writer(str(tmp_path / "run")).as_default():
        for step in range(1, 4):
            tf.summary.scalar("train/loss", 1.0 / step, step=step)
            tf.summary.scalar("learning rate", 0.5, step=step)
            tf.summary.histogram("hidden_loss", [1.0, 2.0], step=step)
            tf.summary.text("loss_text", "loss", step=step)
        tf.summary.scalar("val_loss", 2.0, step=3)
    curve = spikeguard.read_curve(tmp_path)
    np.testing.assert_allclose(curve.loss, [1, 1 / 2, 1 / 3], rtol=1e-6)
    assert (curve.step.tolist(), curve.learning_rate.tolist()) == ([1, 2, 3], [0.5] * 3)
    assert (curve.validation_step.tolist(), curve.validation_loss.tolist()) == ([3], [2.0])
    assert list(spikeguard.read_curves(tmp_path)) == ["run"]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (types_pb2.DT_FLOAT, {"float_val": [0.5]}),
        (types_pb2.DT_FLOAT, {"tensor_content": np.array([0.5], "<f4").tobytes()}),
        (types_pb2.DT_DOUBLE, {"double_val": [0.5]}),
        (types_pb2.DT_DOUBLE, {"tensor_content": np.array([0.5], "<f8").tobytes()}),
        (types_pb2.DT_HALF, {"half_val": [int(np.array(0.5, "<f2").view("<u2"))]}),
        (types_pb2.DT_HALF, {"tensor_content": np.array([0.5], "<f2").tobytes()}),
    ],
)
def test_loss_is_read_from_any_tensor(tmp_path: pathlib.Path, dtype: int, values: dict[str, object]) -> None:
    tensor = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=tensor_shape_pb2.TensorShapeProto(), **values)
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag="loss", tensor=tensor)])
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(event_pb2.Event(step=1, summary=summary))
    writer.close()
    assert spikeguard.read_curve(tmp_path).loss.tolist() == [0.5]


def test_runs_are_folders_and_unknown_losses_are_curves(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "a", "Loss/train", [2.0, 1.0])
    _write(tmp_path / "b", "d_loss", [3.0])
    _write(tmp_path / "eval", "loss", [4.0])
    curves = spikeguard.read_curves(tmp_path)
    assert {name: curve.loss.tolist() for name, curve in curves.items()} == {"a": [2.0, 1.0], "b/d_loss": [3.0]}


def test_steps_go_back_when_a_second_file_follows(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "x", "loss", [4.0, 3.0, 2.0]).rename(tmp_path / "events.out.tfevents.0000000009.host")
    _write(tmp_path / "y", "loss", [2.5, 2.25], first=2).rename(tmp_path / "events.out.tfevents.0000000010.host")
    curve = spikeguard.read_curve(tmp_path)
    assert (curve.step.tolist(), curve.loss.tolist()) == ([1, 2, 3, 2, 3], [4, 3, 2, 2.5, 2.25])


@pytest.mark.parametrize("damage", ["cut", "length", "data"])
def test_damaged_tail_is_left_out_with_a_note(tmp_path: pathlib.Path, damage: str) -> None:
    path = _write(tmp_path, "loss", [1.0] * 100)
    content = bytearray(path.read_bytes())
    size = (len(content) - len(content) % 100) // 100
    if damage == "cut":
        del content[-5:]
    else:
        place = content.rindex(b"loss") - (4 if damage == "data" else 30)
        content[place - 8 : place] = b"\xff" * 8
    path.write_bytes(bytes(content))
    curve = spikeguard.read_curve(path)
    assert 90 <= len(curve) < 100, size
    assert "is cut or damaged" in curve.notes[0]
    assert curve.is_cut
    evaluation = evaluate(curve)
    assert (evaluation.verdict, evaluation.is_blessed) == ("insufficient", False)
    assert "breaks off" in evaluation.reasons[0]
    # A training that was killed and went on in another file has its end.
    path.rename(tmp_path / "events.out.tfevents.0000000009.host")
    _write(tmp_path / "y", "loss", [1.0] * 20, first=90).rename(tmp_path / "events.out.tfevents.0000000010.host")
    assert not spikeguard.read_curve(tmp_path).is_cut


def test_error_when_a_folder_has_no_losses(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, "accuracy", [1.0])
    with pytest.raises(InvalidDataError, match="holds no training curve"):
        spikeguard.read_curves(tmp_path)


@pytest.mark.parametrize("update_freq", ["batch", 3])
def test_batch_losses_come_back_from_what_keras_logs(tmp_path: pathlib.Path, update_freq: str | int) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(340, 4)).astype("float32")  # 10 batches of 32 rows and one of 20.
    labels = features[:, :1] + rng.normal(size=(340, 1)).astype("float32")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callbacks = [
        spikeguard.CurveRecorder(tmp_path / "recorded"),
        keras.callbacks.TensorBoard(tmp_path / "keras", update_freq=update_freq),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    validation = (features[:50], labels[:50])
    model.fit(features, labels, batch_size=32, epochs=6, validation_data=validation, verbose=0, callbacks=callbacks)
    true = read_recorded(tmp_path / "recorded")

    curve = spikeguard.read_curve(tmp_path / "keras")
    assert (curve.kind, curve.loss_is) == ("step", "running_mean")
    np.testing.assert_array_equal(curve.epoch, (curve.step - 1) // 11)
    earlier = np.where(curve.step % 11 == curve.step, 0, (curve.step - 1) // 11 * 11)
    earlier = np.maximum(earlier, np.append(0, curve.step[:-1]))
    expected = [true.loss[low:high].mean() for low, high in zip(earlier, curve.step, strict=True)]
    # Keras weights the short batch by its rows, which the log does not tell.
    is_whole = curve.step % 11 != 0
    np.testing.assert_allclose(curve.loss[is_whole], np.array(expected)[is_whole], rtol=1e-4)
    # Some versions log the epochs' losses only where the last batch is logged.
    assert set(curve.validation_step) <= set(true.validation_step)
    assert len(curve.validation_step) in (2, 6)
    np.testing.assert_allclose(curve.validation_loss, true.validation_loss[curve.validation_step // 11 - 1], rtol=1e-5)

    epochs = spikeguard.read_curve(tmp_path / "log.csv")
    assert (epochs.kind, epochs.loss_is, epochs.step.tolist()) == ("epoch", "epoch_mean", list(range(6)))
    np.testing.assert_allclose(epochs.validation_loss, true.validation_loss, rtol=1e-5)


def test_epoch_losses_are_the_curve_when_keras_logs_nothing_else(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = np.ones((8, 1), "float32")
    board = keras.callbacks.TensorBoard(tmp_path / "logs" / "run")
    history = model.fit(data, data, epochs=3, validation_data=(data, data), verbose=0, callbacks=[board]).history
    curves = spikeguard.read_curves(tmp_path / "logs")
    curve = curves["run"]
    assert list(curves) == ["run"]
    assert (curve.kind, curve.loss_is, curve.step.tolist()) == ("epoch", "epoch_mean", [0, 1, 2])
    np.testing.assert_allclose(curve.loss, history["loss"], rtol=1e-6)
    np.testing.assert_allclose(curve.validation_loss, history["val_loss"], rtol=1e-6)
    np.testing.assert_allclose(curve.learning_rate, [0.01] * 3, rtol=1e-6)
