"""Trains one model by one recipe: transformed examples in, SavedModel and recorded curve out. No TFX here."""

from __future__ import annotations

import dataclasses
import functools
import glob
import importlib
import json
import logging
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.balancing import batch_composition, with_prior_correction
from spikeguard.components.guarded_trainer.batches import (
    BatchPlan,
    Spec,
    Weighting,
    class_balanced_batches,
    plan_batches,
    read_labels,
    training_batches,
    validation_batches,
    without_ids,
)
from spikeguard.components.guarded_trainer.class_order import weights_by_id
from spikeguard.components.guarded_trainer.guard import SpikeGuard
from spikeguard.components.guarded_trainer.labels import LabelStatistics, huber_delta, label_statistics
from spikeguard.components.guarded_trainer.losses import GeneralizedCrossEntropy, Huber, SmoothedCrossEntropy
from spikeguard.components.guarded_trainer.model import Feature, build_model, read_features
from spikeguard.components.guarded_trainer.range_test import learning_rate_range
from spikeguard.components.guarded_trainer.recipe import RECIPE_FILE, Recipe, Task
from spikeguard.components.guarded_trainer.recorder import CurveRecorder
from spikeguard.components.guarded_trainer.resume import StateKeeper, TrainingState
from spikeguard.components.guarded_trainer.schedule import GuardedSchedule, warmup_steps_for
from spikeguard.components.guarded_trainer.serving import export
from spikeguard.components.imbalance_detector.class_balance import read_class_weights

logger = logging.getLogger(__name__)

# Validation passes per run.
_MOST_VALIDATIONS = 50

ModelFn = Callable[[tuple[Feature, ...], LabelStatistics, Task, Recipe], keras.Model]


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
    class_weights: str | None = None
    """Folder of a ClassWeights artifact, for a recipe of balance `weights`; None for none."""
    model_fn: str | None = None
    """Dotted name of a function (features, label, task, recipe) -> uncompiled model; None: `model.build_model`."""
    weight: str | None = None
    """Transformed feature with a weight >= 0 per row, by which its loss is multiplied in training; None for none."""
    state_dir: str | None = None
    """Where a training under way is kept, so that a killed one goes on; None: it begins anew."""
    state_seconds: float = 30.0
    """Least time between two states kept."""


def files_of(split_folder: str) -> tuple[str, ...]:
    """All data files of one split, in a fixed order."""
    return tuple(sorted(glob.glob(f"{split_folder}/*")))


def train(job: TrainingJob) -> LabelStatistics:
    """Trains, records and exports.

    A training that was killed goes on from its state, and ends as it would have without the kill.

    Returns:
      What was learned of the label from the train split.

    Raises:
      InvalidArgumentError: the recipe does not fit the data, or `model_fn` cannot be used; before the first step.
      InvalidDataError: a split without rows, or a label or feature that cannot be used; before the first step.
    """
    job.recipe.check_task(job.task)
    model_fn = load_model_fn(job.model_fn) if job.model_fn else build_model
    transform_output = tft.TFTransformOutput(job.transform_graph)
    features = read_features(transform_output, job.label, job.weight)
    spec = transform_output.transformed_feature_spec()
    if job.weight is not None:
        _check_weights(job, spec)
    labels = read_labels(job.train_files, spec, job.label)
    label = label_statistics(labels, job.label, job.train_split, job.task)
    class_counts = tuple(np.bincount(labels.astype(np.int64)).tolist()) if job.task == "classification" else ()
    if not len(read_labels(job.eval_files, spec, job.label, rows=1)):
        raise InvalidDataError(
            f"split {job.eval_split!r}", "has no rows", "Give more data, or a split that reaches it."
        )
    plan = plan_batches(label.rows, job.recipe.batch_size, job.recipe.keep_short_batch)
    recipe = resolve(_with_weights(job, transform_output, class_counts), plan, label)
    shares = trained_shares(recipe, plan, class_counts)

    keras.utils.set_random_seed(recipe.seed)
    model = model_fn(features, label, job.task, recipe)
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError("model_fn", job.model_fn, f"return a keras.Model, not {type(model).__name__}")
    if shares is not None and recipe.corrects_prior:
        model = with_prior_correction(model, shares, class_counts)
    model.compile(optimizer=_optimizer(recipe), loss=_loss(recipe, label))
    batches = functools.partial(_batches, job, plan, recipe, class_counts)
    weighting = Weighting(job.weight, recipe.class_weights) if job.weight else None
    warnings = _check_learning_rate(model, batches(without_ids(spec), weighting), recipe)
    _write_recipe(job, recipe, label, plan, warnings, class_counts)
    _fit(model, job, plan, recipe, label, functools.partial(batches, spec, weighting), spec)
    export(model, transform_output, job.label, job.model_dir, job.weight)
    return label


