"""Whole trainings, without a pipeline around them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import pickle
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.model import read_features
from spikeguard.components.guarded_trainer.recipe import Recipe
from spikeguard.components.guarded_trainer.training import TrainingJob, train

SPEC = {
    "x": tf.io.FixedLenFeature([3], tf.float32),
    "image": tf.io.FixedLenFeature([2, 2], tf.float32),
    "example_id": tf.io.FixedLenFeature([], tf.int64),
    "word": tf.io.FixedLenFeature([], tf.string),
    "y": tf.io.FixedLenFeature([], tf.float32),
}


def _identity_but_words(inputs: dict[str, Any]) -> dict[str, Any]:
    word = tft.compute_and_apply_vocabulary(inputs["word"], num_oov_buckets=1)
    return {**{name: inputs[name] for name in ("x", "image", "example_id", "y")}, "word": word}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("graph")
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))
    row = {"x": [0.0, 1.0, 2.0], "image": [[0.0, 1.0], [2.0, 3.0]], "example_id": 1, "y": 0.0}
    rows = [{**row, "word": word} for word in "aab"]
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(_identity_but_words)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / "metadata"))
    return str(folder / "graph")


def _write(path: pathlib.Path, labels: list[float], seed: int) -> str:
    x = np.random.default_rng(seed).normal(size=(len(labels), 3))
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for number, (row, label) in enumerate(zip(x, labels, strict=True)):
            features = {
                "image": tf.train.Feature(float_list=tf.train.FloatList(value=[0.0, 1.0, 2.0, label])),
                "example_id": tf.train.Feature(int64_list=tf.train.Int64List(value=[2**40 + number])),
                "x": tf.train.Feature(float_list=tf.train.FloatList(value=row + label)),
                "word": tf.train.Feature(
                    int64_list=tf.train.Int64List(value=[0 if np.isnan(label) else int(label) % 3])
                ),
                "y": tf.train.Feature(float_list=tf.train.FloatList(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return str(path)


def _job(folder: pathlib.Path, graph: str, train_labels: list[float], eval_labels: list[float]) -> TrainingJob:
    folder.mkdir(exist_ok=True)
    return TrainingJob(
        train_files=(_write(folder / "train.gz", train_labels, seed=0),),
        eval_files=(_write(folder / "eval.gz", eval_labels, seed=1),),
        train_split="train",
        eval_split="eval",
        transform_graph=graph,
        label="y",
        task="regression",
        # Tracing a guard takes longer than these trainings.
        recipe=Recipe(steps=40, batch_size=32, checks_learning_rate=False, is_guarded=False),
        model_dir=str(folder / "model"),
        run_dir=str(folder / "run"),
    )


def _weights(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(model_dir / "variables" / "variables"))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {name: value for name, value in values.items() if getattr(value, "dtype", None) == np.float32}


def _labels(n: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(2).integers(0, 5, size=n)]


def test_recipe_file_tells_what_ran(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, _labels(200), _labels(50))
    statistics = train(job)
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert written["steps_per_epoch"] == 6
    assert written["label_statistics"] == dataclasses.asdict(statistics)
    assert written["recipe"]["huber_delta"] == pytest.approx(1.345 * statistics.scale)
    curve = read_curve(tmp_path / "run")
    # 40 steps are 6 whole epochs of 6 and 4 steps of a seventh; the rows that fill no batch are left out.
    assert (len(curve), curve.epoch[-1], set(curve.batch_size)) == (40, 6, {32})
    assert curve.loss[-5:].mean() < curve.loss[:5].mean()


def test_same_seed_gives_the_same_curve(tmp_path: pathlib.Path, graph: str) -> None:
    curves = []
    for name in ("one", "two"):
        train(_job(tmp_path / name, graph, _labels(200), _labels(50)))
        curves.append(read_curve(tmp_path / name / "run").loss)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_short_batches_are_kept_when_the_recipe_says_so(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, _labels(200), _labels(50))
    train(dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, keep_short_batch=True)))
    assert read_curve(tmp_path / "run").batch_size[:8].tolist() == [32, 32, 32, 32, 32, 32, 8, 32]


@pytest.mark.parametrize("stray", [-1.0, 5.0], ids=["below", "above"])
def test_class_of_eval_alone_is_no_part_of_the_validation_loss(
    tmp_path: pathlib.Path, graph: str, stray: float
) -> None:
    recipe = Recipe(steps=40, batch_size=32, loss="crossentropy", checks_learning_rate=False, is_guarded=False)
    losses = []
    for name, eval_labels in (("known", _labels(50)), ("stray", [*_labels(50), stray])):
        job = _job(tmp_path / name, graph, _labels(200), eval_labels)
        train(dataclasses.replace(job, task="classification", recipe=recipe))
        losses.append(read_curve(tmp_path / name / "run").validation_loss)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_ids_name_the_worst_examples_and_are_no_input(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, [*_labels(200), 50.0], _labels(50))
    train(dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, keep_short_batch=True)))
    curve = read_curve(tmp_path / "run")
    # The row whose label is far off is the worst of its batch, once in each of the six epochs.
    assert sum(2**40 + 200 in ids for ids in curve.worst_id) == len(set(curve.epoch)) == 6
    assert curve.worst_id.min() >= 2**40
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    assert serve(examples=tf.constant([], tf.string))["predictions"].shape == (0, 1)


def test_training_says_what_the_range_test_found(tmp_path: pathlib.Path, graph: str) -> None:
    for name, rate in (("calm", 3e-3), ("wild", 1e3)):
        job = _job(tmp_path / name, graph, _labels(200), _labels(50))
        recipe = dataclasses.replace(job.recipe, checks_learning_rate=True, learning_rate=rate)
        train(dataclasses.replace(job, recipe=recipe))
    written = {name: json.loads((tmp_path / name / "run" / "recipe.json").read_text()) for name in ("calm", "wild")}
    assert written["calm"]["warnings"] == []
    (warning,) = written["wild"]["warnings"]
    assert warning.startswith("learning_rate 1000 is above ")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("regression", {"l2": 1e-3, "dropout": 0.5, "is_guarded": True, "schedule": "exponential", "warmup_steps": 0}),
        ("regression", {"weight_decay": 0.01, "loss": "squared_error", "schedule": "constant"}),
        ("classification", {"loss": "generalized_crossentropy", "class_weights": (1.0, 2.0, 1.0, 1.0, 1.0)}),
        ("classification", {"loss": "crossentropy", "label_smoothing": 0.1, "seed": 7}),
    ],
)
def test_every_option_of_the_recipe_trains(
    tmp_path: pathlib.Path, graph: str, task: Any, options: dict[str, Any]
) -> None:
    job = _job(tmp_path, graph, _labels(200), _labels(50))
    train(dataclasses.replace(job, task=task, recipe=dataclasses.replace(job.recipe, **options)))
    curve = read_curve(tmp_path / "run")
    assert np.isfinite(curve.total_loss).all()
    assert curve.loss[-5:].mean() < curve.loss[:5].mean()
    assert ((curve.total_loss - curve.loss > 1e-6).all()) == ("l2" in options)
    assert curve.class_counts.shape == (40, 5 if task == "classification" else 0)


def test_class_weights_change_the_loss(tmp_path: pathlib.Path, graph: str) -> None:
    first = []
    for name, weights in (("even", None), ("doubled", (2.0,) * 5)):
        job = _job(tmp_path / name, graph, _labels(200), _labels(50))
        recipe = dataclasses.replace(job.recipe, loss="crossentropy", class_weights=weights)
        train(dataclasses.replace(job, task="classification", recipe=recipe))
        first.append(read_curve(tmp_path / name / "run").loss[0])
    assert first[1] == pytest.approx(2 * first[0], rel=1e-5)


def test_error_names_the_class_weights_when_there_are_too_few(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, _labels(200), _labels(50))
    recipe = dataclasses.replace(job.recipe, loss="crossentropy", class_weights=(1.0, 2.0))
    with pytest.raises(InvalidArgumentError, match="class_weights must hold one weight for each of 5 classes"):
        train(dataclasses.replace(job, task="classification", recipe=recipe))


def model_of_x(features: Any, label: Any, task: Any, recipe: Recipe) -> keras.Model:
    """Takes all features, for Keras wants no others, and uses one: the same whatever else there is."""
    inputs = {feature.name: keras.Input(feature.shape, name=feature.name) for feature in features}
    flat = [keras.layers.Reshape((-1,))(keras.ops.cast(tensor, "float32")) for tensor in inputs.values()]
    nothing = 0.0 * keras.ops.sum(keras.layers.Concatenate()(flat), axis=1, keepdims=True)
    return keras.Model(inputs, keras.layers.Dense(label.classes, activation="softmax")(inputs["x"] + nothing))


def test_weights_of_rows_act_as_weights_of_their_classes(tmp_path: pathlib.Path, graph: str) -> None:
    # `word` is the class modulo 3.
    losses, inputs = {}, {}
    for name, weight, class_weights in (
        ("rows", "word", None),
        ("classes", None, (0.0, 1.0, 2.0, 0.0, 1.0)),
        ("both", "word", (3.0,) * 5),
    ):
        job = _job(tmp_path / name, graph, _labels(200), _labels(50))
        recipe = dataclasses.replace(job.recipe, loss="crossentropy", class_weights=class_weights, steps=10)
        recipe = dataclasses.replace(recipe, checks_learning_rate=name == "both")
        model_fn = f"{__name__}.model_of_x"
        train(dataclasses.replace(job, task="classification", recipe=recipe, weight=weight, model_fn=model_fn))
        losses[name] = read_curve(tmp_path / name / "run").loss
        inputs[name] = json.loads((tmp_path / name / "run" / "recipe.json").read_text())["weight"]
    np.testing.assert_allclose(losses["rows"], losses["classes"], rtol=1e-4)
    assert losses["both"][0] == pytest.approx(3 * losses["rows"][0], rel=1e-5)
    assert inputs == {"rows": "word", "classes": None, "both": "word"}


def test_weight_is_no_input_of_the_model(tmp_path: pathlib.Path, graph: str) -> None:
    features = read_features(tft.TFTransformOutput(graph), "y", weight="word")
    assert [feature.name for feature in features] == ["image", "x"]


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ("price", r"weight 'price' in split 'train': is not among the transformed features \(example_id, image"),
        ("y", "weight 'y' in split 'train': is not among"),
        ("word", "weight 'word' in split 'train': is 0 in every row"),
    ],
)
def test_weight_is_named_when_it_is_none(tmp_path: pathlib.Path, graph: str, weight: str, words: str) -> None:
    job = _job(tmp_path, graph, [0.0, 3.0] * 50, _labels(50))
    with pytest.raises(InvalidDataError, match=words):
        train(dataclasses.replace(job, weight=weight))


def linear_model(features: Any, label: Any, task: Any, recipe: Recipe) -> keras.Model:
    """A model_fn of a user's own."""
    assert [feature.name for feature in features] == ["image", "word", "x"]
    assert (label.split, task, recipe.batch_size) == ("train", "regression", 32)
    inputs = {feature.name: keras.Input(feature.shape, name=feature.name) for feature in features}
    flat = [keras.layers.Reshape((-1,))(keras.ops.cast(tensor, "float32")) for tensor in inputs.values()]
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(flat)))


