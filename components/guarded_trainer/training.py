"""Trains one model by one recipe: transformed examples in, SavedModel and recorded curve out. No TFX here."""

from __future__ import annotations

import dataclasses
import glob
import importlib
import json
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow_transform as tft

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.batches import (
    BatchPlan,
    Spec,
    plan_batches,
    read_labels,
    training_batches,
    validation_batches,
    without_ids,
)
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
    model_fn: str | None = None
    """Dotted name of a function (features, label, task, recipe) -> uncompiled model; None: `model.build_model`."""
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
    features = read_features(transform_output, job.label)
    spec = transform_output.transformed_feature_spec()
    label = label_statistics(read_labels(job.train_files, spec, job.label), job.label, job.train_split, job.task)
    if not len(read_labels(job.eval_files, spec, job.label, rows=1)):
        raise InvalidDataError(
            f"split {job.eval_split!r}", "has no rows", "Give more data, or a split that reaches it."
        )
    plan = plan_batches(label.rows, job.recipe.batch_size, job.recipe.keep_short_batch)
    recipe = resolve(job.recipe, plan, label)

    keras.utils.set_random_seed(recipe.seed)
    model = model_fn(features, label, job.task, recipe)
    if not isinstance(model, keras.Model):
        raise InvalidArgumentError("model_fn", job.model_fn, f"return a keras.Model, not {type(model).__name__}")
    model.compile(optimizer=_optimizer(recipe), loss=_loss(recipe, label))
    warnings = _check_learning_rate(model, job, spec, plan, recipe)
    _write_recipe(job, recipe, label, plan, warnings)
    _fit(model, job, spec, plan, recipe, label)
    export(model, transform_output, job.label, job.model_dir)
    return label


def resolve(recipe: Recipe, plan: BatchPlan, label: LabelStatistics) -> Recipe:
    """The recipe with nothing left open, for one train split.

    Raises:
      InvalidArgumentError: there are not as many class weights as classes.
    """
    weights = recipe.class_weights
    if weights is not None and len(weights) != label.classes:
        raise InvalidArgumentError("class_weights", weights, f"hold one weight for each of {label.classes} classes")
    is_open = recipe.loss == "huber" and recipe.huber_delta is None
    return dataclasses.replace(
        recipe,
        batch_size=plan.batch_size,
        huber_delta=huber_delta(label) if is_open else recipe.huber_delta,
        warmup_steps=warmup_steps_for(recipe.steps) if recipe.warmup_steps is None else recipe.warmup_steps,
    )


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


def _check_learning_rate(
    model: keras.Model, job: TrainingJob, spec: Spec, plan: BatchPlan, recipe: Recipe
) -> tuple[str, ...]:
    """What the range test says against the recipe's rate."""
    if not recipe.checks_learning_rate:
        return ()
    batches = training_batches(job.train_files, without_ids(spec), job.label, plan, recipe.seed)
    found = learning_rate_range(model, batches, seed=recipe.seed)
    warnings = found.warnings(recipe.learning_rate, recipe.steps)
    for warning in warnings:
        logger.warning("%s", warning)
    return warnings


def _fit(
    model: keras.Model, job: TrainingJob, spec: Spec, plan: BatchPlan, recipe: Recipe, label: LabelStatistics
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
    weights = None if recipe.class_weights is None else dict(enumerate(recipe.class_weights))
    while done < recipe.steps:
        # Keras knows no epoch that begins in its middle: what is left of one is a fit of its own.
        epoch, used = divmod(done, plan.steps_per_epoch)
        last_epoch = epoch + 1 if used else epochs
        model.fit(
            training_batches(job.train_files, spec, job.label, plan, recipe.seed, first_step=done),
            initial_epoch=epoch,
            epochs=last_epoch,
            steps_per_epoch=plan.steps_per_epoch - used,
            class_weight=weights,
            validation_data=validation_batches(job.eval_files, spec, job.label, label.classes),
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
    job: TrainingJob, recipe: Recipe, label: LabelStatistics, plan: BatchPlan, warnings: tuple[str, ...]
) -> None:
    folder = pathlib.Path(job.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": "spikeguard.recipe/2",
        "task": job.task,
        "label": job.label,
        "model_fn": job.model_fn,
        "recipe": json.loads(recipe.to_json()),
        "label_statistics": dataclasses.asdict(label),
        "steps_per_epoch": plan.steps_per_epoch,
        "warnings": list(warnings),
    }
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
