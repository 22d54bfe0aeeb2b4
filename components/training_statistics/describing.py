"""From what one pass kept of a feature to its statistics and findings."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
from tensorflow_metadata.proto.v0 import schema_pb2

from spikeguard.components.training_statistics.results import MAX_WRITTEN, PositionStatistics, RobustStatistics
from spikeguard.components.training_statistics.robust_statistics import (
    QUANTILE_LEVELS,
    fences,
    mad,
    medcouple,
    tail_weights,
)
from spikeguard.components.training_statistics.summaries import MAX_CATEGORIES, FeatureSummary, NumberSummary

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Fewer different numbers than this may be the names of categories.
_CODES = 20
# Findings name at most so many values.
_NAMED = 5


def describe(name: str, rows: int, summary: FeatureSummary, rare_share: float) -> RobustStatistics:
    """The statistics of a feature; the summary must not be used afterwards.

    Args:
      name: of the feature.
      rows: of the split, with the feature or without.
      summary: of all rows.
      rare_share: categories with less than this share of all values are rare; in (0, 1).
    """
    result = RobustStatistics(
        name=name,
        rows=rows,
        present_rows=summary.present_rows,
        values=summary.values,
        nan=summary.nan,
        pos_inf=summary.pos_inf,
        neg_inf=summary.neg_inf,
        min_length=summary.min_length,
        max_length=summary.max_length,
    )
    counts = summary.category_counts()
    if counts:
        result = _with_categories(result, counts, summary.category_weight, rare_share)
    if summary.numbers is not None:
        result = _with_numbers(result, summary.numbers)
    return dataclasses.replace(result, findings=findings_of(result, summary.inexact))


def findings_of(statistics: RobustStatistics, inexact: int = 0) -> tuple[str, ...]:
    """What is unusual about a feature: `all_missing`, `constant`, `not_finite`, `huge`, `inexact_integers`,
    `numbers_as_text`, `changing_length`.

    >>> findings_of(RobustStatistics(name="x", rows=3, present_rows=3, values=3, nan=1, pos_inf=2))
    ('not_finite: 1 NaN, 2 +inf, 0 -inf of 3 values',)
    """
    findings = []
    not_finite = statistics.nan + statistics.pos_inf + statistics.neg_inf
    if not statistics.present_rows:
        findings.append(f"all_missing: none of {statistics.rows} rows has a value")
    if not_finite:
        findings.append(
            f"not_finite: {statistics.nan} NaN, {statistics.pos_inf} +inf, {statistics.neg_inf} -inf of {statistics.values} values"
        )
    is_one_number = statistics.fences is not None and statistics.fences.rule == "constant"
    if (is_one_number or statistics.distinct_categories == 1) and not not_finite:
        value = statistics.median if is_one_number else statistics.categories[0][0]
        findings.append(f"constant: all {statistics.values} values are {value}")
    if statistics.fences is not None and not is_one_number and statistics.skewness is None:
        findings.append("huge: the values are too large for their moments, which are missing")
    if inexact:
        findings.append(
            f"inexact_integers: {inexact} of {statistics.values} values are beyond 2**53, rounded to floats"
        )
    if statistics.categories and statistics.weight is None:
        findings += _numbers_as_text(statistics)
    if statistics.min_length != statistics.max_length:
        findings.append(f"changing_length: {statistics.min_length} to {statistics.max_length} values in a row")
    return tuple(findings)


def _numbers_as_text(statistics: RobustStatistics) -> list[str]:
    """Where most texts are numbers, and neither few nor codes such as 94110: a reader made them text for a reason."""
    numbers = {name: weight for name, weight in statistics.categories if _NUMBER.fullmatch(name)}
    others = [name for name, _ in statistics.categories if name not in numbers]
    total = sum(weight for _, weight in statistics.categories)
    is_code = [name.isdecimal() and int(name) < 2**63 for name in numbers]
    if len(numbers) < _CODES or sum(numbers.values()) <= total / 2 or (all(is_code) and not others):
        return []
    odd = [name for name, code in zip(numbers, is_code, strict=True) if not code]
    named = ", ".join((odd or [*numbers])[:_NAMED])
    text = f"numbers_as_text: {sum(numbers.values()):.0f} of {total:.0f} counted values are numbers, such as {named}"
    return [f"{text}; others are {', '.join(others[:_NAMED])}" if others else text]


def outside_domain(statistics: RobustStatistics, feature: schema_pb2.Feature, domain: schema_pb2.StringDomain) -> str:
    """A finding `outside_domain` where a label has values that the schema does not allow, else an empty string.

    Args:
      statistics: of the label.
      feature: the label in the schema.
      domain: the texts that it may have; empty where any.
    """
    outside: list[str] = []
    if domain.value:
        allowed = set(domain.value)
        outside = [category for category, _ in statistics.categories if category not in allowed]
    elif statistics.quantiles:
        kind = feature.WhichOneof("domain_info")
        lower, upper = statistics.quantiles[0][1], statistics.quantiles[-1][1]
        if kind in ("int_domain", "float_domain"):
            limits = getattr(feature, kind)
            # A domain of neither limit allows all.
            if (limits.min or limits.max) and (lower < limits.min or upper > limits.max):
                outside = [f"{lower:g} to {upper:g}"]
    named = ", ".join(outside[:_NAMED])
    return f"outside_domain: the label's {named} is not in the schema's domain" if outside else ""


def _with_categories(
    result: RobustStatistics, counts: list[tuple[str, float]], weight: float, rare_share: float
) -> RobustStatistics:
    is_exact = len(counts) < MAX_CATEGORIES
    is_rare = [count < rare_share * weight for _, count in counts]
    common = sum(count for (_, count), rare in zip(counts, is_rare, strict=True) if not rare)
    return dataclasses.replace(
        result,
        distinct_categories=len(counts) if is_exact else None,
        categories=tuple(counts[:MAX_WRITTEN]),
        rare_categories=sum(is_rare),
        rare_weight=max(0.0, weight - common),
        imbalance=counts[0][1] / counts[-1][1] if counts[-1][1] > 0 else None,
    )


def _with_numbers(result: RobustStatistics, numbers: NumberSummary) -> RobustStatistics:
    if len(numbers.quantiles) > 1:
        result = dataclasses.replace(result, positions=_positions(numbers))
    pooled = numbers.pooled()
    (grid,) = pooled.grids()
    if grid is None:
        return dataclasses.replace(result, weight=0.0)
    lower, upper = tail_weights(grid)
    return dataclasses.replace(
        result,
        weight=grid.weight,
        mean=_known(pooled.moments.mean[0]),
        median=grid.quantile(0.5),
        mad=mad(grid),
        skewness=_known(pooled.moments.skewness[0]),
        kurtosis=_known(pooled.moments.kurtosis[0]),
        medcouple=medcouple(grid),
        lower_tail=_known(lower),
        upper_tail=_known(upper),
        quantiles=tuple((level, grid.quantile(level)) for level in (0.0, *QUANTILE_LEVELS, 1.0)),
        fences=fences(grid),
    )


def _positions(numbers: NumberSummary) -> PositionStatistics:
    grids = numbers.copied_grids()
    ranges = [fences(grid) if grid else None for grid in grids]

    return PositionStatistics(
        median=tuple(grid.quantile(0.5) if grid else math.nan for grid in grids),
        mad=tuple(mad(grid) if grid else math.nan for grid in grids),
        fence_lower=tuple(fence.lower if fence else math.nan for fence in ranges),
        fence_upper=tuple(fence.upper if fence else math.nan for fence in ranges),
        skewness=tuple(numbers.moments.skewness.tolist()),
        finite=tuple(numbers.moments.weight.tolist()),
        mean=tuple(numbers.moments.mean.tolist()),
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
