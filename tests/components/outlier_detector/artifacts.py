"""Runs OutlierDetector on artifacts made of a few rows, without a pipeline around them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pyarrow as pa
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.types import standard_artifacts

from spikeguard.components.anomalies import read_anomalies
from spikeguard.components.artifacts import OutlierModel
from spikeguard.components.example_rows import SplitFile, read_rows
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.executor import Executor
from spikeguard.components.outlier_detector.summary import read_outliers
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
from spikeguard.components.training_statistics.reading import FILE_NAME

# Without an image TFX packs itself up for remote workers, at each run and for seconds.
WITHOUT_PACKING = "--sdk_container_image=unused"
BEAM_ARGS = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1", WITHOUT_PACKING]
Row = dict[str, Any]


def serialized(row: Row) -> bytes:
    """A tf.Example; an empty list is a feature without a value, as CsvExampleGen writes a gap."""
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if not values:
            features[name] = tf.train.Feature()
        elif isinstance(values[0], str | bytes):
            texts = [item.encode() if isinstance(item, str) else item for item in values]
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        elif isinstance(values[0], int):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def write_file(path: pathlib.Path, records: list[bytes]) -> None:
    """A TFRecord file, gzipped where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


def examples_of(folder: pathlib.Path, files: int = 1, **splits: list[Row]) -> standard_artifacts.Examples:
    """An Examples artifact whose splits have several files each."""
    for split, rows in splits.items():
        for number in range(files):
            path = folder / f"Split-{split}" / f"data_tfrecord-{number:05d}-of-{files:05d}.gz"
            write_file(path, [serialized(row) for row in rows[number::files]])
    return examples_in(folder, list(splits))


def examples_in(folder: pathlib.Path, splits: list[str]) -> standard_artifacts.Examples:
    """An Examples artifact of the files in a folder."""
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names, examples.span, examples.version = str(folder), json.dumps(splits), 7, 3
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    return examples


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of OutlierDetector left."""

    examples: standard_artifacts.Examples
    schema: schema_pb2.Schema
    anomalies: standard_artifacts.ExampleAnomalies
    model: OutlierModel
    summary: dict[str, Any]

    def records(self, split: str) -> list[bytes]:
        """The serialized rows, file after file."""
        files = sorted(str(path) for path in (pathlib.Path(self.examples.uri) / f"Split-{split}").iterdir())
        return [record.numpy() for record in tf.data.TFRecordDataset(files, "GZIP")] if files else []

    def column(self, split: str, name: str) -> list[Any]:
        """Values of an added column."""
        found = []
        for record in self.records(split):
            feature = tf.train.Example.FromString(record).features.feature[name]
            found.append([*feature.int64_list.value, *feature.float_list.value])
        return [values[0] if values else None for values in found]

    def findings(self, split: str) -> dict[str, set[str]]:
        """Kinds of findings by feature, "" for those of the whole split."""
        proto = read_anomalies(pathlib.Path(self.anomalies.uri) / f"Split-{split}" / "SchemaDiff.pb")
        found = {
            name: {reason.short_description for reason in info.reason} for name, info in proto.anomaly_info.items()
        }
        if proto.dataset_anomaly_info.reason:
            found[""] = {reason.short_description for reason in proto.dataset_anomaly_info.reason}
        return found


def _artifact(kind: Any, folder: pathlib.Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    artifact = kind()
    artifact.uri = str(folder)
    return artifact


def _write_statistics(
    folder: pathlib.Path,
    examples: standard_artifacts.Examples,
    config: DetectorConfig,
    schema: schema_pb2.Schema | None,
) -> pa.Schema:
    """What TrainingStatistics writes of its split, by its own generator, without TFDV's passes. Returns the columns' types."""
    splits = json.loads(examples.get_string_custom_property("custom_split_pattern") or "{}")
    pattern = splits.get(config.split, f"Split-{config.split}/*")
    files = sorted(pathlib.Path(examples.uri).glob(pattern))
    payload: Any = examples.get_string_custom_property("payload_format") or "FORMAT_TF_EXAMPLE"
    generator = RobustStatisticsGenerator(StatisticsConfig(config.label, config.task), schema)
    accumulator, types = generator.create_accumulator(), {}
    for path in files:
        for rows in read_rows(SplitFile(config.split, str(path), payload)):
            generator.add_input(accumulator, rows.batch)
            types |= {field.name: field.type for field in rows.batch.schema if not pa.types.is_null(field.type)}
    proto = generator.extract_output(accumulator)
    proto.num_examples = accumulator.rows
    target = folder / f"Split-{config.split}" / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(statistics_pb2.DatasetFeatureStatisticsList(datasets=[proto]).SerializeToString())
    return pa.schema(sorted(types.items()))


def _schema_of(columns: pa.Schema) -> schema_pb2.Schema:
    """Every feature optional, of any length, as SchemaGen infers it without shapes."""
    schema = schema_pb2.Schema()
    for field in columns:
        kind = field.type.value_type
        number = schema_pb2.INT if pa.types.is_integer(kind) else schema_pb2.FLOAT
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        schema.feature.add(name=field.name, type=number if is_number else schema_pb2.BYTES)
    return schema


def detect(
    folder: pathlib.Path,
    examples: standard_artifacts.Examples,
    schema: schema_pb2.Schema | None = None,
    beam_args: list[str] = BEAM_ARGS,
    statistics_of: standard_artifacts.Examples | None = None,
    **settings: Any,
) -> Outcome:
    """Describes the train split, makes a schema where none is given, and runs the detector."""
    config = DetectorConfig(**settings)
    statistics = _artifact(standard_artifacts.ExampleStatistics, folder / "statistics")
    columns = _write_statistics(folder / "statistics", statistics_of or examples, config, schema)
    inputs = {"examples": [examples], "schema": [_artifact(standard_artifacts.Schema, folder / "schema")]}
    tfdv.write_schema_text(schema or _schema_of(columns), str(folder / "schema" / "schema.pbtxt"))
    outputs = {
        "treated_examples": _artifact(standard_artifacts.Examples, folder / "treated"),
        "treated_schema": _artifact(standard_artifacts.Schema, folder / "treated_schema"),
        "anomalies": _artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies"),
        "model": _artifact(OutlierModel, folder / "model"),
    }
    inputs["statistics"] = [statistics]
    executor = Executor(base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam_args))
    executor.Do(inputs, {name: [value] for name, value in outputs.items()}, {"config": config.to_json()})
    return Outcome(
        outputs["treated_examples"],
        tfdv.load_schema_text(str(folder / "treated_schema" / "schema.pbtxt")),
        outputs["anomalies"],
        outputs["model"],
        read_outliers(folder / "anomalies"),
    )
