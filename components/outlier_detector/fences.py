"""Which values of a batch lie outside of the fences, and how far."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import MAX_WRITTEN, RobustStatistics
from spikeguard.components.training_statistics.summaries import category_names, flattened

# Distance of a value for which there is no scale is that of one just outside; no distance is larger than this.
FARTHEST = 1e12
COUNTS = ("below", "above", "missing", "non_finite", "rare", "unseen")
Kind = Literal["number", "category", "absent"]


@dataclasses.dataclass(frozen=True)
class FeatureFence:
    """The ordinary values of one feature, from the train split."""

    name: str
    kind: Kind
    """`absent` where the split had no value to learn from."""
    rule: str = "none"
    """How the fence was drawn (`Fences.rule`); `categories` or `none`."""
    lower: tuple[float, ...] = ()
    """Of each position of a fixed-length vector, or one for all values; NaN where there is none."""
    upper: tuple[float, ...] = ()
    median: tuple[float, ...] = ()
    length: int = 1
    """Values per row; 0 where it changes."""
    common: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    rarity: tuple[float, ...] = ()
    """Of each of `rare`: the logarithm of its share of the split's values over the largest share that is rare; <= 0."""
    is_complete: bool = True
    """Whether `common` and `rare` are all categories that the split had."""

    def position_of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Index into `lower` for values of the given, rising, rows; beyond the last position is the last."""
        if len(self.lower) <= 1:
            return np.zeros(len(rows), np.intp)
        is_first = np.append(True, rows[1:] != rows[:-1])
        starts = np.flatnonzero(is_first)
        place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
        return np.minimum(place, len(self.lower) - 1)


@dataclasses.dataclass(frozen=True)
class FenceResult:
    """What one feature of a batch shows."""

    counts: dict[str, int]
    """By `COUNTS`: values below and above, rows without a value, values not finite, values of rare and unseen categories."""
    rows: npt.NDArray[np.intp]
    """Rows of the values that lie outside or are not finite; one per value, rising."""
    values: npt.NDArray[Any]
    """These values: numbers, or texts of unseen categories."""
    distances: Floats
    """Distance from the median over the fence's, > 1, of each; 1 where there is no scale; `FARTHEST` where infinite; 0 for
    NaN and for an unseen category."""
    positions: npt.NDArray[np.intp]
    """Index into the fence's `lower` of each."""
    finite: Floats
    """All finite values, for the histogram; empty for categories."""
    min_length: int = 0
    """Fewest and most values of a row that has any; 0 where none has."""
    max_length: int = 0


def fences_of(
    statistics: SplitStatistics, label: str | None, task: str | None, rare_share: float, ignored: tuple[str, ...] = ()
) -> tuple[FeatureFence, ...]:
    """One fence per feature of the train split, sorted by name.

    A label of classes is a category without rare ones: a rare class is no outlier.

    Args:
      statistics: of TrainingStatistics.
      label: its name, None for none.
      task: `regression` or `classification`.
      rare_share: see `DetectorConfig`.
      ignored: features that say nothing of the row, such as ids and weights.
    """
    found = []
    for name, feature in sorted(statistics.features.items()):
        if name in ignored:
            continue
        is_classes = name == label and task == "classification"
        found.append(_fence_of(feature, 0.0 if is_classes else rare_share))
    return tuple(found)


def _fence_of(feature: RobustStatistics, rare_share: float) -> FeatureFence:
    length = feature.max_length if feature.min_length == feature.max_length else 0
    if feature.categories:
        total = sum(weight for _, weight in feature.categories)
        rare = [(name, weight) for name, weight in feature.categories if weight < rare_share * total]
        return FeatureFence(
            feature.name,
            "category",
            "categories",
            length=length,
            common=tuple(name for name, _ in feature.categories[: len(feature.categories) - len(rare)]),
            rare=tuple(name for name, _ in rare),
            # A weight of 0 has no logarithm, and is one of the rarest.
            rarity=tuple(math.log(max(weight, 0.5) / (rare_share * total)) for _, weight in rare),
            is_complete=feature.distinct_categories is not None and feature.distinct_categories <= MAX_WRITTEN,
        )
    if feature.fences is None or feature.median is None:
        return FeatureFence(feature.name, "absent", length=length)
    positions = feature.positions
    if positions is not None:
        return FeatureFence(
            feature.name,
            "number",
            "by position",
            positions.fence_lower,
            positions.fence_upper,
            positions.median,
            length,
        )
    fence = feature.fences
    return FeatureFence(feature.name, "number", fence.rule, (fence.lower,), (fence.upper,), (feature.median,), length)


