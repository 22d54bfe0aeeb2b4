"""The ImbalanceDetector component."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, channel_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.artifacts import ClassWeights
from spikeguard.components.imbalance_detector.config import ImbalanceConfig
from spikeguard.components.imbalance_detector.executor import Executor


class ImbalanceDetectorSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of ImbalanceDetector."""

    PARAMETERS = {
        "config": ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": ChannelParameter(type=standard_artifacts.Schema, optional=True),
    }
    OUTPUTS = {
        "class_weights": ChannelParameter(type=ClassWeights),
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies),
    }


class ImbalanceDetector(base_component.BaseComponent):  # type: ignore[misc]
    """Tells from statistics alone how uneven the label is, what that does to each batch, and what weights even it out.

    Of a classification label: rows of each class in each split, imbalance ratio, effective number of samples, entropy,
    classes that a split lacks, label shift with its significance; for batches of shuffled rows the exact chance that one
    lacks a class, the spread of its rows, the jitter of the loss that this alone explains, and the batch size that keeps it
    low. Of a regression label: the weight of its tails and the emptiness of its range. Weights come from the train split
    alone. A class may be text, a whole number, or a position of a multi-hot label.

    Rows of a class are taken only where statistics hold them exactly. StatisticsGen does for text, for 0 and 1 (or other
    two neighbouring whole numbers), and for numbers that its schema declares to be categories; TrainingStatistics for every
    label of task `classification`, multi-hot ones included. What is not known is left out, and a note says why.

    It raises, naming split and label, where there are no statistics of the train split or they do not know the label. Else
    what is wrong is an anomaly: missing or non-finite labels, one class only and too many classes are of severity ERROR.

    Outputs:
      class_weights: `spikeguard.ClassWeights`, all figures, the weights and the advice as `class_balance.json`;
        `spikeguard.read_class_weights(uri)` returns it typed. GuardedTrainer takes it as `class_weights`.
      anomalies: `ExampleAnomalies`, for every split of the statistics.

    Example:
      ```python
      imbalance = ImbalanceDetector(
          statistics=[statistics_gen.outputs["statistics"], training_statistics.outputs["statistics"]],
          config=ImbalanceConfig("cancelled", "classification", batch_size=256),
      )
      ```
    """

    SPEC_CLASS = ImbalanceDetectorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: BaseChannel | Sequence[BaseChannel],
        config: ImbalanceConfig,
        schema: BaseChannel | None = None,
    ) -> None:
        """Constructs the component.

        Args:
          statistics: channel or channels of type `ExampleStatistics`: StatisticsGen's for all splits, TrainingStatistics'
            for the train split, or both.
          config: label and task, how to weigh, and thresholds.
          schema: channel of type `Schema` that must know the label; viewers show it beside the anomalies.
        """
        if not isinstance(statistics, BaseChannel):
            statistics = channel_utils.union(statistics)
        super().__init__(
            spec=ImbalanceDetectorSpec(
                statistics=statistics,
                schema=schema,
                config=json.dumps(dataclasses.asdict(config)),
                class_weights=Channel(type=ClassWeights),
                anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
