"""The numbers of a batch as the table that an isolation forest takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spikeguard.components.outlier_detector.fences import FeatureFence
from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.summaries import flattened

Matrix = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class MatrixColumns:
    """Which features make which columns, and what stands for a value that is missing or NaN: the median of the train split."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    """Values of each feature per row."""
    medians: tuple[float, ...]
    """One per column, that is one per value of each feature."""

    @staticmethod
    def of(fences: tuple[FeatureFence, ...], label: str | None) -> MatrixColumns:
        """All numbers of a fixed length but the label."""
        used = [fence for fence in fences if fence.kind == "number" and fence.length and fence.name != label]
        medians = [
            value
            for fence in used
            for value in (fence.median if len(fence.median) == fence.length else fence.median * fence.length)
        ]
        # A position without a finite value in the split is the same in all rows.
        filled = tuple(0.0 if np.isnan(value) else float(value) for value in medians)
        return MatrixColumns(tuple(fence.name for fence in used), tuple(fence.length for fence in used), filled)

    @property
    def width(self) -> int:
        return len(self.medians)

    def matrix(self, batch: pa.RecordBatch) -> Matrix:
        """Shape (rows, width): finite; infinite and larger values are float32's largest.

        A value that is missing, NaN or no number, and every value of a vector of another length, is the train median.
        """
        result = np.empty((batch.num_rows, self.width), np.float32)
        start = 0
        for name, length in zip(self.names, self.lengths, strict=True):
            medians = np.array(self.medians[start : start + length])
            index = batch.schema.get_field_index(name)
            array = batch.column(index) if index >= 0 else None
            result[:, start : start + length] = _columns_of(array, batch.num_rows, length, medians)
            start += length
        # -0.0 and 0.0 are the same number and must have the same hash.
        return result + np.float32(0.0)


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
