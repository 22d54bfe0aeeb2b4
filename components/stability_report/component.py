"""The StabilityReport component."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, channel_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.artifacts import ClassWeights, HtmlReport, SpikeEvaluation
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.stability_report.executor import Executor

Channels = Any  # A channel of TFX, several, or None; TFX has no types.


class StabilityReportSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of StabilityReport."""

    PARAMETERS = {"title": ExecutionParameter(type=str)}
    INPUTS = {
        "evaluation": ChannelParameter(type=SpikeEvaluation, optional=True),
        "model_run": ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies, optional=True),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
        "class_weights": ChannelParameter(type=ClassWeights, optional=True),
        "infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        "model_evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
        "model_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
        "pushed_model": ChannelParameter(type=standard_artifacts.PushedModel, optional=True),
    }
    OUTPUTS = {"report": ChannelParameter(type=HtmlReport)}


class StabilityReport(base_component.BaseComponent):  # type: ignore[misc]
    """Makes one page of all that a run found: verdict, curve, spikes, anomalies, what was treated, and what to do.

    It takes any subset of its inputs, and runs on what there is where a condition skipped the nodes of others: give it the
    outputs of training, evaluation and push, and put it outside of their `Cond`. On TFX's local runner this holds as it is.

    Outputs:
      report: `spikeguard.HtmlReport`: `report.html`, which needs no network, and the same content as `report.json`.

    Example:
      ```python
      report = StabilityReport(
          evaluation=spikes.outputs["evaluation"],
          model_run=trainer.outputs["model_run"],
          anomalies=[example_validator.outputs["anomalies"], outlier_detector.outputs["anomalies"]],
          pushed_model=pusher.outputs["pushed_model"],
      )
      ```
    """

    SPEC_CLASS = StabilityReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        evaluation: BaseChannel | None = None,
        model_run: BaseChannel | None = None,
        anomalies: Channels = None,
        statistics: Channels = None,
        class_weights: Channels = None,
        infra_blessing: Channels = None,
        model_evaluation: BaseChannel | None = None,
        model_blessing: BaseChannel | None = None,
        pushed_model: BaseChannel | None = None,
        title: str = "Stability report",
    ) -> None:
        """Constructs the component.

        Args:
          evaluation: channel of type `spikeguard.SpikeEvaluation`: the verdict. Without it the curve is judged by the
            default rules.
          model_run: channel of type `ModelRun`: the curve and, of GuardedTrainer, the recipe.
          anomalies: channel or channels of type `ExampleAnomalies`, of ExampleValidator, OutlierDetector,
            NormalizationValidator or any other.
          statistics: channel or channels of type `ExampleStatistics`.
          class_weights: channel or channels of type `spikeguard.ClassWeights`.
          infra_blessing: channel or channels of type `InfraBlessing`.
          model_evaluation: channel of type `ModelEvaluation`, Evaluator's.
          model_blessing: channel of type `ModelBlessing`, Evaluator's.
          pushed_model: channel of type `PushedModel`; where it is given and empty, the page says that nothing was pushed.
          title: what the page is about.

        Raises:
          InvalidArgumentError: none of the channels is given.
        """
        inputs = {
            "evaluation": evaluation,
            "model_run": model_run,
            "anomalies": _united(anomalies),
            "statistics": _united(statistics),
            "class_weights": _united(class_weights),
            "infra_blessing": _united(infra_blessing),
            "model_evaluation": model_evaluation,
            "model_blessing": model_blessing,
            "pushed_model": pushed_model,
        }
        if all(channel is None for channel in inputs.values()):
            raise InvalidArgumentError("inputs", None, f"name at least one of {', '.join(inputs)}")
        super().__init__(spec=StabilityReportSpec(**inputs, title=title, report=Channel(type=HtmlReport)))


def _united(channels: Channels) -> BaseChannel | None:
    if channels is None or isinstance(channels, BaseChannel):
        return channels
    return channel_utils.union(channels)
