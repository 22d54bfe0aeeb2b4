"""The SpikeEvaluator component."""

from __future__ import annotations

import dataclasses
import json

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.artifacts import SpikeEvaluation
from spikeguard.components.spike_evaluator.detection import DetectionConfig
from spikeguard.components.spike_evaluator.executor import Executor
from spikeguard.components.spike_evaluator.policy import SpikePolicy


class SpikeEvaluatorSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of SpikeEvaluator."""

    PARAMETERS = {
        "policy": ExecutionParameter(type=str),
        "detection": ExecutionParameter(type=str),
    }
    INPUTS = {"model_run": ChannelParameter(type=standard_artifacts.ModelRun)}
    OUTPUTS = {
        "evaluation": ChannelParameter(type=SpikeEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class SpikeEvaluator(base_component.BaseComponent):  # type: ignore[misc]
    """Judges the training curve of a model and blocks its push when the curve is unstable.

    Give its blessing to Pusher as `infra_blessing`. It never raises because of a curve: a curve that is missing,
    unreadable, too short or not finite is not blessed, with that reason in the evaluation and in the blessing's custom
    properties `verdict` and `reasons`.

    Outputs:
      evaluation: `spikeguard.SpikeEvaluation`, the verdict, the reasons and the spikes as JSON.
      blessing: `InfraBlessing` with the int custom property `blessed`, 1 or 0.

    Example:
      ```python
      spikes = SpikeEvaluator(model_run=trainer.outputs["model_run"], policy=SpikePolicy(calm_tail=0.3))
      pusher = tfx.components.Pusher(model=trainer.outputs["model"], infra_blessing=spikes.outputs["blessing"], ...)
      ```
    """

    SPEC_CLASS = SpikeEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model_run: BaseChannel,
        policy: SpikePolicy | None = None,
        detection: DetectionConfig | None = None,
    ) -> None:
        """Constructs the component.

        Args:
          model_run: channel of type `ModelRun`: the folder that the recorder wrote into.
          policy: what a curve may do and still be pushed; `SpikePolicy()` where None.
          detection: how sensitive the detector is; `DetectionConfig()` where None.
        """
        super().__init__(
            spec=SpikeEvaluatorSpec(
                model_run=model_run,
                policy=json.dumps(dataclasses.asdict(policy or SpikePolicy())),
                detection=json.dumps(dataclasses.asdict(detection or DetectionConfig())),
                evaluation=Channel(type=SpikeEvaluation),
                blessing=Channel(type=standard_artifacts.InfraBlessing),
            )
        )
