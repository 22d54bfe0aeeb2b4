"""Rows of each class, from the statistics of a split alone, and only where these are exact.

What TFDV knows of a label:

- Text, and numbers that its schema declares to be categories: a rank histogram, exact up to its 1,000 buckets.
- Other numbers: histograms off a sketch, which are approximate; but smallest, largest, mean, standard deviation and the
  count of zeros are exact. They settle the rows of two neighbouring whole numbers, such as 0 and 1, and no more.

TrainingStatistics counts the classes of a label of task `classification` exactly, and the ones of each position of a vector.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from tensorflow_metadata.proto.v0 import statistics_pb2

from spikeguard.components.training_statistics.results import RobustStatistics, robust_statistics_of

LabelKind = Literal["classes", "multi_hot", "numbers"]

# Names that TrainingStatistics counts for numbers that are none.
_NOT_FINITE = ("nan", "inf", "-inf")
# Counts come from means in double precision: nearer to a whole number than this, they are that number.
_ROUNDING = 0.01


@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """What is known of the label in one split."""

    split: str
    rows: int
    labelled_rows: int
    """Rows with a value, be it a number or not."""
    not_finite: int
    """Values that are NaN or infinite."""
    kind: LabelKind
    counts: Mapping[str, int] | None
    """Rows of each class by its name; None where they are not known exactly. Of a `multi_hot` label a row may count for
    several classes, or none, and the names are positions from 0."""
    distinct: int | None
    """Distinct values, at least; None where not known."""
    problem: str = ""
    """Why `counts` is None."""

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.labelled_rows

    def has_more_than(self, classes: int) -> bool:
        """Whether there are too many values for classes, of which a row has one."""
        return self.kind == "classes" and (self.distinct or 0) > classes


def label_counts(
    split: str, rows: int, feature: statistics_pb2.FeatureNameStatistics, is_weighted: bool = False
) -> LabelCounts:
    """Reads a classification label's classes off its statistics.

    Args:
      split: name of the split.
      rows: its rows.
      feature: the label's statistics, of StatisticsGen or of TrainingStatistics.
      is_weighted: whether a weight feature entered TrainingStatistics, whose classes are then no counts.
    """
    robust = robust_statistics_of(feature)
    kind = feature.WhichOneof("stats")
    common = getattr(feature, kind).common_stats if kind else statistics_pb2.CommonStatistics()
    not_finite = _not_finite(feature, robust)
    if robust is not None:
        labelled, longest = robust.present_rows, robust.max_length
    else:
        longest = int(common.max_num_values)
        # An empty list of values counts as present for TFDV.
        labelled = int(common.tot_num_values if longest <= 1 else common.num_non_missing)
    found = LabelCounts(split, rows, labelled, not_finite, "classes", None, None)
    if longest > 1:
        return _multi_hot(found, feature, robust, is_weighted)
    if robust is not None and robust.categories and not is_weighted:
        return _from_categories(found, robust)
    if kind == "string_stats" and robust is None:
        return _from_ranks(found, feature.string_stats)
    if kind == "num_stats":
        return _from_moments(found, feature)
    return dataclasses.replace(
        found, problem="no value was counted" if not labelled else "only weighted counts are there"
    )


def number_counts(split: str, rows: int, feature: statistics_pb2.FeatureNameStatistics) -> LabelCounts:
    """What is known of a regression label, which has no classes; arguments as in `label_counts`."""
    found = label_counts(split, rows, feature)
    return dataclasses.replace(found, kind="numbers", counts=None, distinct=None, problem="")


def most_exact(candidates: Sequence[LabelCounts]) -> LabelCounts:
    """The one of several readings of a split that knows the classes, or else the most about them; the first of equals."""
    return max(candidates, key=lambda found: (found.counts is not None, found.distinct or 0))


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names of classes sorted: as numbers where all of them are.

    >>> sorted_names(["10", "9", "-1"]), sorted_names(["b", "10", "a"])
    (['-1', '9', '10'], ['10', 'a', 'b'])
    """
    try:
        return sorted(names, key=lambda name: (float(name), name))
    except ValueError:
        return sorted(names)


