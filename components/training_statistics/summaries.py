"""What one pass keeps of a feature: counts, moments and mergeable sketches, of a size that does not grow with the rows."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx_bsl import sketches

from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.moments import Moments
from spikeguard.components.training_statistics.robust_statistics import QuantileGrid

# Rank error of a quantile that is guaranteed. Of a vector there are many sketches, so each is smaller.
SCALAR_ERROR, POSITION_ERROR = 0.002, 0.01
# Categories that are counted exactly; of more, the most frequent ones with an error.
MAX_CATEGORIES = 4096
# Points of a grid that is read off a sketch.
_GRID = 2000
_MOST_ELEMENTS = 1 << 32
# Integers beyond are not exact as floats.
EXACT_INTEGER = 2**53
# Stands for all texts that are not UTF-8.
NOT_UTF8 = "__BYTES_VALUE__"


@dataclasses.dataclass
class NumberSummary:
    """The finite numbers of d positions of a feature; d is 1 for a scalar or where all positions are pooled."""

    quantiles: list[Any]
    """One sketch per position."""
    moments: Moments

    @staticmethod
    def empty(positions: int) -> NumberSummary:
        error = SCALAR_ERROR if positions == 1 else POSITION_ERROR
        return NumberSummary(
            [sketches.QuantilesSketch(error, _MOST_ELEMENTS, 1) for _ in range(positions)], Moments.empty(positions)
        )

    def add(self, values: Floats, weights: Floats | None) -> None:
        """Adds values, shape (n, d), of which those not finite do not count, with weights, shape (n,)."""
        is_finite = np.isfinite(values)
        kept = np.where(is_finite, values, 0.0)
        spread = is_finite.astype(np.float64) if weights is None else is_finite * weights[:, None]
        self.moments = self.moments.merged(Moments.of(kept, spread))
        is_whole = bool(is_finite.all())
        for position, sketch in enumerate(self.quantiles):
            rows: Any = slice(None) if is_whole else is_finite[:, position]
            column = pa.array(np.ascontiguousarray(values[rows, position]))
            if weights is None:
                sketch.AddValues(column)
            else:
                sketch.AddValues(column, pa.array(np.ascontiguousarray(weights[rows])))

    def merge(self, other: NumberSummary) -> None:
        """Takes in the values of another summary of as many positions."""
        for own, sketch in zip(self.quantiles, other.quantiles, strict=True):
            own.Merge(sketch)
        self.moments = self.moments.merged(other.moments)

    def pooled(self) -> NumberSummary:
        """All positions as one; this summary must not be used afterwards."""
        if len(self.quantiles) == 1:
            return self
        for sketch in self.quantiles[1:]:
            self.quantiles[0].Merge(sketch)
        return NumberSummary(self.quantiles[:1], self.moments.pooled())

    def copied_grids(self) -> list[QuantileGrid | None]:
        """As `grids`, but leaves the summary as it is."""
        return NumberSummary(copy.deepcopy(self.quantiles), self.moments).grids()

    def grids(self) -> list[QuantileGrid | None]:
        """The distribution at each position, None where there is no finite value with weight.

        Reading a sketch closes it: this summary must not be used afterwards.
        """
        result: list[QuantileGrid | None] = []
        for sketch in self.quantiles:
            values, cumulative = (part.flatten() for part in sketch.GetQuantilesAndCumulativeWeights(_GRID))
            has_values = len(values) and cumulative[-1].as_py() > 0
            result.append(
                QuantileGrid.from_sketch(*(np.asarray(part, dtype=np.float64) for part in (values, cumulative)))
                if has_values
                else None
            )
        return result


@dataclasses.dataclass
class FeatureSummary:
    """All that is kept of one feature."""

    max_positions: int
    """Longest vector whose positions are kept apart."""
    has_categories: bool = False
    """Whether numbers are counted as categories as well."""
    present_rows: int = 0
    """Rows with at least one value."""
    values: int = 0
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    inexact: int = 0
    """Integers that a float cannot hold exactly."""
    min_length: int = 0
    """Fewest values of a row that has any; 0 before the first."""
    max_length: int = 0
    numbers: NumberSummary | None = None
    categories: Any = None
    category_weight: float = 0.0

    def add(self, array: pa.Array, weights: Floats | None) -> None:
        """Adds a batch: one list of values, possibly nested, missing or empty, per row; weights of shape (rows,)."""
        flat, row_of_value = flattened(array)
        if not len(flat):
            return
        lengths = np.bincount(row_of_value)
        lengths = lengths[lengths > 0]
        self._observe_lengths(int(lengths.min()), int(lengths.max()))
        self.present_rows += len(lengths)
        self.values += len(flat)
        value_weights = None if weights is None else weights[row_of_value]
        if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
            self._count(flat, value_weights)
            return
        numbers = flat.to_numpy(zero_copy_only=False)
        if pa.types.is_integer(flat.type):
            self.inexact += int(np.sum((numbers > EXACT_INTEGER) | (numbers < -EXACT_INTEGER)))
        if self.has_categories:
            self._count(flat, value_weights)
        numbers = numbers.astype(np.float64)
        self.nan += int(np.sum(np.isnan(numbers)))
        self.pos_inf += int(np.sum(np.isposinf(numbers)))
        self.neg_inf += int(np.sum(np.isneginf(numbers)))
        positions = self._positions()
        if self.numbers is None:
            self.numbers = NumberSummary.empty(positions)
        if positions > 1 and value_weights is not None:
            value_weights = np.ascontiguousarray(value_weights[::positions])
        self.numbers.add(numbers.reshape(-1, positions), value_weights)

    def merge(self, other: FeatureSummary) -> None:
        """Takes in another summary of the same feature, which must not be used afterwards."""
        if other.values:
            self._observe_lengths(other.min_length, other.max_length)
        for name in ("present_rows", "values", "nan", "pos_inf", "neg_inf", "inexact", "category_weight"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.numbers is not None:
            numbers = other.numbers if self._positions() > 1 else other.numbers.pooled()
            if self.numbers is None:
                self.numbers = numbers
            else:
                self.numbers.merge(numbers)
        if other.categories is not None:
            if self.categories is None:
                self.categories = other.categories
            else:
                self.categories.Merge(other.categories)

    def compact(self) -> None:
        for sketch in self.numbers.quantiles if self.numbers else ():
            sketch.Compact()

    def category_counts(self) -> list[tuple[str, float]]:
        """Categories and their weights, the most frequent first; exact where there are less than `MAX_CATEGORIES`."""
        if self.categories is None:
            return []
        return [
            (entry["values"].decode("utf-8", "replace"), entry["counts"])
            for entry in self.categories.Estimate().to_pylist()
        ]

    def _positions(self) -> int:
        is_fixed = self.min_length == self.max_length and self.max_length <= self.max_positions
        return self.max_length if is_fixed else 1

    def _observe_lengths(self, shortest: int, longest: int) -> None:
        self.min_length = min(self.min_length or shortest, shortest)
        self.max_length = max(self.max_length, longest)
        if self.numbers is not None and self._positions() == 1:
            self.numbers = self.numbers.pooled()

    def _count(self, flat: pa.Array, weights: Floats | None) -> None:
        if self.categories is None:
            self.categories = sketches.MisraGriesSketch(MAX_CATEGORIES, invalid_utf8_placeholder=NOT_UTF8.encode())
        if pa.types.is_floating(flat.type):
            flat = category_names(flat)
        self.category_weight += len(flat) if weights is None else float(weights.sum())
        if weights is None:
            self.categories.AddValues(flat)
        else:
            self.categories.AddValues(flat, pa.array(weights.astype(np.float32)))


def category_names(flat: pa.Array) -> pa.Array:
    """Values as the texts by which categories are counted: class 1 is the same class as integer, float and text.

    >>> category_names(pa.array([1.0, 0.5])).to_pylist(), category_names(pa.array([b"a", b"\\xff"])).to_pylist()
    (['1', '0.5'], ['a', '__BYTES_VALUE__'])
    """
    if pa.types.is_floating(flat.type):
        numbers = flat.to_numpy(zero_copy_only=False)
        names = {number: _name(number) for number in np.unique(numbers).tolist()}
        return pa.array([names.get(number, "nan") for number in numbers.tolist()], pa.string())
    try:
        return flat.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in flat.to_pylist()], pa.string())


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return NOT_UTF8


def _name(number: float) -> str:
    return str(int(number)) if np.isfinite(number) and number == int(number) else str(number)


def flattened(array: pa.Array) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.intp]]]:
    """The innermost values that are there, and the row of each."""
    rows = np.arange(len(array))
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        rows = np.repeat(rows, pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))
        array = array.flatten()
    if pa.types.is_null(array.type):
        return array[:0], rows[:0]
    if array.null_count:
        rows, array = rows[array.is_valid().to_numpy(zero_copy_only=False)], array.drop_null()
    return array, rows
