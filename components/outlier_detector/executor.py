"""Runs the detection inside TFX: decodes the artifacts, runs the Beam job, checks its books and records them."""

from __future__ import annotations

import os
from typing import Any, get_args

from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError, unwrapped
from spikeguard.components.example_artifacts import has_readable_rows, paths_of, payload_of, splits_of
from spikeguard.components.example_rows import Payload, SplitFile
from spikeguard.components.outlier_detector.added_schema import id_dtypes, schema_with
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.job import DetectionJob, job_of
from spikeguard.components.outlier_detector.summary import check_books, read_outliers
from spikeguard.components.outlier_detector.transforms import DetectOutliers
from spikeguard.components.training_statistics.reading import read_training_statistics


class Executor(base_beam_executor.BaseBeamExecutor):  # type: ignore[misc]
    """Finds and treats the outliers of all splits."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        config = DetectorConfig.from_json(exec_properties["config"])
        examples = input_dict["examples"]
        schema = _read_schema(input_dict["schema"])
        statistics = read_training_statistics(artifact_utils.get_single_uri(input_dict["statistics"]))
        outputs = {name: artifact_utils.get_single_instance(artifacts) for name, artifacts in output_dict.items()}
        splits = _splits(examples, config)
        payload = _payload(examples)
        job = job_of(
            config,
            splits,
            schema,
            statistics,
            id_dtypes(schema, config.label) if payload == "FORMAT_TF_EXAMPLE" else None,
        )
        _describe_outputs(examples, outputs, splits)
        io_utils.write_pbtxt_file(
            os.path.join(outputs["treated_schema"].uri, "schema.pbtxt"), schema_with(schema, config)
        )
        files = _files(examples, splits, payload, outputs["treated_examples"])
        self._run(job, files, outputs)
        summary = read_outliers(outputs["anomalies"].uri)
        check_books(summary, statistics.rows, config.max_dropped_share)
        for artifact in (outputs["treated_examples"], outputs["anomalies"]):
            artifact.set_string_custom_property("treatment", config.treatment)
            for split, books in summary["splits"].items():
                for name in ("rows", "kept", "treated", "dropped", "flagged"):
                    artifact.set_int_custom_property(f"{name}_{split}", books[name])
        outputs["model"].set_string_custom_property("split", statistics.split)
        outputs["model"].set_int_custom_property("rows", statistics.rows)

    def _run(self, job: DetectionJob, files: list[SplitFile], outputs: dict[str, Artifact]) -> None:
        try:
            with self._make_beam_pipeline() as pipeline:
                _ = pipeline | DetectOutliers(job, files, outputs["model"].uri, outputs["anomalies"].uri)
        except Exception as error:
            raise unwrapped(error) from error


def _read_schema(artifacts: list[Artifact]) -> schema_pb2.Schema:
    folder = artifact_utils.get_single_uri(artifacts)
    return io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(folder))


def _splits(examples: list[Artifact], config: DetectorConfig) -> tuple[str, ...]:
    splits: list[str] = []
    for artifact in examples:
        found = splits_of(artifact)
        splits += [split for split in found if split not in splits]
        if config.split not in found:
            raise InvalidArgumentError("split", config.split, f"be one of the examples' splits {found}")
    return tuple(splits)


def _payload(examples: list[Artifact]) -> Any:
    payload, formats = payload_of(examples)
    if not has_readable_rows(examples):
        raise InvalidDataError(
            "examples",
            f"have the payload {payload} in {', '.join(formats)}, which no column can be added to",
            f"Write them as {' or '.join(get_args(Payload))} in TFRecords.",
        )
    return payload


def _files(examples: list[Artifact], splits: tuple[str, ...], payload: Any, output: Artifact) -> list[SplitFile]:
    found = []
    for split in splits:
        paths = paths_of(examples, split)
        folder = artifact_utils.get_split_uri([output], split)
        fileio.makedirs(folder)
        for number, path in enumerate(paths):
            name = f"data_tfrecord-{number:05d}-of-{len(paths):05d}.gz"
            found.append(SplitFile(split, path, payload, os.path.join(folder, name)))
    return found


def _describe_outputs(examples: list[Artifact], outputs: dict[str, Artifact], splits: tuple[str, ...]) -> None:
    treated = outputs["treated_examples"]
    treated.split_names = artifact_utils.encode_split_names(list(splits))
    treated.span, treated.version = examples[0].span, examples[0].version
    examples_utils.set_payload_format(treated, examples_utils.get_payload_format(examples[0]))
    examples_utils.set_file_format(treated, "tfrecords_gzip")
    outputs["anomalies"].split_names = treated.split_names
    outputs["anomalies"].span = treated.span