def no_model(*_: Any) -> str:
    return "model"


def test_own_model_is_trained(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, _labels(200), _labels(50))
    train(dataclasses.replace(job, model_fn=f"{__name__}.linear_model"))
    shapes = {weight.shape for weight in _weights(tmp_path / "model").values()}
    assert (8, 1) in shapes
    assert (32, 1) not in shapes  # The default model's last kernel.


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("no.such.module", "model_fn must be importable"),
        (f"{__name__}.missing", "model_fn must be the dotted name of a function"),
        (f"{__name__}.no_model", "model_fn must return a keras.Model, not str"),
    ],
)
def test_error_names_model_fn_when_it_cannot_be_used(tmp_path: pathlib.Path, graph: str, name: str, rule: str) -> None:
    job = dataclasses.replace(_job(tmp_path, graph, _labels(50), _labels(50)), model_fn=name)
    with pytest.raises(InvalidArgumentError, match=rule):
        train(job)
    assert not (tmp_path / "run").exists()


_KILLED = """
import keras, os, pickle, signal, sys
from spikeguard.components.guarded_trainer import training
job, kill_at = pickle.load(open(sys.argv[1], "rb")), int(sys.argv[2])
class Kill(training._StopAfter):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.model.optimizer.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
training._StopAfter = Kill
training.train(job)
"""


