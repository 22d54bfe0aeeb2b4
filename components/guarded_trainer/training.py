"""Trains one model by one recipe: transformed examples in, SavedModel and recorded curve out. No TFX here."""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.guarded_trainer.labels import LabelStatistics, huber_delta, label_statistics
from spikeguard.components.guarded_trainer.model import build_model, read_features
from spikeguard.components.guarded_trainer.recipe import Recipe, Task
from spikeguard.components.guarded_trainer.recorder import CurveRecorder
from spikeguard.components.guarded_trainer.serving import export
from spikeguard.components.training_curve import Floats

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.json"
# Rows per step when no gradient is taken: large, since only throughput counts.
_SCAN_BATCH = 4096
# Validation passes per run.
_MOST_VALIDATIONS = 50
# Rows held for shuffling: with fewer train rows than this, every order is equally likely.
_SHUFFLE_ROWS = 100_000


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """One training, with everything named that it reads and writes."""

    train_files: tuple[str, ...]
    """Gzipped TFRecords of transformed tf.Examples to train on."""
    eval_files: tuple[str, ...]
    """The same to validate on after each epoch."""
    train_split: str
    eval_split: str
    transform_graph: str
    """tf.Transform's output folder."""
    label: str
    """Name of the label, before and after the transform."""
    task: Task
    recipe: Recipe
    model_dir: str
    """Where the SavedModel goes."""
    run_dir: str
    """Where the curve, the TensorBoard scalars and `recipe.json` go."""


def files_of(split_folder: str) -> tuple[str, ...]:
    """All data files of one split, in a fixed order."""
    return tuple(sorted(glob.glob(f"{split_folder}/*")))


def train(job: TrainingJob) -> LabelStatistics:
    """Trains, records and exports.

    Returns:
      What was learned of the label from the train split.

    Raises:
      InvalidDataError: a split without rows, or a label or feature that cannot be used; before the first step.
    """
    job.recipe.check_task(job.task)
    transform_output = tft.TFTransformOutput(job.transform_graph)
    features = read_features(transform_output, job.label)
    spec = transform_output.transformed_feature_spec()
    label = label_statistics(_read_labels(job.train_files, spec, job.label), job.label, job.train_split, job.task)
    if not len(_read_labels(job.eval_files, spec, job.label, rows=1)):
        raise InvalidDataError(
            f"split {job.eval_split!r}", "has no rows", "Give more data, or a split that reaches it."
        )

    recipe = job.recipe.resolved(label.rows, huber_delta(label))
    assert recipe.batch_size is not None  # Resolved.
    steps_per_epoch = _steps_per_epoch(label.rows, recipe.batch_size, recipe.keep_short_batch)
    epochs = math.ceil(recipe.steps / steps_per_epoch)
    _write_recipe(job, recipe, label, steps_per_epoch)
    model = build_model(features, label, job.task, recipe)
    model.compile(optimizer=keras.optimizers.Adam(_schedule(recipe)), loss=_loss(recipe, label))
    logger.info("Training %d steps on %d rows", recipe.steps, label.rows, extra={"spikeguard_steps": recipe.steps})
    model.fit(
        _training_batches(job.train_files, spec, job.label, recipe, label.rows),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        validation_data=_validation_batches(job.eval_files, spec, job.label, label.classes),
        # Epochs of a small split last a fraction of a second: validating after each would take longer than training.
        validation_freq=math.ceil(epochs / _MOST_VALIDATIONS),
        callbacks=[CurveRecorder(job.run_dir), _StopAfter(recipe.steps)],
        verbose=0,
    )
    export(model, transform_output, job.label, job.model_dir)
    return label


class _StopAfter(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training after a number of steps, within an epoch if need be."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._left -= 1
        if self._left <= 0:
            self.model.stop_training = True


def _steps_per_epoch(rows: int, batch_size: int, keep_short_batch: bool) -> int:
    whole = rows // batch_size
    return whole if whole and not keep_short_batch else math.ceil(rows / batch_size)


def _schedule(recipe: Recipe) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if recipe.schedule == "constant":
        return recipe.learning_rate
    warmup_steps = round(recipe.warmup_share * recipe.steps)
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, recipe.steps - warmup_steps, warmup_target=recipe.learning_rate, warmup_steps=warmup_steps
    )


def _loss(recipe: Recipe, label: LabelStatistics) -> keras.losses.Loss:
    if recipe.loss == "huber":
        return keras.losses.Huber(delta=recipe.huber_delta)
    if recipe.loss == "squared_error":
        return keras.losses.MeanSquaredError()
    if label.classes <= 2:
        return keras.losses.BinaryCrossentropy()
    return keras.losses.SparseCategoricalCrossentropy()


def _training_batches(
    files: Sequence[str], spec: dict[str, Any], label: str, recipe: Recipe, rows: int
) -> tf.data.Dataset:
    """Endless shuffled batches; serialized rows are shuffled, which is cheaper than parsed ones."""
    assert recipe.batch_size is not None  # Resolved.
    has_whole_batch = rows >= recipe.batch_size
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return (
        (records.cache() if rows <= _SHUFFLE_ROWS else records)
        .shuffle(min(rows, _SHUFFLE_ROWS), seed=recipe.seed, reshuffle_each_iteration=True)
        .batch(recipe.batch_size, drop_remainder=has_whole_batch and not recipe.keep_short_batch)
        .map(_parser(spec, label), num_parallel_calls=tf.data.AUTOTUNE)
        .repeat()
        .prefetch(tf.data.AUTOTUNE)
    )


def _validation_batches(files: Sequence[str], spec: dict[str, Any], label: str, classes: int) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_SCAN_BATCH).map(_parser(spec, label))
    if classes:
        # For a class that only the eval split has, the model has no output and so no loss.
        dataset = dataset.unbatch().filter(lambda _, y: tf.reduce_all((y >= 0) & (y < classes))).batch(_SCAN_BATCH)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _parser(spec: dict[str, Any], label: str) -> Any:
    def parse(serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        features = tf.io.parse_example(serialized, spec)
        return features, features.pop(label)

    return parse


def _read_labels(files: Sequence[str], spec: dict[str, Any], label: str, rows: int = -1) -> Floats:
    """The labels of the first `rows` rows (all for -1), as floats. Shape (n,)."""
    parse = {label: spec[label]}
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").take(rows).batch(_SCAN_BATCH)
    parts = [tf.io.parse_example(serialized, parse)[label].numpy().ravel() for serialized in dataset]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _write_recipe(job: TrainingJob, recipe: Recipe, label: LabelStatistics, steps_per_epoch: int) -> None:
    folder = pathlib.Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": "spikeguard.recipe/1",
        "task": job.task,
        "label": job.label,
        "recipe": json.loads(recipe.to_json()),
        "label_statistics": dataclasses.asdict(label),
        "steps_per_epoch": steps_per_epoch,
    }
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
