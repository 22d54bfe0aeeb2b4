"""Weights by class name find the class ids of a real transform graph, and reach the loss."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer import training
from spikeguard.components.guarded_trainer.class_order import class_ids, weights_by_id
from spikeguard.components.guarded_trainer.recipe import Recipe
from spikeguard.components.guarded_trainer.training import TrainingJob, train
from spikeguard.components.imbalance_detector.class_balance import ClassBalance, LabelClass, write_class_balance
from spikeguard.pipelines.preprocessing import _class_id

SPEC = {
    "x": tf.io.FixedLenFeature([3], tf.float32),
    "word": tf.io.FixedLenFeature([], tf.string),
    "animal": tf.io.FixedLenFeature([], tf.string),
    "grade": tf.io.VarLenFeature(tf.int64),
}
# By falling frequency, which is not the order of the names.
ANIMALS = ["zebra"] * 60 + ["ant"] * 30 + ["mole"] * 10
WEIGHTS = {"ant": 1.0, "mole": 5.0, "zebra": 1 / 3}


def _preprocess(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"x": inputs["x"], "animal": _class_id(inputs["animal"]), "grade": _class_id(inputs["grade"])}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("graph")
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))
    rows = [
        {"x": [0.0, 1.0, 2.0], "word": "w", "animal": animal, "grade": [3 + place % 3]}
        for place, animal in enumerate(ANIMALS)
    ]
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(_preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / "metadata"))
    return str(folder / "graph")


def _balance(weights: dict[str, float], **changes: Any) -> ClassBalance:
    classes = tuple(LabelClass(name, weight, {"train": 1}) for name, weight in weights.items())
    balance = ClassBalance("animal", "classification", "classes", "train", classes, {"train": 100}, "x", 0.0, 1.0)
    return dataclasses.replace(balance, **changes)


def test_text_has_the_ids_of_the_vocabulary(graph: str) -> None:
    ids = class_ids(tft.TFTransformOutput(graph), "animal", ["ant", "mole", "zebra", "unicorn"])
    assert ids == {"ant": 1, "mole": 2, "zebra": 0, "unicorn": -1}


def test_numbers_have_the_ids_from_the_smallest(graph: str) -> None:
    assert class_ids(tft.TFTransformOutput(graph), "grade", ["5", "3", "4"]) == {"5": 2, "3": 0, "4": 1}


def test_weights_are_in_the_order_of_the_ids(graph: str) -> None:
    weights = weights_by_id(_balance(WEIGHTS), tft.TFTransformOutput(graph), "animal", [60, 30, 10])
    assert weights == (1 / 3, 1.0, 5.0)


def test_id_without_rows_needs_no_weight(graph: str) -> None:
    balance = _balance({"3": 0.5, "5": 2.0}, label="grade")
    assert weights_by_id(balance, tft.TFTransformOutput(graph), "grade", [40, 0, 10]) == (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("balance", "counts", "message"),
    [
        (_balance(WEIGHTS, label="plant"), [60, 30, 10], "are of the classification label 'plant', not of 'animal'"),
        (_balance(WEIGHTS, kind="multi_hot"), [60, 30, 10], "are of a multi-hot label"),
        (_balance({}, notes=("The classes are not known.",)), [60], "hold no weight. The classes are not known."),
        (_balance({"ant": 1.0, "zebra": 1.0}), [60, 30, 10], "class id 2 has no weight"),
        (_balance({"3": 1.0, "03": 1.0}, label="grade"), [60], "two classes have the same id"),
    ],
)
def test_error_names_what_does_not_fit(graph: str, balance: ClassBalance, counts: list[int], message: str) -> None:
    label = "grade" if balance.label == "grade" else "animal"
    with pytest.raises(InvalidDataError, match=message):
        weights_by_id(balance, tft.TFTransformOutput(graph), label, counts)


def test_class_whose_rows_were_dropped_needs_no_id(graph: str) -> None:
    balance = _balance({**WEIGHTS, "elk": 1.0, "yak": 1.0})
    assert weights_by_id(balance, tft.TFTransformOutput(graph), "animal", [60, 30, 10]) == (1 / 3, 1.0, 5.0)


def test_error_when_a_class_is_no_number(graph: str) -> None:
    with pytest.raises(InvalidDataError, match="class 'ant': is no int64, as the label 'grade' is"):
        class_ids(tft.TFTransformOutput(graph), "grade", ["ant"])
    with pytest.raises(InvalidDataError, match="label 'y': is not among the raw features"):
        class_ids(tft.TFTransformOutput(graph), "y", ["ant"])


def _job(folder: pathlib.Path, graph: str, **recipe: Any) -> TrainingJob:
    folder.mkdir(exist_ok=True)
    ids = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    with tf.io.TFRecordWriter(str(folder / "rows.gz"), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for class_id in ids:
            row = tf.train.Example()
            row.features.feature["x"].float_list.value.extend([class_id, 1.0, -class_id])
            row.features.feature["animal"].int64_list.value.append(class_id)
            row.features.feature["grade"].int64_list.value.append(0)
            writer.write(row.SerializeToString())
    files = (str(folder / "rows.gz"),)
    write_class_balance(_balance(WEIGHTS), folder / "weights")
    return TrainingJob(
        train_files=files,
        eval_files=files,
        train_split="train",
        eval_split="eval",
        transform_graph=graph,
        label="animal",
        task="classification",
        recipe=Recipe("crossentropy", steps=30, batch_size=20, checks_learning_rate=False, is_guarded=False, **recipe),
        model_dir=str(folder / "model"),
        run_dir=str(folder / "run"),
        class_weights=str(folder / "weights") if recipe.get("balance") == "weights" else None,
    )


def test_weights_reach_the_loss_by_name(tmp_path: pathlib.Path, graph: str) -> None:
    for balance in ("none", "weights"):
        train(_job(tmp_path / balance, graph, balance=balance))
    written = json.loads((tmp_path / "weights" / "run" / "recipe.json").read_text())
    assert written["recipe"]["class_weights"] == [1 / 3, 1.0, 5.0]
    assert written["class_counts"] == [60, 30, 10]
    plain, weighted = (read_curve(tmp_path / name / "run") for name in ("none", "weights"))
    np.testing.assert_array_equal(plain.class_counts, weighted.class_counts)
    # The first step has the same model: of its rows each weighs what its class does.
    assert weighted.loss[0] != pytest.approx(plain.loss[0], rel=0.02)


def test_balanced_batches_have_one_composition_and_true_probabilities(tmp_path: pathlib.Path, graph: str) -> None:
    train(_job(tmp_path, graph, balance="batches", learning_rate=0.01))
    curve = read_curve(tmp_path / "run")
    assert {tuple(counts) for counts in curve.class_counts.tolist()} == {(7, 7, 6)}
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    row = tf.train.Example()
    row.features.feature["x"].float_list.value.extend([0.0, 1.0, 0.0])
    row.features.feature["word"].bytes_list.value.append(b"w")
    (predicted,) = served(examples=tf.constant([row.SerializeToString()]))["predictions"].numpy()
    corrected = predicted / np.array([60, 30, 10]) * np.array([7, 7, 6])
    # A model that was shown even classes says so, before the true shares come in.
    assert predicted[0] > (corrected / corrected.sum())[0] + 0.05


class _StoppedError(Exception):
    pass


def test_balanced_training_goes_on_where_it_was_stopped(
    tmp_path: pathlib.Path, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopAtStep17(training._StopAfter):
        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            if self.model.optimizer.iterations == 17:
                raise _StoppedError

    job = _job(tmp_path, graph, balance="batches", learning_rate=0.01, block_steps=4)
    train(dataclasses.replace(job, run_dir=str(tmp_path / "whole")))
    job = dataclasses.replace(job, state_dir=str(tmp_path / "state"), state_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_StopAfter", StopAtStep17)
        with pytest.raises(_StoppedError):
            train(job)
    assert any((tmp_path / "state" / "curve").glob("steps-*.parquet"))
    # As in TFX, the second attempt writes into a folder of its own.
    train(dataclasses.replace(job, run_dir=str(tmp_path / "resumed")))
    whole, resumed = read_curve(tmp_path / "whole"), read_curve(tmp_path / "resumed")
    np.testing.assert_array_equal(resumed.step, whole.step)
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-5)


def test_error_when_weights_and_recipe_do_not_fit(tmp_path: pathlib.Path, graph: str) -> None:
    job = _job(tmp_path, graph, balance="weights")
    with pytest.raises(InvalidArgumentError, match="class_weights must be given for balance 'weights'"):
        train(dataclasses.replace(job, class_weights=None))
    with pytest.raises(InvalidArgumentError, match="recipe must have balance 'weights' and no weights of its own"):
        train(dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, balance="batches")))
    assert not (tmp_path / "run").exists()