def _check_weights(job: TrainingJob, spec: Spec) -> None:
    where = f"weight {job.weight!r} in split {job.train_split!r}"
    if job.weight not in spec or job.weight == job.label:
        raise InvalidDataError(
            where,
            f"is not among the transformed features ({', '.join(sorted(spec))})",
            "Keep it in the preprocessing_fn's outputs under this name.",
        )
    weights = read_labels(job.train_files, spec, job.weight)
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise InvalidDataError(
            where, f"is negative or not finite in {int(bad.sum())} of {len(weights)} rows", "Give weights of 0 or more."
        )
    if len(weights) and not weights.any():
        raise InvalidDataError(where, "is 0 in every row", "Give some rows a weight above 0.")


def resolve(recipe: Recipe, plan: BatchPlan, label: LabelStatistics) -> Recipe:
    """The recipe with nothing left open, for one train split.

    Raises:
      InvalidArgumentError: there are not as many class weights as classes, or none where they are to balance.
    """
    weights = recipe.class_weights
    if weights is None and recipe.balance == "weights":
        raise InvalidArgumentError(
            "class_weights", None, "be given for balance 'weights'", "Give GuardedTrainer those of ImbalanceDetector."
        )
    if weights is not None and len(weights) != label.classes:
        raise InvalidArgumentError("class_weights", weights, f"hold one weight for each of {label.classes} classes")
    is_open = recipe.loss == "huber" and recipe.huber_delta is None
    return dataclasses.replace(
        recipe,
        batch_size=plan.batch_size,
        huber_delta=huber_delta(label) if is_open else recipe.huber_delta,
        warmup_steps=warmup_steps_for(recipe.steps) if recipe.warmup_steps is None else recipe.warmup_steps,
    )


def trained_shares(recipe: Recipe, plan: BatchPlan, class_counts: Sequence[int]) -> tuple[float, ...] | None:
    """Shares of the classes as the loss sees them, in any unit; None where the recipe does not balance.

    Args:
      recipe: resolved.
      plan: of the train split.
      class_counts: train rows of class 0, 1, ...
    """
    if recipe.balance == "batches":
        return tuple(map(float, batch_composition(class_counts, plan.batch_size)))
    if recipe.balance == "weights" and recipe.class_weights is not None:
        return tuple(rows * weight for rows, weight in zip(class_counts, recipe.class_weights, strict=True))
    return None


def load_model_fn(name: str) -> ModelFn:
    """Imports a function by its dotted name.

    Raises:
      InvalidArgumentError: there is no such module or function.

    >>> load_model_fn("build_model")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: model_fn must be the dotted name of a function; got 'build_model'.
    """
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute, None) if module else None
    except ModuleNotFoundError as error:
        raise InvalidArgumentError(
            "model_fn", name, f"be importable ({error})", "Install the module or put it on PYTHONPATH."
        ) from error
    if not callable(function):
        raise InvalidArgumentError("model_fn", name, "be the dotted name of a function")
    named: ModelFn = function
    return named


def _with_weights(job: TrainingJob, transform_output: tft.TFTransformOutput, class_counts: Sequence[int]) -> Recipe:
    """The job's recipe with the weights of its ClassWeights artifact, where it has one."""
    recipe = job.recipe
    if job.class_weights is None:
        return recipe
    if recipe.balance != "weights" or recipe.class_weights is not None:
        raise InvalidArgumentError(
            "recipe",
            f"balance {recipe.balance!r}, class_weights {recipe.class_weights}",
            "have balance 'weights' and no weights of its own, where an artifact gives them",
        )
    balance = read_class_weights(job.class_weights)
    weights = weights_by_id(balance, transform_output, job.label, class_counts)
    return dataclasses.replace(recipe, class_weights=weights)


def _batches(
    job: TrainingJob,
    plan: BatchPlan,
    recipe: Recipe,
    class_counts: Sequence[int],
    spec: Spec,
    weighting: Weighting | None = None,
    first_step: int = 0,
) -> tf.data.Dataset:
    """The recipe's batches from a step on."""
    if recipe.balance == "batches":
        return class_balanced_batches(
            job.train_files, spec, job.label, plan, class_counts, recipe.seed, first_step, weighting
        )
    return training_batches(job.train_files, spec, job.label, plan, recipe.seed, first_step, weighting)