def test_killed_training_ends_as_the_undisturbed_one(tmp_path: pathlib.Path, graph: str) -> None:
    curves, weights = [], []
    for name, kills in (("whole", [0]), ("killed", [27, 0])):
        job = _job(tmp_path / name, graph, _labels(200), _labels(50))
        recipe = dataclasses.replace(
            job.recipe, block_steps=4, dropout=0.3, learning_rate=0.3, steps=60, is_guarded=True
        )
        for attempt, kill_at in enumerate(kills):
            # As in TFX, each attempt writes into a folder of its own.
            run_dir = str(tmp_path / name / f"run-{attempt}")
            state = {"state_dir": str(tmp_path / name / "state"), "state_seconds": 0.0}
            pickled = tmp_path / "job.pickle"
            pickled.write_bytes(pickle.dumps(dataclasses.replace(job, recipe=recipe, run_dir=run_dir, **state)))
            command = [sys.executable, "-c", _KILLED, str(pickled), str(kill_at)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr[-2000:]
            assert (tmp_path / name / "state").exists() == bool(kill_at)
        curves.append(read_curve(run_dir))
        weights.append(_weights(tmp_path / name / "model"))
    whole, killed = curves
    assert len(whole) == 60
    # The guard had something to do before the kill, so its state matters.
    assert (whole.guard_factor[:27] < 1).any()
    for field in dataclasses.fields(whole):
        expected, actual = getattr(whole, field.name), getattr(killed, field.name)
        if isinstance(expected, np.ndarray):
            np.testing.assert_allclose(expected, actual, rtol=1e-5, err_msg=field.name)
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        np.testing.assert_allclose(weights[0][name], weights[1][name], rtol=1e-5)


@pytest.mark.parametrize(
    ("train_labels", "eval_labels", "message"),
    [
        ([], [1.0, 2.0], "split 'train': has no rows"),
        ([1.0, 2.0], [], "split 'eval': has no rows"),
        ([1.0, float("nan")], [1.0], "label 'y' in split 'train': is missing or not finite in 1 of 2 rows"),
        ([3.0, 3.0], [1.0], "label 'y' in split 'train': is 3 in all 2 rows"),
    ],
)
def test_nothing_is_written_when_a_split_cannot_be_used(
    tmp_path: pathlib.Path, graph: str, train_labels: list[float], eval_labels: list[float], message: str
) -> None:
    with pytest.raises(InvalidDataError, match=message):
        train(_job(tmp_path, graph, train_labels, eval_labels))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "model").exists()


def test_error_names_the_label_when_the_transform_dropped_it(tmp_path: pathlib.Path, graph: str) -> None:
    job = dataclasses.replace(_job(tmp_path, graph, _labels(50), _labels(50)), label="price")
    with pytest.raises(
        InvalidDataError,
        match=r"label 'price': is not among the transformed features \(example_id, image, word, x, y\)",
    ):
        train(job)


def test_error_names_the_loss_when_it_does_not_fit(tmp_path: pathlib.Path, graph: str) -> None:
    job = dataclasses.replace(_job(tmp_path, graph, _labels(50), _labels(50)), task="classification")
    with pytest.raises(
        InvalidArgumentError, match="loss must be one of crossentropy, generalized_crossentropy for classification"
    ):
        train(job)
