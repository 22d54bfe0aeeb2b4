"""Runs the statistics inside TFX: decodes the artifacts, runs one Beam pass, checks and records what it saw."""

from __future__ import annotations

import json
import os
from typing import Any

import apache_beam as beam
import tensorflow_data_validation as tfdv
from tfx.components.util import tfxio_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils

from spikeguard.components.errors import unwrapped
from spikeguard.components.example_artifacts import has_readable_rows, paths_of, payload_of, splits_of
from spikeguard.components.example_rows import SplitFile
from spikeguard.components.training_statistics.checking import check_result, check_schema, check_split, explained
from spikeguard.components.training_statistics.generators import StatisticsConfig
from spikeguard.components.training_statistics.reading import FILE_NAME, read_proto
from spikeguard.components.training_statistics.transforms import GenerateTrainingStatistics, ReadSplit


class Executor(base_beam_executor.BaseBeamExecutor):  # type: ignore[misc]
    """Describes one split."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        examples, split = input_dict["examples"], exec_properties["split"]
        config = StatisticsConfig(**json.loads(exec_properties["config"]))
        schema = None
        if input_dict.get("schema"):
            schema_folder = artifact_utils.get_single_uri(input_dict["schema"])
            schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_folder))
        for artifact in examples:
            check_split(split, splits_of(artifact))
        check_schema(split, config, schema)
        statistics = artifact_utils.get_single_instance(output_dict["statistics"])
        statistics.split_names = artifact_utils.encode_split_names([split])
        statistics.span = examples[0].span
        path = os.path.join(artifact_utils.get_split_uri([statistics], split), FILE_NAME)
        try:
            with self._make_beam_pipeline() as pipeline:
                _ = (
                    pipeline
                    | "Read" >> _source(examples, split)
                    | "Describe" >> GenerateTrainingStatistics(config, schema)
                    | "Write" >> tfdv.WriteStatisticsToBinaryFile(path)
                )
        except Exception as error:
            reason = explained(split, config, error)
            raise reason or unwrapped(error) from error
        proto = read_proto(path)
        check_result(split, config, proto)
        statistics.set_string_custom_property("split", split)
        statistics.set_int_custom_property("rows", proto.datasets[0].num_examples)


def _source(examples: list[Artifact], split: str) -> beam.PTransform:
    if has_readable_rows(examples):
        payload: Any = payload_of(examples)[0]
        return ReadSplit([SplitFile(split, path, payload) for path in paths_of(examples, split)])
    return tfxio_utils.get_split_tfxio(examples, split, telemetry_descriptors=["TrainingStatistics"]).BeamSource()
