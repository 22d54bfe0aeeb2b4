"""A pipeline's configuration with the advice from its last run applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.recipe import LOSSES_OF_TASK, Recipe
from spikeguard.components.spike_evaluator.advice import Advice, combined
from spikeguard.pipelines.config import PipelineConfig


def advised(config: PipelineConfig, changes: Sequence[Advice]) -> tuple[PipelineConfig, tuple[str, ...]]:
    """The configuration with all changes that fit it.

    Args:
      config: of the run that the advice is on.
      changes: what `advise` returned.

    Returns:
      The new configuration, and a sentence for each change that does not fit the task, the recipe or this pipeline.
    """
    recipe, pipeline = combined(tuple(changes))
    left: list[str] = []
    if recipe.get("loss") not in (None, *LOSSES_OF_TASK[config.task]):
        del recipe["loss"]  # Advice for the other task.
    known = {field.name for field in dataclasses.fields(Recipe)}
    changed = config.recipe
    for name, value in recipe.items():
        if name not in known:
            left.append(f"{name}={value!r} is no setting of this recipe")
            continue
        try:
            proposed = dataclasses.replace(changed, **{name: value})
            proposed.check_task(config.task)
        except InvalidArgumentError as error:
            left.append(str(error))
        else:
            changed = proposed
    settings = {field.name for field in dataclasses.fields(PipelineConfig)}
    fitting: dict[str, Any] = {name: value for name, value in pipeline.items() if name in settings}
    left += [
        f"{name}={value!r} is no setting of this pipeline" for name, value in pipeline.items() if name not in settings
    ]
    return dataclasses.replace(config, recipe=changed, **fitting), tuple(left)
