"""The statistics of one feature as a value, and its place among TFDV's custom statistics."""

from __future__ import annotations

import dataclasses
import json
import math

from tensorflow_metadata.proto.v0 import statistics_pb2

from spikeguard.components.training_statistics.robust_statistics import Fences

# All names in the artifact begin so.
PREFIX = "robust."
_CATEGORIES, _QUANTILES, _POSITIONS, _FENCE_RULE, _FINDINGS, _LABEL_TASK = (
    PREFIX + name for name in ("categories", "quantiles", "positions", "fence_rule", "findings", "label_task")
)
# Categories that are written, the most frequent first.
MAX_WRITTEN = 1000


@dataclasses.dataclass(frozen=True)
class PositionStatistics:
    """The same for each of the d positions of a fixed-length vector; NaN where a position has no finite value."""

    median: tuple[float, ...]
    mad: tuple[float, ...]
    fence_lower: tuple[float, ...]
    fence_upper: tuple[float, ...]
    skewness: tuple[float, ...]
    finite: tuple[float, ...]
    """Weight of the finite values."""
    mean: tuple[float, ...]
    """Of a vector of zeros and ones: the share of ones."""


@dataclasses.dataclass(frozen=True)
class RobustStatistics:
    """What TrainingStatistics found out about one feature of the split; numbers are None where they do not exist.

    >>> RobustStatistics(name="x", rows=10, median=2.0, mad=0.5).median
    2.0
    """

    name: str
    """The feature, its path joined by dots."""
    rows: int
    """Rows of the split; rows = present_rows + missing."""
    present_rows: int = 0
    """Rows with at least one value."""
    values: int = 0
    """All values of all rows; for numbers values = finite + nan + pos_inf + neg_inf."""
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    min_length: int = 0
    """Fewest values of a row that has any."""
    max_length: int = 0
    weight: float | None = None
    """Weight of the finite numbers; their count without a weight feature. The fields below are weighted by it."""
    mean: float | None = None
    median: float | None = None
    mad: float | None = None
    """Median absolute deviation from the median, not scaled."""
    skewness: float | None = None
    """Third standardized moment."""
    kurtosis: float | None = None
    """Fourth standardized moment; 3 for a normal distribution."""
    medcouple: float | None = None
    """Robust skewness in [-1, 1]."""
    lower_tail: float | None = None
    """Weight of the tail; 1 for a normal distribution, more for heavier ones; see `tail_weights`."""
    upper_tail: float | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    """Pairs of level and value."""
    fences: Fences | None = None
    """The range of ordinary values, of all positions together."""
    positions: PositionStatistics | None = None
    """None for scalars, for a length that changes and for vectors longer than `max_positions`."""
    distinct_categories: int | None = None
    """None for numbers, and where there are more than are counted exactly."""
    categories: tuple[tuple[str, float], ...] = ()
    """Pairs of category and weight, the most frequent first, at most 1000."""
    rare_categories: int | None = None
    """Counted categories with less than `rare_share` of all values."""
    rare_weight: float | None = None
    """Weight of all values in rare or uncounted categories."""
    imbalance: float | None = None
    """Weight of the largest category over that of the smallest that is counted; >= 1."""
    label_task: str | None = None
    """`regression` or `classification` where the feature is the label."""
    findings: tuple[str, ...] = ()
    """What is unusual, each as `<kind>: <words>`; see `findings_of` for the kinds."""

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.present_rows


_NUMBERS = tuple(
    field.name for field in dataclasses.fields(RobustStatistics) if field.type in ("int", "float | None", "int | None")
)
_WHOLE = tuple(field.name for field in dataclasses.fields(RobustStatistics) if str(field.type).startswith("int"))


def add_to(proto: statistics_pb2.FeatureNameStatistics, statistics: RobustStatistics) -> None:
    """Writes the statistics as custom statistics of a feature, as TFDV's viewers show them."""
    for name in _NUMBERS:
        value = getattr(statistics, name)
        if value is not None and not math.isnan(value):
            proto.custom_stats.add(name=PREFIX + name, num=value)
    if statistics.quantiles:
        histogram = proto.custom_stats.add(name=_QUANTILES).histogram
        histogram.type = statistics_pb2.Histogram.QUANTILES
        before_level, before = 0.0, statistics.quantiles[0][1]
        for level, value in statistics.quantiles:
            count = (level - before_level) * (statistics.weight or 0.0)
            histogram.buckets.add(low_value=before, high_value=value, sample_count=count)
            before_level, before = level, value
    if statistics.fences is not None:
        proto.custom_stats.add(name=PREFIX + "fence_lower", num=statistics.fences.lower)
        proto.custom_stats.add(name=PREFIX + "fence_upper", num=statistics.fences.upper)
        proto.custom_stats.add(name=_FENCE_RULE, str=statistics.fences.rule)
    if statistics.positions is not None:
        columns = dataclasses.asdict(statistics.positions).items()
        # JSON has no NaN.
        content = {name: [None if math.isnan(value) else value for value in values] for name, values in columns}
        proto.custom_stats.add(name=_POSITIONS, str=json.dumps(content))
    if statistics.categories:
        ranks = proto.custom_stats.add(name=_CATEGORIES).rank_histogram
        for rank, (category, weight) in enumerate(statistics.categories[:MAX_WRITTEN]):
            ranks.buckets.add(low_rank=rank, high_rank=rank, label=category, sample_count=weight)
    if statistics.label_task is not None:
        proto.custom_stats.add(name=_LABEL_TASK, str=statistics.label_task)
    if statistics.findings:
        proto.custom_stats.add(name=_FINDINGS, str="\n".join(statistics.findings))


def robust_statistics_of(proto: statistics_pb2.FeatureNameStatistics) -> RobustStatistics | None:
    """The statistics that `add_to` wrote, None for a feature without them."""
    custom = {stat.name: stat for stat in proto.custom_stats if stat.name.startswith(PREFIX)}
    if not custom:
        return None
    fields = {name: custom[PREFIX + name].num for name in _NUMBERS if PREFIX + name in custom}
    fields.update({name: int(fields[name]) for name in _WHOLE if name in fields})
    weight = fields.get("weight", 0.0)
    quantiles, level = [], 0.0
    for bucket in custom[_QUANTILES].histogram.buckets if _QUANTILES in custom else ():
        level += bucket.sample_count / weight
        quantiles.append((round(level, 6), bucket.high_value))
    content = json.loads(custom[_POSITIONS].str) if _POSITIONS in custom else None
    positions = content and PositionStatistics(
        **{
            name: tuple(math.nan if value is None else value for value in content[name])
            for name in (field.name for field in dataclasses.fields(PositionStatistics))
        }
    )
    buckets = custom[_CATEGORIES].rank_histogram.buckets if _CATEGORIES in custom else ()
    return RobustStatistics(
        name=".".join(proto.path.step) or proto.name,
        quantiles=tuple(quantiles),
        fences=Fences(
            custom[PREFIX + "fence_lower"].num,
            custom[PREFIX + "fence_upper"].num,
            custom[_FENCE_RULE].str,
        )
        if _FENCE_RULE in custom
        else None,
        positions=positions,
        categories=tuple((bucket.label, bucket.sample_count) for bucket in buckets),
        label_task=custom[_LABEL_TASK].str if _LABEL_TASK in custom else None,
        findings=tuple(custom[_FINDINGS].str.split("\n")) if _FINDINGS in custom else (),
        **fields,
    )
