"""The statistics generator that TFDV calls beside its own, in the same pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from tensorflow_data_validation import types
from tensorflow_data_validation.arrow import arrow_util
from tensorflow_data_validation.statistics.generators import stats_generator
from tensorflow_data_validation.utils import schema_util
from tensorflow_data_validation.utils.example_weight_map import ExampleWeightMap
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.training_statistics.describing import describe, outside_domain
from spikeguard.components.training_statistics.results import PREFIX, add_to
from spikeguard.components.training_statistics.summaries import FeatureSummary

LabelTask = Literal["regression", "classification"]
# On the weight feature: rows whose weight is negative or not finite, and the sum of the others.
BAD_WEIGHTS, WEIGHT_SUM = PREFIX + "bad_weights", PREFIX + "weight_sum"


@dataclasses.dataclass(frozen=True)
class StatisticsConfig:
    """What is computed besides TFDV's own statistics.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> StatisticsConfig(rare_share=2)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: rare_share must be above 0 and below 1; got 2.
    """

    label: str | None = None
    """The label; its classes are counted in classification."""
    task: LabelTask | None = None
    weight: str | None = None
    """Feature with one weight >= 0 per row, by which all statistics are weighted."""
    rare_share: float = 0.01
    """Categories with less than this share of all values are rare; in (0, 1)."""
    max_positions: int = 256
    """Longest vector that gets statistics per position; each position costs up to 1 MB; >= 1."""

    def __post_init__(self) -> None:
        if not 0 < self.rare_share < 1:
            raise InvalidArgumentError("rare_share", self.rare_share, "be above 0 and below 1")
        if self.max_positions < 1:
            raise InvalidArgumentError("max_positions", self.max_positions, "be at least 1")
        if self.task not in (None, "regression", "classification"):
            raise InvalidArgumentError("task", self.task, "be 'regression' or 'classification'")
        if (self.label is None) != (self.task is None):
            raise InvalidArgumentError("task", self.task, "be given with a label, and only with one")
        if self.weight is not None and self.weight == self.label:
            raise InvalidArgumentError("weight", self.weight, "be another feature than the label")


@dataclasses.dataclass
class _Accumulator:
    rows: int = 0
    bad_weights: int = 0
    weight_sum: float = 0.0
    features: dict[Any, FeatureSummary] = dataclasses.field(default_factory=dict)


class RobustStatisticsGenerator(stats_generator.CombinerStatsGenerator):  # type: ignore[misc]
    """Adds robust statistics to every feature, as custom statistics that begin with `robust.`.

    An accumulator holds mergeable sketches; how the rows were dealt out moves quantiles within their rank error: 0.002
    of all values, 0.01 at one position of a vector.

    >>> import tensorflow_data_validation as tfdv
    >>> options = tfdv.StatsOptions(generators=[RobustStatisticsGenerator(StatisticsConfig())])
    """

    def __init__(self, config: StatisticsConfig, schema: schema_pb2.Schema | None = None) -> None:
        super().__init__("RobustStatisticsGenerator", schema)
        self._config = config
        self._weights = ExampleWeightMap(weight_feature=config.weight)
        self._categorical = set(schema_util.get_categorical_numeric_feature_types(schema)) if schema else set()
        if config.task == "classification":
            self._categorical.add(types.FeaturePath([config.label]))

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator()

    def add_input(self, accumulator: _Accumulator, input_record_batch: pa.RecordBatch) -> _Accumulator:
        accumulator.rows += input_record_batch.num_rows
        for path, array, weights in arrow_util.enumerate_arrays(
            input_record_batch, example_weight_map=self._weights, enumerate_leaves_only=True
        ):
            if weights is not None:
                weights = np.asarray(weights, dtype=np.float64)
                is_bad = ~(np.isfinite(weights) & (weights >= 0))
                weights = np.where(is_bad, 0.0, weights)
                if path == types.FeaturePath([self._config.weight]):
                    accumulator.bad_weights += int(is_bad.sum())
                    accumulator.weight_sum += float(weights.sum())
            if path not in accumulator.features:
                accumulator.features[path] = FeatureSummary(self._config.max_positions, path in self._categorical)
            accumulator.features[path].add(array, weights)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        first, *others = accumulators
        for other in others:
            first.rows += other.rows
            first.bad_weights += other.bad_weights
            first.weight_sum += other.weight_sum
            for path, summary in other.features.items():
                if path in first.features:
                    first.features[path].merge(summary)
                else:
                    first.features[path] = summary
        return first

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        for summary in accumulator.features.values():
            summary.compact()
        return accumulator

    def extract_output(self, accumulator: _Accumulator) -> statistics_pb2.DatasetFeatureStatistics:
        result = statistics_pb2.DatasetFeatureStatistics()
        for path, summary in sorted(accumulator.features.items(), key=lambda item: item[0].steps()):
            name = ".".join(str(step) for step in path.steps())
            statistics = describe(name, accumulator.rows, summary, self._config.rare_share)
            if name == self._config.label:
                statistics = self._with_label(statistics)
            proto = result.features.add(path=path.to_proto())
            add_to(proto, statistics)
            if name == self._config.weight:
                proto.custom_stats.add(name=BAD_WEIGHTS, num=accumulator.bad_weights)
                proto.custom_stats.add(name=WEIGHT_SUM, num=accumulator.weight_sum)
        return result

    def _with_label(self, statistics: Any) -> Any:
        findings = statistics.findings
        for feature in self.schema.feature if self.schema else ():
            if feature.name == statistics.name:
                kind = feature.WhichOneof("domain_info")
                domains = {domain.name: domain for domain in self.schema.string_domain}
                domain = (
                    domains.get(feature.domain, feature.string_domain)
                    if kind in ("domain", "string_domain")
                    else schema_pb2.StringDomain()
                )
                finding = outside_domain(statistics, feature, domain)
                findings += (finding,) if finding else ()
        return dataclasses.replace(statistics, label_task=self._config.task, findings=findings)
