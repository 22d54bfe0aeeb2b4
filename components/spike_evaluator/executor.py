"""Runs the detector inside TFX: ModelRun in, SpikeEvaluation and InfraBlessing out."""

from __future__ import annotations

import json
import logging
import pathlib
from typing import Any

from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils

from spikeguard.components.curve_readers.reading import read_curves
from spikeguard.components.errors import SpikeguardError
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.detection import DetectionConfig
from spikeguard.components.spike_evaluator.policy import SpikePolicy

logger = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Evaluates one run's curve; whatever goes wrong with the curve means not blessed, never an exception."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        detection = DetectionConfig(**json.loads(exec_properties["detection"]))
        policy = SpikePolicy(**json.loads(exec_properties["policy"]))
        model_run = artifact_utils.get_single_instance(input_dict["model_run"])
        evaluation = _evaluate(model_run.uri, detection, policy)
        logger.info("The curve is %s. %s", evaluation.verdict, "; ".join(evaluation.reasons))
        result.write(evaluation, artifact_utils.get_single_uri(output_dict["evaluation"]))
        _bless(artifact_utils.get_single_instance(output_dict["blessing"]), evaluation)


def _evaluate(model_run_uri: str, detection: DetectionConfig, policy: SpikePolicy) -> result.Evaluation:
    try:
        return result.evaluate_runs(read_curves(model_run_uri), detection, policy)
    except SpikeguardError as error:
        return result.unreadable(str(error))
    except Exception as error:  # The gate fails closed: an exception here would abort the run and lose the verdict.
        logger.exception("The curve could not be evaluated")
        return result.unreadable(f"the curve could not be evaluated: {type(error).__name__}: {error}")


def _bless(blessing: Artifact, evaluation: result.Evaluation) -> None:
    """Marks the blessing as InfraValidator does, so that Pusher and people find what they know."""
    folder = pathlib.Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("INFRA_BLESSED" if evaluation.is_blessed else "INFRA_NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(evaluation.is_blessed))
    blessing.set_string_custom_property("verdict", evaluation.verdict)
    blessing.set_string_custom_property("reasons", "; ".join(evaluation.reasons))
