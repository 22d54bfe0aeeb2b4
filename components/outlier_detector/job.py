"""All that Beam's workers need to know besides the files."""

from __future__ import annotations

import dataclasses

from tensorflow_metadata.proto.v0 import schema_pb2

from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.fences import FeatureFence, fences_of
from spikeguard.components.outlier_detector.scoring import histogram_edges
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.reading import SplitStatistics


@dataclasses.dataclass(frozen=True)
class DetectionJob:
    """One detection over all splits."""

    config: DetectorConfig
    splits: tuple[str, ...]
    schema: schema_pb2.Schema
    """Of the raw rows."""
    statistics: SplitStatistics
    fences: tuple[FeatureFence, ...]
    edges: dict[str, Floats]
    """Of the features' histograms."""
    id_dtypes: dict[str, str] | None
    """Names and types of the columns that make a row's id; None where the rows get none."""


def job_of(
    config: DetectorConfig,
    splits: tuple[str, ...],
    schema: schema_pb2.Schema,
    statistics: SplitStatistics,
    id_dtypes: dict[str, str] | None,
) -> DetectionJob:
    """The job for one set of statistics.

    Raises:
      InvalidDataError: the statistics are of another split than the configuration's.
    """
    if statistics.split != config.split:
        raise InvalidDataError(
            f"split {config.split!r}",
            f"is not what the statistics describe: {statistics.split!r}",
            "Give TrainingStatistics and OutlierDetector the same split.",
        )
    fences = fences_of(statistics, config.label, config.task, config.rare_share, ignored=(EXAMPLE_ID,))
    found = {fence.name: histogram_edges(fence, statistics.features[fence.name].quantiles) for fence in fences}
    edges = {name: edge for name, edge in found.items() if edge is not None}
    return DetectionJob(config, splits, schema, statistics, fences, edges, id_dtypes)