def _from_categories(found: LabelCounts, robust: RobustStatistics) -> LabelCounts:
    if robust.distinct_categories is None or robust.distinct_categories > len(robust.categories):
        distinct = robust.distinct_categories or len(robust.categories)
        return dataclasses.replace(found, distinct=distinct, problem="there are too many distinct values to count")
    is_number = robust.median is not None or robust.nan > 0
    counts = {name: round(weight) for name, weight in robust.categories if not (is_number and name in _NOT_FINITE)}
    return dataclasses.replace(found, counts=counts, distinct=len(counts))


def _from_ranks(found: LabelCounts, strings: statistics_pb2.StringStatistics) -> LabelCounts:
    buckets = strings.rank_histogram.buckets
    if strings.unique > len(buckets):
        return dataclasses.replace(
            found, distinct=int(strings.unique), problem="there are too many distinct values to count"
        )
    counts = {bucket.label: round(bucket.sample_count) for bucket in buckets}
    if sum(counts.values()) != found.labelled_rows:
        return dataclasses.replace(
            found, problem="the counts of the classes are weighted, or do not add up to the rows"
        )
    return dataclasses.replace(found, counts=counts, distinct=len(counts))


def _from_moments(found: LabelCounts, feature: statistics_pb2.FeatureNameStatistics) -> LabelCounts:
    numbers, finite = feature.num_stats, found.labelled_rows - found.not_finite
    if not finite:
        return dataclasses.replace(found, problem="no value is a finite number")
    low, high = numbers.min, numbers.max
    if low != round(low) or high != round(high) or high - low > 1:
        return dataclasses.replace(
            found, distinct=2, problem="statistics of numbers that are no declared categories hold no exact counts"
        )
    upper = (numbers.mean - low) * finite
    if abs(upper - round(upper)) > _ROUNDING or not _are_zeros_and_ones(numbers.mean - low, numbers.std_dev):
        return dataclasses.replace(found, distinct=2, problem="the values are not all whole numbers")
    counts = {int(low): finite - round(upper), int(high): round(upper)} if high > low else {int(low): finite}
    return dataclasses.replace(
        found, counts={str(value): count for value, count in counts.items()}, distinct=len(counts)
    )


def _multi_hot(
    found: LabelCounts,
    feature: statistics_pb2.FeatureNameStatistics,
    robust: RobustStatistics | None,
    is_weighted: bool,
) -> LabelCounts:
    found = dataclasses.replace(found, kind="multi_hot")
    numbers = feature.num_stats
    if feature.WhichOneof("stats") != "num_stats" or numbers.min < 0 or numbers.max > 1:
        return dataclasses.replace(found, problem="it is a list of values that are not all 0 or 1")
    if robust is None or robust.positions is None or is_weighted:
        return dataclasses.replace(
            found,
            problem="TFDV counts all positions of a vector together; give unweighted TrainingStatistics of the split",
        )
    ones = [mean * finite for mean, finite in zip(robust.positions.mean, robust.positions.finite, strict=True)]
    # A position without a finite value has no mean.
    counts = [0.0 if math.isnan(value) else value for value in ones]
    is_whole = all(abs(value - round(value)) <= _ROUNDING for value in counts)
    if not is_whole or not _are_zeros_and_ones(numbers.mean, numbers.std_dev):
        return dataclasses.replace(found, problem="the values are not all 0 or 1")
    return dataclasses.replace(
        found, counts={str(place): round(value) for place, value in enumerate(counts)}, distinct=len(counts)
    )


def _are_zeros_and_ones(mean: float, sd: float) -> bool:
    """Of numbers from 0 to 1, the mean of the squares is the mean only where all are 0 or 1."""
    return math.isclose(sd**2, mean * (1 - mean), rel_tol=1e-6, abs_tol=1e-12)


def _not_finite(feature: statistics_pb2.FeatureNameStatistics, robust: RobustStatistics | None) -> int:
    if robust is not None:
        return robust.nan + robust.pos_inf + robust.neg_inf
    histograms = feature.num_stats.histograms
    return int(histograms[0].num_nan) if histograms else 0
