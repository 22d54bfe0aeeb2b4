"""The TrainingStatistics component."""

from __future__ import annotations

import dataclasses
import json

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.training_statistics.executor import Executor
from spikeguard.components.training_statistics.generators import LabelTask, StatisticsConfig


class TrainingStatisticsSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of TrainingStatistics."""

    PARAMETERS = {
        "split": ExecutionParameter(type=str),
        "config": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "schema": ChannelParameter(type=standard_artifacts.Schema, optional=True),
    }
    OUTPUTS = {
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
    }


class TrainingStatistics(base_beam_component.BaseBeamComponent):  # type: ignore[misc]
    """Describes the train split, and no other, with TFDV's statistics and robust ones, in one Beam pass.

    What is fitted later (fences, Huber's delta, class weights) is fitted on these numbers, so that no row of another
    split can reach it. Memory does not grow with the number of rows. Quantiles and what is derived from them (median,
    MAD, fences) have a rank error of at most 0.2 % of all values, 1 % at each position of a vector.

    It raises, naming split and feature, where there is no such split or no row, where a feature has several types, where
    the label is missing from the schema or from every row, or where a weight is missing, negative or not finite. What is
    merely unusual (all missing, constant, not finite, huge, of changing length, a label outside the schema's domain) is
    in `RobustStatistics.findings`, and everything that entered is counted.

    Outputs:
      statistics: `ExampleStatistics` with one split, which TFDV loads and shows; the robust statistics are custom
        statistics named `robust.*`. `spikeguard.read_training_statistics(uri)` returns them typed. The custom properties
        `split` and `rows` tell what was seen.

    Example:
      ```python
      statistics = TrainingStatistics(
          examples=example_gen.outputs["examples"], label="arr_delay", task="regression"
      )
      schema_gen = SchemaGen(statistics=statistics.outputs["statistics"])
      ```
    """

    SPEC_CLASS = TrainingStatisticsSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        schema: BaseChannel | None = None,
        split: str = "train",
        label: str | None = None,
        task: LabelTask | None = None,
        weight: str | None = None,
        rare_share: float = 0.01,
        max_positions: int = 256,
    ) -> None:
        """Constructs the component.

        Args:
          examples: channel of type `Examples`.
          schema: channel of type `Schema`, by which integers can be categories and the label has a domain; None where
            there is none yet.
          split: the split that is trained on.
          label: the label; None where it gets no statistics of its own.
          task: `regression` or `classification`; needed with a label.
          weight: feature with one weight >= 0 in every row.
          rare_share: categories with less than this share of all values are rare; in (0, 1).
          max_positions: longest vector that gets statistics per position, each of which costs up to 1 MB; >= 1.

        Raises:
          InvalidArgumentError: a parameter is outside its range.
        """
        config = StatisticsConfig(label, task, weight, rare_share, max_positions)
        super().__init__(
            spec=TrainingStatisticsSpec(
                examples=examples,
                schema=schema,
                split=split,
                config=json.dumps(dataclasses.asdict(config)),
                statistics=Channel(type=standard_artifacts.ExampleStatistics),
            )
        )
