"""The Beam side: TFDV's own statistics and ours, in one pass over the rows that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_data_validation as tfdv
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx_bsl.arrow import table_util

from spikeguard.components.example_rows import SplitFile, read_rows
from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig

# Beam sends one accumulator per batch, or few, between its stages, and compresses it: fewer, larger batches are faster.
_ROWS, _BYTES = 20_000, 20 << 20


class ReadSplit(beam.PTransform):  # type: ignore[misc]
    """All rows of some files as Arrow record batches; a worker takes a whole file.

    Beam's own source reads record by record, which takes longer than all else together.
    """

    def __init__(self, files: list[SplitFile]) -> None:
        super().__init__()
        self._files = files

    def expand(self, root: Any) -> beam.PCollection[pa.RecordBatch]:
        return root | "Files" >> beam.Create(self._files) | "Rows" >> beam.FlatMap(_batches)


def _batches(file: SplitFile) -> Iterator[pa.RecordBatch]:
    return (rows.batch for rows in read_rows(file))


class GenerateTrainingStatistics(beam.PTransform):  # type: ignore[misc]
    """One `DatasetFeatureStatisticsList` of all Arrow record batches, features in the order of their paths.

    TFDV's most frequent values come from sketches as well, so memory does not grow with the number of rows.
    """

    def __init__(self, config: StatisticsConfig, schema: schema_pb2.Schema | None) -> None:
        super().__init__()
        self._config, self._schema = config, schema

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection:
        options = tfdv.StatsOptions(
            generators=[RobustStatisticsGenerator(self._config, self._schema)],
            schema=self._schema,
            weight_feature=self._config.weight,
            use_sketch_based_topk_uniques=True,
        )
        return (
            batches
            | "Merge" >> beam.ParDo(_MergeBatches(self._config.weight))
            | "Statistics" >> tfdv.GenerateStatistics(options)
            | "Order" >> beam.Map(_ordered)
        )


class _MergeBatches(beam.DoFn):  # type: ignore[misc]
    """Merges the batches of a bundle to larger ones, and checks what TFDV would fail on without naming it."""

    def __init__(self, weight: str | None) -> None:
        self._weight = weight

    def start_bundle(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._types: dict[str, pa.DataType] = {}

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for field in batch.schema:
            known = self._types.get(field.name, field.type)
            if pa.types.is_null(known):
                known = field.type
            if known != field.type and not pa.types.is_null(field.type):
                raise TypeError(f"type of feature {field.name}. Found values of types {known} and {field.type}. ")
            self._types[field.name] = known
        if self._weight is not None and not _has_one_number_per_row(batch, self._weight):
            raise ValueError(f"no weight {self._weight} in some row")
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= _ROWS or self._bytes >= _BYTES:
            yield self._merged()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._batches:
            yield WindowedValue(self._merged(), GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _merged(self) -> pa.RecordBatch:
        merged = table_util.MergeRecordBatches(self._batches) if len(self._batches) > 1 else self._batches[0]
        self._batches, self._rows, self._bytes = [], 0, 0
        return merged


def _has_one_number_per_row(batch: pa.RecordBatch, name: str) -> bool:
    index = batch.schema.get_field_index(name)
    if index < 0 or pa.types.is_null(batch.column(index).type):
        return False
    column = batch.column(index)
    kind = column.type.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return bool(is_number and pc.all(pc.equal(lengths, 1)).as_py())


def _ordered(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> statistics_pb2.DatasetFeatureStatisticsList:
    # TFDV emits features in the order in which its workers met them.
    for dataset in statistics.datasets:
        features = sorted(dataset.features, key=lambda feature: list(feature.path.step))
        del dataset.features[:]
        dataset.features.extend(features)
    return statistics
