"""Runs the validation inside TFX: Examples and TransformGraph in, ExampleAnomalies and InfraBlessing out."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from typing import Any

from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import Artifact, artifact_utils

from spikeguard.components.anomalies import write_findings
from spikeguard.components.blessing import bless
from spikeguard.components.errors import InvalidDataError, SpikeguardError
from spikeguard.components.example_artifacts import paths_of, splits_of
from spikeguard.components.normalization_validator.measured import NormalizationConfig
from spikeguard.components.normalization_validator.result import Report, write_result
from spikeguard.components.normalization_validator.transforms import measure
from spikeguard.components.normalization_validator.validating import Inputs, validate
from spikeguard.components.training_statistics.reading import FILE_NAME, read_proto

logger = logging.getLogger(__name__)


class Executor(base_beam_executor.BaseBeamExecutor):  # type: ignore[misc]
    """Validates; whatever goes wrong means not blessed, never an exception."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        config = NormalizationConfig(**json.loads(exec_properties["config"]))
        anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
        scratch = os.path.join(anomalies.uri, ".measured")
        splits: list[str] = [config.train_split]
        try:
            splits = splits_of(input_dict["examples"][0]) or splits
            report = validate(
                _inputs(input_dict, splits),
                config,
                lambda plan, files: measure(plan, files, self._make_beam_pipeline, scratch),
            )
        except SpikeguardError as error:
            report = Report(config.train_split, {}, failures=(str(error),))
        except Exception as error:  # The gate fails closed: an exception here would abort the run and lose the verdict.
            logger.exception("The normalization could not be validated")
            told = f"The normalization could not be validated: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            report = Report(config.train_split, {}, failures=(told,))
        shutil.rmtree(scratch, ignore_errors=True)
        anomalies.split_names = artifact_utils.encode_split_names(splits)
        anomalies.span = input_dict["examples"][0].span
        write_findings(anomalies.uri, report.findings(splits))
        write_result(report, anomalies.uri)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        bless(blessing, report.is_blessed, report.blocked_by, verdict=report.verdict)


def _inputs(input_dict: dict[str, list[Artifact]], splits: Sequence[str]) -> Inputs:
    examples, transformed = input_dict["examples"], input_dict.get("transformed_examples", [])
    statistics = input_dict.get("statistics", [])
    analyzed = input_dict.get("pre_transform_stats", [])
    return Inputs(
        graph=artifact_utils.get_single_uri(input_dict["transform_graph"]),
        raw={split: _files(examples, split) for split in splits},
        materialized={
            split: _files(transformed, split) for split in (splits_of(transformed[0]) if transformed else ())
        },
        analyzed_rows=_rows_in(analyzed[0].uri) if analyzed else None,
        described_rows=_described_rows(statistics[0]) if statistics else None,
    )


def _files(artifacts: list[Artifact], split: str) -> tuple[str, ...]:
    for artifact in artifacts:
        payload = examples_utils.get_payload_format(artifact)
        if payload != example_gen_pb2.FORMAT_TF_EXAMPLE:
            name = example_gen_pb2.PayloadFormat.Name(payload)
            raise InvalidDataError("examples", f"are of the format {name}", "Give tf.Examples in TFRecord files.")
    return tuple(sorted(paths_of(artifacts, split)))


def _rows_in(folder: str) -> int:
    """Rows that Transform's statistics describe."""
    return int(read_proto(os.path.join(folder, FILE_NAME)).datasets[0].num_examples)


def _described_rows(statistics: Artifact) -> int | None:
    rows = statistics.get_int_custom_property("rows")
    return int(rows) if rows else None