def apply_fence(fence: FeatureFence, array: pa.Array | None, rows: int) -> FenceResult:
    """Compares one feature of a batch with its fence.

    Args:
      fence: of the feature.
      array: the feature's column, a list of values per row; None where the batch does not have it.
      rows: rows of the batch.

    Raises:
      InvalidDataError: the feature is text where the train split has numbers.
    """
    counts = dict.fromkeys(COUNTS, 0)
    if array is None or pa.types.is_null(array.type):
        return _nothing(counts | {"missing": rows})
    flat, row_of_value = flattened(array)
    if not len(flat):
        return _nothing(counts | {"missing": rows})
    lengths = np.bincount(row_of_value, minlength=rows)
    counts["missing"] = int(np.sum(lengths == 0))
    if fence.kind == "category":
        result = _apply_categories(fence, flat, row_of_value, counts)
    elif pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type):
        values = flat.to_numpy(zero_copy_only=False).astype(np.float64)
        result = _apply_range(fence, values, row_of_value, counts)
    elif fence.kind == "absent":
        result = _nothing(counts)
    else:
        raise InvalidDataError(
            f"feature {fence.name!r}",
            f"has values of several types (numbers in the train split, here {flat.type})",
            "Write all its rows with one type.",
        )
    return dataclasses.replace(result, min_length=int(lengths[lengths > 0].min()), max_length=int(lengths.max()))


def _apply_range(
    fence: FeatureFence, values: Floats, rows: npt.NDArray[np.intp], counts: dict[str, int]
) -> FenceResult:
    is_finite = np.isfinite(values)
    positions = fence.position_of(rows)
    if fence.kind == "absent":
        lower = upper = median = np.full(len(values), np.nan)
    else:
        lower, upper, median = (
            np.asarray(limits, np.float64)[positions if len(limits) > 1 else 0]
            for limits in (fence.lower, fence.upper, fence.median)
        )
    # Comparisons with a fence that is NaN say no.
    below, above = is_finite & (values < lower), is_finite & (values > upper)
    counts |= {"below": int(below.sum()), "above": int(above.sum()), "non_finite": int((~is_finite).sum())}
    outside = np.flatnonzero(below | above | ~is_finite)
    if not len(outside):
        return dataclasses.replace(_nothing(counts), finite=values)
    picked = values[outside]
    low, high, middle = (np.broadcast_to(limit, values.shape)[outside] for limit in (lower, upper, median))
    distances = np.where(np.isnan(picked), 0.0, distance(picked, low, high, middle))
    return FenceResult(counts, rows[outside], picked, distances, positions[outside], values[is_finite])


def distance(values: Floats, lower: Floats, upper: Floats, median: Floats) -> Floats:
    """Distance from the median over that of the fence on the same side; shape (n,) all.

    1 is at the fence. Where the fence is at the median there is no scale, and what is outside counts as just outside: 1.

    >>> distance(np.array([4.0, -3.0]), np.array([-1.0, -1.0]), np.array([2.0, 2.0]), np.array([0.0, 0.0])).tolist()
    [2.0, 3.0]
    """
    with np.errstate(all="ignore"):
        # Halved: the difference of two huge numbers may overflow.
        reach = np.where(values >= median, upper / 2 - median / 2, median / 2 - lower / 2)
        result = np.abs(values / 2 - median / 2) / reach
    result = np.where((reach <= 0) & np.isfinite(values), 1.0, result)
    return np.minimum(np.nan_to_num(result, nan=FARTHEST, posinf=FARTHEST), FARTHEST)


def _apply_categories(
    fence: FeatureFence, flat: pa.Array, rows: npt.NDArray[np.intp], counts: dict[str, int]
) -> FenceResult:
    encoded = category_names(flat).dictionary_encode()
    names = [name if name is None else name.as_py() for name in encoded.dictionary]
    place = encoded.indices.to_numpy(zero_copy_only=False)
    common, rare = set(fence.common), set(fence.rare)
    is_rare = np.array([name in rare or (name not in common and not fence.is_complete) for name in names], bool)
    is_unseen = np.array([name not in common and name not in rare and fence.is_complete for name in names], bool)
    counts |= {"rare": int(is_rare[place].sum()), "unseen": int(is_unseen[place].sum())}
    unseen = np.flatnonzero(is_unseen[place])
    texts = np.array(names, object)[place[unseen]]
    zeros = np.zeros(len(unseen))
    return FenceResult(counts, rows[unseen], texts, zeros, zeros.astype(np.intp), np.empty(0))


def _nothing(counts: dict[str, int]) -> FenceResult:
    none = np.empty(0, np.intp)
    return FenceResult(counts, none, np.empty(0), np.empty(0), none, np.empty(0))
