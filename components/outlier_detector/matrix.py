"""The numbers and rare categories of a batch as the table that an isolation forest takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spikeguard.components.outlier_detector.fences import FeatureFence
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.summaries import category_names, flattened

Matrix = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class MatrixColumns:
    """Which features make which columns, and what stands for a value that is missing or NaN: the median of the train split.

    A category is 0 where it is common, and the further below the rarer it is: a forest has no use for a number of it that
    says nothing, and a column per category hides the rows that are odd by their numbers.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    """Values of each feature per row."""
    medians: tuple[float, ...]
    """One per column of numbers, that is one per value of each feature."""
    categories: tuple[str, ...] = ()
    """Features of categories, one column each, after those of numbers."""
    rarities: tuple[dict[str, float], ...] = ()
    """Of each: the number of every category of the train split."""

    @staticmethod
    def of(fences: tuple[FeatureFence, ...], label: str | None) -> MatrixColumns:
        """All numbers of a fixed length but the label, and all categories of which some are common and some rare."""
        used = [fence for fence in fences if fence.kind == "number" and fence.length and fence.name != label]
        medians = [
            value
            for fence in used
            for value in (fence.median if len(fence.median) == fence.length else fence.median * fence.length)
        ]
        # A position without a finite value in the split is the same in all rows.
        filled = tuple(0.0 if np.isnan(value) else float(value) for value in medians)
        ranked = [
            fence
            for fence in fences
            if fence.kind == "category" and fence.common and fence.rare and fence.name != label
        ]
        return MatrixColumns(
            tuple(fence.name for fence in used),
            tuple(fence.length for fence in used),
            filled,
            tuple(fence.name for fence in ranked),
            tuple(
                dict.fromkeys(fence.common, 0.0) | dict(zip(fence.rare, fence.rarity, strict=True)) for fence in ranked
            ),
        )

    @property
    def width(self) -> int:
        return len(self.medians) + len(self.categories)

    def matrix(self, batch: pa.RecordBatch) -> Matrix:
        """Shape (rows, width): finite; infinite and larger values are float32's largest.

        A value that is missing, NaN or no number, and every value of a vector of another length, is the train median. A
        missing category is a common one; an unseen one is rarer than all; of several in a row the rarest counts.
        """
        result = np.empty((batch.num_rows, self.width), np.float32)
        start = 0
        for name, length in zip(self.names, self.lengths, strict=True):
            medians = np.array(self.medians[start : start + length])
            index = batch.schema.get_field_index(name)
            array = batch.column(index) if index >= 0 else None
            result[:, start : start + length] = _columns_of(array, batch.num_rows, length, medians)
            start += length
        for name, rarity in zip(self.categories, self.rarities, strict=True):
            index = batch.schema.get_field_index(name)
            if index < 0:
                result[:, start] = 0.0
            else:
                result[:, start] = _rarity_column(batch.column(index), batch.num_rows, rarity)
            start += 1
        return result


def _columns_of(array: pa.Array | None, rows: int, length: int, medians: Floats) -> Floats:
    values = np.broadcast_to(medians, (rows, length))
    if array is None or pa.types.is_null(array.type):
        return values
    flat, row_of_value = flattened(array)
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)) or not len(flat):
        return values
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    is_fitting = np.bincount(row_of_value, minlength=rows) == length
    if is_fitting.all():
        found = numbers.reshape(rows, length)
    else:
        found = np.array(values)
        found[is_fitting] = numbers[is_fitting[row_of_value]].reshape(-1, length)
    found = np.where(np.isnan(found), values, found)
    return np.clip(found, -_LARGEST, _LARGEST)


def _rarity_column(array: pa.Array, rows: int, rarity: dict[str, float]) -> Floats:
    flat, row_of_value = flattened(array)
    result = np.zeros(rows)
    encoded = category_names(flat).dictionary_encode()
    unseen = min(rarity.values()) - np.log(2.0)
    values = np.array([rarity.get(name, unseen) for name in encoded.dictionary.to_pylist()])
    if len(flat):
        np.minimum.at(result, row_of_value, values[encoded.indices.to_numpy(zero_copy_only=False)])
    return result
