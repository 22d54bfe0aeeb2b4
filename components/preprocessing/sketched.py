"""Robust constants of columns, all fitted in one analyzer from the sketches that TrainingStatistics has of a number.

One analyzer, because TFX 1.16's Transform cannot run a second one on what a first has made, with the Beam of today: a median
and the deviations from it, or fences and the mean of what they leave, have to be found in one pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.training_curve import Floats
from spikeguard.components.training_statistics.robust_statistics import QuantileGrid, fences, mad
from spikeguard.components.training_statistics.summaries import NumberSummary


@dataclasses.dataclass(frozen=True)
class FittedColumns:
    """Constants of the columns of a table, of the split that tf.Transform analyzes; each float32 of shape (width,).

    They come from a sketch with a rank error of 0.2 %. A column without a finite value has infinite fences and zeros.
    """

    lower: tf.Tensor
    """Lower fence; what float32 cannot hold has become infinite."""
    upper: tf.Tensor
    mean: tf.Tensor
    """Of the values clipped at the fences."""
    deviation: tf.Tensor
    """Standard deviation of the values clipped at the fences."""
    median: tf.Tensor
    mad: tf.Tensor
    """Median absolute deviation from the median, not scaled."""


_FIGURES = len(dataclasses.fields(FittedColumns))


def fitted_columns(table: tf.Tensor, name: str | None = None) -> FittedColumns:
    """Fits a table, inside a preprocessing_fn.

    Args:
      table: dense numbers of shape (n, width); NaN and infinite values do not count.
      name: name of the analyzer.
    """
    width = int(table.shape[1])
    (figures,) = tft.experimental.ptransform_analyzer(
        inputs=[tf.cast(table, tf.float64)],
        ptransform=_Fit(width),
        output_dtypes=[tf.float32],
        output_shapes=[[_FIGURES, width]],
        name=name,
    )
    return FittedColumns(*tf.unstack(figures, num=_FIGURES))


class _Fit(beam.PTransform):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def expand(self, batches: beam.PCollection[tuple[Floats]]) -> beam.PCollection[Floats]:
        return batches | "Sketch" >> beam.CombineGlobally(_Sketches(self._width))


class _Sketches(beam.CombineFn):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        self._width = width

    def create_accumulator(self) -> list[NumberSummary]:
        return [NumberSummary.empty(1) for _ in range(self._width)]

    def add_input(self, accumulator: list[NumberSummary], batch: tuple[Floats]) -> list[NumberSummary]:
        (table,) = batch
        for number, summary in enumerate(accumulator):
            summary.add(table[:, number : number + 1], None)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[NumberSummary]]) -> list[NumberSummary]:
        first, *others = accumulators
        for other in others:
            for own, summary in zip(first, other, strict=True):
                own.merge(summary)
        return first

    def extract_output(self, accumulator: list[NumberSummary]) -> Floats:
        figures = np.array([_figures(grid) for (grid,) in (summary.grids() for summary in accumulator)])
        with np.errstate(over="ignore"):
            return figures.reshape(-1, _FIGURES).T.astype(np.float32)


def _figures(grid: QuantileGrid | None) -> tuple[float, ...]:
    """As the fields of `FittedColumns`."""
    if grid is None:
        return -np.inf, np.inf, 0.0, 0.0, 0.0, 0.0
    fence = fences(grid)
    clipped = np.clip(grid.values, fence.lower, fence.upper)
    shares = np.diff(grid.cumulative, prepend=0.0) / grid.weight
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(clipped @ shares)
        deviation = float(np.sqrt(((clipped - mean) ** 2) @ shares))
    deviation = deviation if np.isfinite(deviation) else 0.0
    return fence.lower, fence.upper, mean, deviation, grid.quantile(0.5), mad(grid)