def _check_learning_rate(model: keras.Model, batches: tf.data.Dataset, recipe: Recipe) -> tuple[str, ...]:
    """What the range test says against the recipe's rate."""
    if not recipe.checks_learning_rate:
        return ()
    found = learning_rate_range(model, batches, seed=recipe.seed)
    warnings = found.warnings(recipe.learning_rate, recipe.steps)
    for warning in warnings:
        logger.warning("%s", warning)
    return warnings


def _fit(
    model: keras.Model,
    job: TrainingJob,
    plan: BatchPlan,
    recipe: Recipe,
    label: LabelStatistics,
    batches_from: Callable[..., tf.data.Dataset],
    spec: Spec,
) -> None:
    """Runs the recipe's steps that are not done yet."""
    state = TrainingState(job.state_dir, model, job.run_dir) if job.state_dir else None
    done = state.restore() if state else 0
    recorder = CurveRecorder(
        job.run_dir,
        block_steps=recipe.block_steps,
        worst_examples=recipe.worst_examples,
        resumes=done > 0,
        replay=recipe.replays_spikes,
    )
    callbacks = [recorder, _StopAfter(recipe.steps - done)]
    if state is not None:
        callbacks.append(StateKeeper(state, recorder, job.state_seconds, recipe.block_steps))
    logger.info("Training %d steps on %d rows", recipe.steps, plan.rows, extra={"spikeguard_steps": recipe.steps})
    if done:
        logger.info("Going on after step %d", done)
    epochs = math.ceil(recipe.steps / plan.steps_per_epoch)
    # Keras takes no class weights beside those of the rows, which the batches then have multiplied by them.
    has_class_weights = job.weight is None and recipe.class_weights is not None
    weights = dict(enumerate(recipe.class_weights or ())) if has_class_weights else None
    while done < recipe.steps:
        # Keras knows no epoch that begins in its middle: what is left of one is a fit of its own.
        epoch, used = divmod(done, plan.steps_per_epoch)
        last_epoch = epoch + 1 if used else epochs
        model.fit(
            batches_from(first_step=done),
            initial_epoch=epoch,
            epochs=last_epoch,
            steps_per_epoch=plan.steps_per_epoch - used,
            class_weight=weights,
            validation_data=validation_batches(job.eval_files, without_ids(spec, job.weight), job.label, label.classes),
            # Epochs of a small split last a fraction of a second: validating after each would take longer than training.
            validation_freq=math.ceil(epochs / _MOST_VALIDATIONS),
            callbacks=callbacks,
            verbose=0,
        )
        done = last_epoch * plan.steps_per_epoch
    if state is not None:
        state.discard()


class _StopAfter(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training after a number of steps, within an epoch if need be."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._left -= 1
        if self._left <= 0:
            self.model.stop_training = True


def _optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    assert recipe.warmup_steps is not None  # Resolved.
    rate = GuardedSchedule(recipe.learning_rate, recipe.steps, recipe.warmup_steps, recipe.schedule)
    adam = (
        keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
        if recipe.weight_decay
        else keras.optimizers.Adam(rate)
    )
    return SpikeGuard(adam) if recipe.is_guarded else adam


def _loss(recipe: Recipe, label: LabelStatistics) -> keras.losses.Loss:
    if recipe.loss == "huber":
        return Huber(recipe.huber_delta or "auto")
    if recipe.loss == "squared_error":
        return keras.losses.MeanSquaredError()
    if recipe.loss == "generalized_crossentropy":
        return GeneralizedCrossEntropy()
    if recipe.label_smoothing:
        return SmoothedCrossEntropy(recipe.label_smoothing)
    return keras.losses.BinaryCrossentropy() if label.classes <= 2 else keras.losses.SparseCategoricalCrossentropy()


def _write_recipe(
    job: TrainingJob,
    recipe: Recipe,
    label: LabelStatistics,
    plan: BatchPlan,
    warnings: tuple[str, ...],
    class_counts: Sequence[int],
) -> None:
    folder = pathlib.Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": "spikeguard.recipe/2",
        "task": job.task,
        "label": job.label,
        "weight": job.weight,
        "model_fn": job.model_fn,
        "recipe": json.loads(recipe.to_json()),
        "label_statistics": dataclasses.asdict(label),
        "class_counts": list(class_counts),
        "steps_per_epoch": plan.steps_per_epoch,
        "warnings": list(warnings),
    }
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
