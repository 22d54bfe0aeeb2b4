"""The GuardedTrainer component."""

from __future__ import annotations

import dataclasses

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.artifacts import ClassWeights
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.executor import Executor
from spikeguard.components.guarded_trainer.recipe import Recipe, Task


class GuardedTrainerSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of GuardedTrainer."""

    PARAMETERS = {
        "label": ExecutionParameter(type=str),
        "task": ExecutionParameter(type=str),
        "recipe": ExecutionParameter(type=str),
        "train_split": ExecutionParameter(type=str),
        "eval_split": ExecutionParameter(type=str),
        "model_fn": ExecutionParameter(type=str),
        "weight": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "class_weights": ChannelParameter(type=ClassWeights, optional=True),
    }
    OUTPUTS = {
        "model": ChannelParameter(type=standard_artifacts.Model),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
    }


class GuardedTrainer(base_component.BaseComponent):  # type: ignore[misc]
    """Trains a Keras model on transformed examples by a typed recipe, and records the true loss of every step.

    The model is built from the transformed schema, unless `model_fn` does it: numbers and fixed-length vectors are
    concatenated, vocabulary ids embedded. An integer feature `example_id` names the examples in the record and is no
    input. What depends on the label (Huber's delta, its scale, the number of classes) is learned from the train split
    alone. A training that was killed goes on where it was when the pipeline runs again.

    Outputs:
      model: `Model`, a SavedModel whose `serving_default` takes serialized raw tf.Examples.
      model_run: `ModelRun`, the true training curve (`spikeguard.read_curve`), TensorBoard scalars, `recipe.json`.

    Example:
      ```python
      trainer = GuardedTrainer(
          examples=transform.outputs["transformed_examples"],
          transform_graph=transform.outputs["transform_graph"],
          label="arr_delay",
          task="regression",
          recipe=Recipe(steps=2000),
      )
      ```
    """

    SPEC_CLASS = GuardedTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        transform_graph: BaseChannel,
        label: str,
        task: Task,
        recipe: Recipe,
        train_split: str = "train",
        eval_split: str = "eval",
        model_fn: str | None = None,
        weight: str | None = None,
        class_weights: BaseChannel | None = None,
    ) -> None:
        """Constructs the component.

        Args:
          examples: channel of type `Examples`: Transform's `transformed_examples`.
          transform_graph: channel of type `TransformGraph`: the graph that made them.
          label: name of the label, the same before and after the transform.
          task: `regression` (a float label) or `classification` (class ids 0, 1, 2, ... after the transform).
          recipe: how to train.
          train_split: the split to train on.
          eval_split: the split to validate on after each epoch.
          model_fn: dotted name of a function (features, label, task, recipe) that returns an uncompiled `keras.Model` from
            a dict of the transformed features to predictions: shape (batch, 1) for regression and two classes (a
            probability), (batch, classes) for more. None: `spikeguard.components.guarded_trainer.model.build_model`.
          weight: transformed feature with a weight >= 0 per row, such as OutlierDetector's `sample_weight`; the loss of a row
            is multiplied by it in training, beside its class weight, and the recorded loss is that of the training. It
            is no input of the model. None for none.
          class_weights: channel of type `ClassWeights`: ImbalanceDetector's `class_weights`, by which the losses of the
            classes are weighted. It makes the recipe's balance `weights`, and needs no other setting.

        Raises:
          InvalidArgumentError: the recipe's loss or balance does not fit the task, or its balance not the class weights.
        """
        if class_weights is not None and recipe.balance == "none":
            recipe = dataclasses.replace(recipe, balance="weights")
        recipe.check_task(task)
        if class_weights is not None and (recipe.balance != "weights" or recipe.class_weights is not None):
            raise InvalidArgumentError(
                "class_weights",
                class_weights,
                f"be None for balance {recipe.balance!r} or a recipe's own class_weights",
            )
        if recipe.balance == "weights" and class_weights is None and recipe.class_weights is None:
            raise InvalidArgumentError(
                "class_weights", None, "be given for balance 'weights'", "Give those of ImbalanceDetector."
            )
        super().__init__(
            spec=GuardedTrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                class_weights=class_weights,
                label=label,
                task=task,
                recipe=recipe.to_json(),
                train_split=train_split,
                eval_split=eval_split,
                model_fn=model_fn or "",
                weight=weight or "",
                model=Channel(type=standard_artifacts.Model),
                model_run=Channel(type=standard_artifacts.ModelRun),
            )
        )
