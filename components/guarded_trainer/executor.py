"""Runs a training inside TFX: decodes the artifacts, calls `train`."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import path_utils

from spikeguard.components.guarded_trainer.recipe import Recipe
from spikeguard.components.guarded_trainer.training import TrainingJob, files_of, train


class Executor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Trains one model and records its curve."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        examples = input_dict["examples"]
        train_split, eval_split = exec_properties["train_split"], exec_properties["eval_split"]
        train(
            TrainingJob(
                train_files=_files(examples, train_split),
                eval_files=_files(examples, eval_split),
                train_split=train_split,
                eval_split=eval_split,
                transform_graph=artifact_utils.get_single_uri(input_dict["transform_graph"]),
                label=exec_properties["label"],
                task=exec_properties["task"],
                recipe=Recipe.from_json(exec_properties["recipe"]),
                model_dir=path_utils.serving_model_dir(artifact_utils.get_single_uri(output_dict["model"])),
                run_dir=artifact_utils.get_single_uri(output_dict["model_run"]),
            )
        )


def _files(examples: list[Artifact], split: str) -> tuple[str, ...]:
    return tuple(path for folder in artifact_utils.get_split_uris(examples, split) for path in files_of(folder))
