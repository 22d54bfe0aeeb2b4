"""Whole trainings, without a pipeline around them."""

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

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.recipe import Recipe
from spikeguard.components.guarded_trainer.training import TrainingJob, train
from spikeguard.components.training_curve import read_curve

SPEC = {
    "x": tf.io.FixedLenFeature([3], tf.float32),
    "word": tf.io.FixedLenFeature([], tf.string),
    "y": tf.io.FixedLenFeature([], tf.float32),
}


def _identity_but_words(inputs: dict[str, Any]) -> dict[str, Any]:
    word = tft.compute_and_apply_vocabulary(inputs["word"], num_oov_buckets=1)
    return {"x": inputs["x"], "word": word, "y": inputs["y"]}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("graph")
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(SPEC))
    rows = [{"x": [0.0, 1.0, 2.0], "word": word, "y": 0.0} for word in "aab"]
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        transform_fn = (rows, metadata) | tft_beam.AnalyzeDataset(_identity_but_words)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata_io.write_metadata(metadata, str(folder / "graph" / "metadata"))
    return str(folder / "graph")


def _write(path: pathlib.Path, labels: list[float], seed: int) -> str:
    x = np.random.default_rng(seed).normal(size=(len(labels), 3))
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
        for row, label in zip(x, labels, strict=True):
            features = {
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
        recipe=Recipe(steps=40, batch_size=32),
        model_dir=str(folder / "model"),
        run_dir=str(folder / "run"),
    )


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
    recipe = Recipe(steps=40, batch_size=32, loss="crossentropy")
    losses = []
    for name, eval_labels in (("known", _labels(50)), ("stray", [*_labels(50), stray])):
        job = _job(tmp_path / name, graph, _labels(200), eval_labels)
        train(dataclasses.replace(job, task="classification", recipe=recipe))
        losses.append(read_curve(tmp_path / name / "run").validation_loss)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


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
    with pytest.raises(InvalidDataError, match=r"label 'price': is not among the transformed features \(word, x, y\)"):
        train(job)


def test_error_names_the_loss_when_it_does_not_fit(tmp_path: pathlib.Path, graph: str) -> None:
    job = dataclasses.replace(_job(tmp_path, graph, _labels(50), _labels(50)), task="classification")
    with pytest.raises(InvalidArgumentError, match="loss must be one of crossentropy for classification"):
        train(job)
