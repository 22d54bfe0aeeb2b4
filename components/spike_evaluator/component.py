"""The SpikeEvaluator component."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, channel_utils, standard_artifacts
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
    INPUTS = {
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
        "infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies, optional=True),
        "findings": ChannelParameter(type=standard_artifacts.ExampleAnomalies, optional=True),
        "baseline_run": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=SpikeEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class SpikeEvaluator(base_component.BaseComponent):  # type: ignore[misc]
    """Judges the training curve of a model and blocks its push when the curve is unstable.

    It reads the ModelRun of any Trainer that logs its loss, with a `CurveRecorder` or with TensorBoard alone. Pusher
    takes one `InfraBlessing`: give it this component's, and what else must hold to this component. The model is blessed
    where the curve is stable, and each `infra_blessing` that is asked for has the int custom property `blessed` of 1, and
    none of the `anomalies` that are asked for is of severity ERROR.

    It never raises because of its inputs: a curve that is missing, unreadable, too short or not finite is not blessed, nor
    is anything that is asked for and then missing or unreadable. What blocks is in the evaluation and in the blessing's
    custom properties `verdict` and `reasons`.

    Outputs:
      evaluation: `spikeguard.SpikeEvaluation`, the verdict, the reasons and the spikes as JSON.
      blessing: `InfraBlessing` with the int custom property `blessed`, 1 or 0.

    Example:
      ```python
      spikes = SpikeEvaluator(
          model_run=trainer.outputs["model_run"],
          policy=SpikePolicy(calm_tail=0.3),
          infra_blessing=infra_validator.outputs["blessing"],
          anomalies=[example_validator.outputs["anomalies"], distribution_validator.outputs["anomalies"]],
          baseline_run=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelRun),  # all runs of this pipeline so far
      )
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
        infra_blessing: BaseChannel | None = None,
        anomalies: BaseChannel | Sequence[BaseChannel] | None = None,
        baseline_run: BaseChannel | None = None,
        findings: BaseChannel | Sequence[BaseChannel] | None = None,
    ) -> None:
        """Constructs the component.

        Args:
          model_run: channel of type `ModelRun`: the folder that the recorder or TensorBoard wrote into.
          policy: what a curve may do and still be pushed; `SpikePolicy()` where None.
          detection: how sensitive the detector is; `DetectionConfig()` where None.
          infra_blessing: channel of type `InfraBlessing`, of an InfraValidator, that must have blessed as well; None where
            the curve alone decides.
          anomalies: channel or channels of type `ExampleAnomalies`, whose anomalies of severity ERROR block.
          baseline_run: channel of type `ModelRun`, of a run whose final level `max_final_over_baseline` compares with. Of
            several the newest counts, other than `model_run`; where there is none, as in a first run, nothing is compared.
            The newest run is not the one that was pushed last: no resolver of TFX leads from a pushed model to its run, so
            import that one (`tfx.dsl.Importer`) where a run that was blocked must not become the measure. A baseline
            that cannot be read, or that holds several curves, blocks.
          findings: channel or channels of type `ExampleAnomalies`, of OutlierDetector and NormalizationValidator, that are
            evidence for the causes of spikes and block nothing; `anomalies` are evidence, too.
        """
        if anomalies is not None and not isinstance(anomalies, BaseChannel):
            anomalies = channel_utils.union(anomalies)
        if findings is not None and not isinstance(findings, BaseChannel):
            findings = channel_utils.union(findings)
        super().__init__(
            spec=SpikeEvaluatorSpec(
                model_run=model_run,
                infra_blessing=infra_blessing,
                anomalies=anomalies,
                baseline_run=baseline_run,
                findings=findings,
                policy=json.dumps(dataclasses.asdict(policy or SpikePolicy())),
                detection=json.dumps(dataclasses.asdict(detection or DetectionConfig())),
                evaluation=Channel(type=SpikeEvaluation),
                blessing=Channel(type=standard_artifacts.InfraBlessing),
            )
        )
