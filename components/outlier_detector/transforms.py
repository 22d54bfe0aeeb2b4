"""The Beam side: draws rows of the train split, fits, then judges and writes all splits; a file at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spikeguard.components.anomalies import write_findings
from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.example_rows import Rows, SplitFile, read_rows
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.findings import findings_of
from spikeguard.components.outlier_detector.job import DetectionJob
from spikeguard.components.outlier_detector.matrix import Matrix, MatrixColumns
from spikeguard.components.outlier_detector.model import FittedDetector, fit_detector
from spikeguard.components.outlier_detector.sampling import RowSample, hash_rows
from spikeguard.components.outlier_detector.scoring import SplitTally, judge, merged_tallies, show_rows
from spikeguard.components.outlier_detector.summary import summary_of, write_summary
from spikeguard.components.outlier_detector.treating import treat
from spikeguard.components.outlier_detector.writing import RowWriter, added_bytes
from spikeguard.components.preprocessing.example_ids import example_id_of_batch

Ids = npt.NDArray[np.int64]


class DetectOutliers(beam.PTransform):  # type: ignore[misc]
    """Writes treated rows, the fitted model, and what was found, into the folders that the job names.

    A worker takes a whole file: gzipped TFRecords cannot be read in parts, and the rows keep their order. `Create` spreads
    the files over the workers. Stages are few, for on small data they are most of the time: None stands for no file, so
    that the merging needs no stages for nothing to merge.
    """

    def __init__(self, job: DetectionJob, files: list[SplitFile], model: str, anomalies: str) -> None:
        super().__init__()
        self._job, self._files, self._model, self._anomalies = job, files, model, anomalies

    def expand(self, root: Any) -> beam.PCollection:
        config = self._job.config
        width = MatrixColumns.of(self._job.fences, config.label).width
        has_forest = config.trees > 0 and width > 0
        train = [file for file in self._files if has_forest and file.split == config.split]
        fitted = (
            root
            | "TrainFiles" >> beam.Create(_or_none(train))
            | "DrawRows" >> beam.Map(_draw, self._job)
            | "MergeDraws" >> beam.CombineGlobally(_MergeSamples(config, width)).without_defaults()
            | "Fit" >> beam.Map(_fit, self._job)
        )
        detector = beam.pvalue.AsSingleton(fitted)
        merge = functools.partial(merged_tallies, top_rows=config.top_rows)
        tallies = (
            root
            | "AllFiles" >> beam.Create(_or_none(self._files))
            | "JudgeAndWrite" >> beam.Map(_judge_file, detector, self._job)
            | "MergeTallies" >> beam.CombineGlobally(merge).without_defaults()
        )
        return tallies | "Write" >> beam.Map(_write, detector, self._job, self._model, self._anomalies)


def _or_none(files: list[SplitFile]) -> list[SplitFile | None]:
    return [*files] or [None]


class _MergeSamples(beam.CombineFn):  # type: ignore[misc]
    def __init__(self, config: DetectorConfig, width: int) -> None:
        self._empty = functools.partial(RowSample.empty, config.trees * config.max_samples, width, config.seed)

    def create_accumulator(self) -> RowSample:
        return self._empty()

    def add_input(self, accumulator: RowSample, sample: RowSample) -> RowSample:
        return accumulator.merged(sample)

    def merge_accumulators(self, accumulators: Iterable[RowSample]) -> RowSample:
        return functools.reduce(RowSample.merged, accumulators)

    def extract_output(self, accumulator: RowSample) -> RowSample:
        return accumulator


def _draw(file: SplitFile | None, job: DetectionJob) -> RowSample:
    config = job.config
    columns = MatrixColumns.of(job.fences, config.label)
    sample = RowSample.empty(config.trees * config.max_samples, columns.width, config.seed)
    for rows in read_rows(file) if file else ():
        hashes = hash_rows(rows.serialized, config.seed)
        sample = sample.add(hashes, functools.partial(_matrix, rows, columns))
    return sample


def _matrix(rows: Rows, columns: MatrixColumns, places: npt.NDArray[np.intp]) -> Matrix:
    return columns.matrix(rows.decoded(places))


def _fit(sample: RowSample, job: DetectionJob) -> FittedDetector:
    return fit_detector(job.statistics, job.config, job.fences, sample.rows())


def _judge_file(file: SplitFile | None, detector: FittedDetector, job: DetectionJob) -> dict[str, SplitTally]:
    if file is None:
        return {}
    tally = SplitTally()
    with RowWriter(file.target) as writer:
        for rows in read_rows(file):
            tally.merge(_judge_rows(rows, file, detector, job, writer), job.config.top_rows)
    tally.written = writer.rows
    return {file.split: tally}


def _judge_rows(
    rows: Rows, file: SplitFile, detector: FittedDetector, job: DetectionJob, writer: RowWriter
) -> SplitTally:
    try:
        verdict, tally = judge(detector, rows.batch, job.edges)
        ids = given_ids(rows.batch) if job.id_dtypes is None else example_id_of_batch(rows.batch, job.id_dtypes)
    except InvalidDataError as error:
        raise InvalidDataError(f"split {file.split!r}, {error.where}", error.problem, error.remedy) from error
    treated = treat(verdict, None if job.id_dtypes is None else ids, job.config, file.split == job.config.split)
    tally.flagged = int(verdict.is_outlier.sum())
    tally.dropped, tally.treated = int(treated.is_dropped.sum()), int(treated.is_treated.sum())
    tally.kept = int((~treated.is_dropped & ~treated.is_treated).sum())
    tally.top = show_rows(detector, rows.batch, verdict, ids, file.split, job.config.top_rows)
    writer.write(rows.serialized, added_bytes(treated.columns), ~treated.is_dropped)
    return tally


def given_ids(batch: pa.RecordBatch) -> Ids | None:
    """The ids that all rows of a batch carry; None where they do not."""
    index = batch.schema.get_field_index(EXAMPLE_ID)
    if index < 0 or pa.types.is_null(batch.column(index).type):
        return None
    values = batch.column(index).flatten()
    return values.to_numpy() if pa.types.is_integer(values.type) and len(values) == batch.num_rows else None


def _write(
    tallies: dict[str, SplitTally], detector: FittedDetector, job: DetectionJob, model: str, anomalies: str
) -> None:
    """Writes what was learned and found, for every split, those without rows too."""
    tallies = {split: tallies.get(split, SplitTally()) for split in job.splits}
    detector.save(model)
    write_summary(anomalies, summary_of(job.config, detector, tallies, job.edges))
    write_findings(anomalies, findings_of(detector, job.statistics, tallies), job.schema)
