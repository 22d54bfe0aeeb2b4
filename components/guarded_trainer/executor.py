"""Runs a training inside TFX: decodes the artifacts, calls `train`."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import path_utils

import spikeguard
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
        run_dir = artifact_utils.get_single_uri(output_dict["model_run"])
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
                run_dir=run_dir,
                class_weights=_optional_uri(input_dict, "class_weights"),
                model_fn=exec_properties["model_fn"] or None,
                weight=exec_properties.get("weight") or None,
                state_dir=_state_dir(run_dir, input_dict, exec_properties),
            )
        )


def _optional_uri(input_dict: dict[str, list[Artifact]], key: str) -> str | None:
    return artifact_utils.get_single_uri(input_dict[key]) if input_dict.get(key) else None


def _files(examples: list[Artifact], split: str) -> tuple[str, ...]:
    return tuple(path for folder in artifact_utils.get_split_uris(examples, split) for path in files_of(folder))


def _state_dir(run_dir: str, input_dict: dict[str, list[Artifact]], exec_properties: dict[str, Any]) -> str:
    """A folder beside the node's outputs, the same for every execution of the same training: TFX gives each attempt new ones."""
    inputs = {key: [artifact.uri for artifact in artifacts] for key, artifacts in sorted(input_dict.items())}
    properties = {key: str(value) for key, value in sorted(exec_properties.items())}
    identity = json.dumps([inputs, properties, spikeguard.__version__], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return os.path.join(os.path.dirname(os.path.dirname(run_dir)), ".training", name)
