"""The OutlierDetector component."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.artifacts import OutlierModel
from spikeguard.components.outlier_detector.config import DetectorConfig, Treatment
from spikeguard.components.outlier_detector.executor import Executor


class OutlierDetectorSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of OutlierDetector."""

    PARAMETERS = {"config": ExecutionParameter(type=str)}
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
    }
    # TFX wants other names than those of the inputs.
    OUTPUTS = {
        "treated_examples": ChannelParameter(type=standard_artifacts.Examples),
        "treated_schema": ChannelParameter(type=standard_artifacts.Schema),
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "model": ChannelParameter(type=OutlierModel),
    }


class OutlierDetector(base_beam_component.BaseBeamComponent):  # type: ignore[misc]
    """Finds outliers by what the train split says of itself, shows them, and treats them.

    Fences come from TrainingStatistics; an isolation forest is fitted on rows drawn from the train split, each tree on
    `max_samples` of them, so that it is, in distribution, the forest of the whole split. The draw depends on the rows'
    bytes and the seed alone. All splits are scored; a row is an outlier where a value is infinite or lies `fence_factor`
    times as far from the median as the fence, or where the forest's score is above the threshold. The label has fences
    in a regression and no part in the forest, so that rows without one can be scored. The forest sees numbers, and
    categories by how rare they are.

    Treatments:
      flag: rows get `outlier_score`, `outlier_flag` (0 or 1) and `example_id`; nothing else changes.
      drop: and outliers leave the train split; it raises where these are more than `max_dropped_share`.
      downweight: and rows get a weight, `outlier_weight` for outliers of the train split and 1 for others, that
        GuardedTrainer(weight=...) uses.
      winsorize: as flag, and counts the rows that `spikeguard.winsorize` changes in the transform graph.

    The score, the flag and the weight are no features. `example_id` names the raw row as the default preprocessing_fn does.

    Outputs:
      treated_examples: `Examples`: the raw rows, byte for byte, followed by the added columns, in the same order.
      treated_schema: `Schema`: the given one and the added columns, which are optional and not in the environment `SERVING`.
      anomalies: `ExampleAnomalies`, per split; and `outliers.json` (`spikeguard.read_outliers`) with the fences, counts,
        farthest values and rows, and the books: of each split, `kept` + `treated` + `dropped` = `rows`. These are custom
        properties as well, as `rows_train`.
      model: `OutlierModel`: `spikeguard.read_outlier_model(uri)` scores rows anywhere.

    Example:
      ```python
      outliers = OutlierDetector(
          examples=example_gen.outputs["examples"],
          statistics=training_statistics.outputs["statistics"],
          schema=schema_gen.outputs["schema"],
          label="arr_delay",
          task="regression",
          treatment="drop",
      )
      transform = Transform(examples=outliers.outputs["treated_examples"], schema=outliers.outputs["treated_schema"], ...)
      ```
    """

    SPEC_CLASS = OutlierDetectorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        statistics: BaseChannel,
        schema: BaseChannel,
        label: str | None = None,
        task: str | None = None,
        treatment: Treatment = "flag",
        **settings: Any,
    ) -> None:
        """Constructs the component.

        Args:
          examples: channel of type `Examples`: raw rows as tf.Examples or tf.SequenceExamples in TFRecords.
          statistics: channel of type `ExampleStatistics`: TrainingStatistics of the same examples.
          schema: channel of type `Schema`, of the raw rows.
          label: the label; None for none.
          task: `regression` or `classification`; needed with a label.
          treatment: what becomes of outliers.
          **settings: the other fields of `DetectorConfig`, such as `contamination=0.02`.

        Raises:
          InvalidArgumentError: a parameter is unknown or outside its range.
        """
        config = DetectorConfig.with_settings(label=label, task=task, treatment=treatment, **settings)
        super().__init__(
            spec=OutlierDetectorSpec(
                examples=examples,
                statistics=statistics,
                schema=schema,
                config=config.to_json(),
                treated_examples=Channel(type=standard_artifacts.Examples),
                treated_schema=Channel(type=standard_artifacts.Schema),
                anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
                model=Channel(type=OutlierModel),
            )
        )
