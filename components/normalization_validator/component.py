"""The NormalizationValidator component."""

from __future__ import annotations

import dataclasses
import json

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from spikeguard.components.normalization_validator.executor import Executor
from spikeguard.components.normalization_validator.measured import NormalizationConfig


class NormalizationValidatorSpec(ComponentSpec):  # type: ignore[misc]
    """Inputs, outputs and parameters of NormalizationValidator."""

    PARAMETERS = {
        "config": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
        "transformed_examples": ChannelParameter(type=standard_artifacts.Examples, optional=True),
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
        "pre_transform_stats": ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }
    OUTPUTS = {
        "anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "blessing": ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class NormalizationValidator(base_beam_component.BaseBeamComponent):  # type: ignore[misc]
    """Proves or refutes that features are normalized by the train split alone, on any transform graph, from outside.

    It feeds raw rows to the graph, finds the constants of each output from what comes out, and compares them in float64
    with what the train split, the other splits and all of them together would give. Per feature it checks that

    - the constants are the train split's and no other's (`train_only`);
    - each split was transformed by the same constants (`same_constants`; needs `transformed_examples`);
    - nothing depends on the other rows of a batch (`independent_of_batch`);
    - the raw numbers were not normalized before they were split (`not_normalized_before_split`);
    - the numbers are of a sound size (`scaled`) and alike in all splits (`same_distribution`).

    What fails one of the first four is an ERROR and is not blessed; the last two give a WARNING. Constants that equal no
    statistic of the data, as those written by hand do, are passed. Where float32, the number of rows or the data cannot tell
    train-only from pooled constants, the check is `undecidable`, says so with its figures, and does not block.

    It never raises because of its inputs: what cannot be validated is not blessed, with the reason.

    Outputs:
      anomalies: `ExampleAnomalies`, per split; at its root `normalization.json` with all figures, in the format that
        `normalization_validator.result` documents.
      blessing: `InfraBlessing` with the int custom property `blessed`, 1 or 0, and the reasons.

    Example:
      ```python
      validator = NormalizationValidator(
          examples=example_gen.outputs["examples"],
          transform_graph=transform.outputs["transform_graph"],
          transformed_examples=transform.outputs["transformed_examples"],
          label="price",
      )
      with Cond(validator.outputs["blessing"].future()[0].custom_property("blessed") == 1):
          trainer = Trainer(...)
      ```
    """

    SPEC_CLASS = NormalizationValidatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        transform_graph: BaseChannel,
        transformed_examples: BaseChannel | None = None,
        statistics: BaseChannel | None = None,
        pre_transform_stats: BaseChannel | None = None,
        label: str | None = None,
        train_split: str = "train",
        sample_rows: int = 1000,
        max_range_sd: float = 10.0,
        max_size: float = 10.0,
        min_sd: float = 1e-3,
        max_shift_sd: float = 0.25,
        max_sd_ratio: float = 2.0,
    ) -> None:
        """Constructs the component.

        Args:
          examples: channel of type `Examples`: raw tf.Examples in TFRecord files, all splits.
          transform_graph: channel of type `TransformGraph`.
          transformed_examples: channel of type `Examples`, Transform's; None where nothing is materialized.
          statistics: channel of type `ExampleStatistics` of TrainingStatistics, whose number of rows is compared.
          pre_transform_stats: channel of type `ExampleStatistics`, Transform's, which tells how many rows were analyzed.
          label: the label, which may stay unscaled.
          train_split: the split that is trained on.
          sample_rows: rows that the graph is probed with; >= 8.
          max_range_sd: standard deviations from the mean, beyond which a value is warned of; > 0.
          max_size: mean or standard deviation of a transformed feature, beyond which it counts as unscaled; > 0.
          min_sd: standard deviation below which a feature counts as flat; > 0.
          max_shift_sd: standard deviations that the means of two splits may lie apart; > 0.
          max_sd_ratio: times that the standard deviation of a split may be that of the train split, or the other way; > 1.

        Raises:
          InvalidArgumentError: a parameter is outside its range.
        """
        config = NormalizationConfig(
            train_split, label, sample_rows, max_range_sd, max_size, min_sd, max_shift_sd, max_sd_ratio
        )
        super().__init__(
            spec=NormalizationValidatorSpec(
                examples=examples,
                transform_graph=transform_graph,
                transformed_examples=transformed_examples,
                statistics=statistics,
                pre_transform_stats=pre_transform_stats,
                config=json.dumps(dataclasses.asdict(config)),
                anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
                blessing=Channel(type=standard_artifacts.InfraBlessing),
            )
        )
