"""What ordinary rows look like, and which rows and batches do not: fences for inputs, losses and classes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.guarded_trainer.kept_rows import Batch
from spikeguard.components.training_curve import Floats

Bools = npt.NDArray[np.bool_]

# A value is beyond where it lies this many times as far from the median as all but 1 % of ordinary rows.
_BEYOND = 3.0
_TAILS = (0.005, 0.995)
# A batch has another unit where its median is this many standard deviations off, or its spread this many times another.
# Classes that come in turn move a median less, since the spread is that over all classes.
_SHIFT, _STRETCH = 4.0, 4.0
# Ordinary rows that a class must have for a fence of its own, and rows that a batch must for a scale.
_FEWEST = 8
# Share of the rows below which a class is rare.
_RARE = 0.05
# Quantile in the tail and root of the mean square beyond which an amount is not standardized.
_RAW_SIZE, _RAW_RMS = 15.0, 5.0
# Distinct values from which a column is an amount and not a flag.
_AMOUNT = 10


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a batch's leaves hold what."""

    inputs: int
    """Number of leaves that are inputs; they come first."""
    names: tuple[str, ...]
    """Of the inputs."""
    classes: int = 0
    """Classes of the label; 0 where it is not a class."""
    fixed_size: int | None = None
    """Rows that each batch must have so that the training's trace serves it; None: any number."""

    def float_inputs(self, batch: Batch) -> list[int]:
        """Places of the leaves that are amounts."""
        return [place for place in range(self.inputs) if batch.leaves[place].dtype.kind == "f"]

    def matrix(self, batch: Batch) -> Floats:
        """The amounts among the inputs. Shape (rows, columns)."""
        parts = [batch.leaves[place].reshape(len(batch), -1) for place in self.float_inputs(batch)]
        return np.concatenate(parts, axis=1).astype(np.float64) if parts else np.empty((len(batch), 0))

    def column_names(self, batch: Batch) -> list[str]:
        """Names of the matrix' columns."""
        found = []
        for place in self.float_inputs(batch):
            width = int(np.prod(batch.leaves[place].shape[1:], dtype=np.int64))
            name = self.names[place]
            found += [name] if width == 1 else [f"{name}[{column}]" for column in range(width)]
        return found

    def class_of(self, batch: Batch) -> npt.NDArray[np.int64] | None:
        """Class of each row; None where the label is not a class. Shape (rows,)."""
        if self.classes < 2 or len(batch.leaves) <= self.inputs:
            return None
        label = batch.leaves[self.inputs].reshape(len(batch), -1)
        one_hot = label.shape[1] == self.classes and self.classes > 2
        return np.asarray(np.argmax(label, axis=1) if one_hot else np.round(label[:, 0]), dtype=np.int64)


class Reference:
    """Ordinary rows, and what follows from them for others.

    Attributes:
      rows: the ordinary rows.
      losses: their losses at the kept state; NaN where unknown. Shape (rows,).
    """

    def __init__(self, layout: Layout, rows: Batch, losses: Floats) -> None:
        self.layout, self.rows, self.losses = layout, rows, losses
        matrix = layout.matrix(rows)
        self.names = layout.column_names(rows)
        finite = np.where(np.isfinite(matrix), matrix, np.nan)
        with np.errstate(all="ignore"):
            self.median = np.nan_to_num(_quantile(finite, 0.5))
            low, high = (np.nan_to_num(_quantile(finite, level)) for level in _TAILS)
            self.spread = np.nan_to_num(
                np.fmax(np.nanstd(np.clip(finite, low, high), axis=0) if len(finite) else 0.0 * high, 0.0)
            )
        self.is_amount = np.array([len(np.unique(column)) >= _AMOUNT for column in matrix.T], dtype=bool)
        # A flag that no ordinary row has set is no outlier where it is set: its fence has the usual column's width.
        usual = float(np.median(high - low)) if len(high) else 0.0
        self.lower = np.minimum(self.median - _BEYOND * (self.median - low), self.median - usual)
        self.upper = np.maximum(self.median + _BEYOND * (high - self.median), self.median + usual)
        if not self.is_amount.all() and len(rows):
            # Flags and codes: one that is rarely set is no outlier where it is.
            flags = np.abs(np.nan_to_num(finite[:, ~self.is_amount]))
            room = _BEYOND * float(np.max(flags))
            self.lower = np.where(self.is_amount, self.lower, np.minimum(self.lower, -room))
            self.upper = np.where(self.is_amount, self.upper, np.maximum(self.upper, room))
        self.size = np.maximum(np.abs(low), np.abs(high))
        with np.errstate(all="ignore"):
            self._mean_square = np.nan_to_num(np.nanmean(finite**2, axis=0) if len(finite) else 0.0 * high)
        classes = layout.class_of(rows)
        self.class_shares = (
            None if classes is None else np.bincount(np.clip(classes, 0, layout.classes - 1), minlength=layout.classes)
        )
        self._classes = classes

    def distances(self, batch: Batch) -> tuple[Floats, npt.NDArray[np.int64]]:
        """How far each row's most unusual input lies from its median, in units of the fence, and its column. Shape (rows,)."""
        matrix = self.layout.matrix(batch)
        if not matrix.shape[1] or not len(self.rows):
            return np.zeros(len(batch)), np.zeros(len(batch), np.int64)
        off = matrix - self.median
        room = np.where(off > 0, self.upper - self.median, self.median - self.lower)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(off == 0, 0.0, np.abs(off) / room)
        ratio = np.where(np.isfinite(matrix), ratio, np.inf)
        columns = np.argmax(ratio, axis=1)
        return ratio[np.arange(len(batch)), columns], columns

    def high_losses(self, batch: Batch, losses: Floats) -> Bools:
        """Rows whose loss is beyond that of ordinary rows, of their own class where there are classes. Shape (rows,)."""
        classes = self.layout.class_of(batch)
        if classes is None or self._classes is None:
            return losses > _fence(self.losses)
        found = np.zeros(len(batch), dtype=bool)
        for one in np.unique(classes):
            own = self.losses[self._classes == one]
            if len(own) >= _FEWEST:
                found |= (classes == one) & (losses > max(_fence(own), _fence(self.losses)))
        return found

    def unknown_classes(self, batch: Batch) -> Bools:
        """Rows of a class of which there are too few ordinary rows to tell what is usual for it. Shape (rows,)."""
        classes = self.layout.class_of(batch)
        if classes is None or self.class_shares is None:
            return np.zeros(len(batch), dtype=bool)
        return np.asarray(self.class_shares[np.clip(classes, 0, self.layout.classes - 1)] < _FEWEST)

    def rare_rows(self, batch: Batch) -> Bools:
        """Rows of a class that less than a twentieth of the ordinary rows have. Shape (rows,)."""
        classes = self.layout.class_of(batch)
        if classes is None or self.class_shares is None or not self.class_shares.sum():
            return np.zeros(len(batch), dtype=bool)
        shares = self.class_shares / self.class_shares.sum()
        return np.asarray(shares[np.clip(classes, 0, self.layout.classes - 1)] < _RARE)

    def shifted_columns(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Columns that have another unit in this batch than in ordinary rows."""
        matrix = self.layout.matrix(batch)
        if len(batch) < 4 or not matrix.shape[1] or len(self.rows) < _FEWEST:
            return np.empty(0, np.int64)
        with np.errstate(all="ignore"):
            center = np.median(matrix, axis=0)
            spread = np.nan_to_num(np.std(matrix, axis=0))
            # By medians: a few rows do not move them, however far away they lie.
            apart = np.median(np.abs(matrix - self.median), axis=0)
            usual = np.median(np.abs(self.layout.matrix(self.rows) - self.median), axis=0)
            stretch = apart / np.where(usual > 0, usual, np.nan)
        room = np.maximum(self.spread, 1e-12)
        is_moved = np.abs(center - self.median) > _SHIFT * room
        is_stretched = (len(batch) >= _FEWEST) & ((stretch > _STRETCH) & (spread > _STRETCH * room))
        shrunk = (len(batch) >= _FEWEST) & (stretch < 1 / _STRETCH) & (spread < room / _STRETCH)
        # A value that most rows have, such as the zero of an empty pixel, has no spread; in another unit hardly a row has it.
        has_left = (
            (len(batch) >= _FEWEST)
            & (np.mean(self.layout.matrix(self.rows) == self.median, axis=0) > 0.5)
            & (np.mean(matrix == self.median, axis=0) < 0.1)
        )
        # A code has no unit, but its codes are known.
        is_unknown = np.array(
            [
                not is_amount and np.mean(~np.isin(column, known)) > 0.5
                for column, known, is_amount in zip(
                    matrix.T, self.layout.matrix(self.rows).T, self.is_amount, strict=True
                )
            ],
            dtype=bool,
        )
        is_beyond = (len(batch) >= _FEWEST) & (np.mean((matrix < self.lower) | (matrix > self.upper), axis=0) > 0.5)
        return np.flatnonzero((self.is_amount & (is_moved | is_stretched | shrunk | has_left)) | is_unknown | is_beyond)

    def brought_back(self, batch: Batch) -> tuple[Floats, npt.NDArray[np.int64]]:
        """The amounts of a batch in another unit, brought to those of ordinary rows, and the columns that were changed.

        Where some columns have moved far, others may have moved less: each that lies apart from ordinary rows by more than
        chance is mapped by its ranks to their quantiles, so that none of its values is beyond theirs.
        """
        matrix, own = self.layout.matrix(batch), self.layout.matrix(self.rows)
        with np.errstate(all="ignore"):
            # Of a median of n rows the standard error is 1.25 standard deviations over the root of n.
            error = 1.25 * np.maximum(self.spread, 1e-12) / np.sqrt(len(batch))
            is_moved = np.abs(np.median(matrix, axis=0) - self.median) > 5.0 * error
            is_outside = np.mean((matrix < own.min(axis=0)) | (matrix > own.max(axis=0)), axis=0) > 0.25
        moved = np.union1d(np.flatnonzero(is_moved | is_outside), self.shifted_columns(batch))
        for column in moved.tolist():
            values, counts = np.unique(matrix[:, column], return_counts=True)
            ranks = (np.cumsum(counts) - 0.5 * counts) / len(batch)
            mapped = np.quantile(own[:, column], ranks, method="nearest")
            matrix[:, column] = mapped[np.searchsorted(values, matrix[:, column])]
        return matrix, moved

    def raw_columns(self) -> npt.NDArray[np.int64]:
        """Columns in units so large that no standardized column would reach them.

        A flag that is rarely set may reach far after standardizing, too, but its mean square is then 1.
        """
        return np.flatnonzero((self.size > _RAW_SIZE) & (self._mean_square > _RAW_RMS**2))

    def surplus_class(self, batch: Batch) -> tuple[float, int, int, float]:
        """The class of which the batch holds the most unlikely number of rows: (-log10 of the chance, class, rows, expected)."""
        classes = self.layout.class_of(batch)
        if classes is None or self.class_shares is None or not self.class_shares.sum():
            return 0.0, 0, 0, 0.0
        counts = np.bincount(np.clip(classes, 0, self.layout.classes - 1), minlength=self.layout.classes)
        # One row more of each class: none that occurs is impossible.
        share = (self.class_shares + 1.0) / (self.class_shares.sum() + self.layout.classes)
        total = max(1, len(batch))
        seen = np.clip(counts / total, 1e-9, 1 - 1e-9)
        surprise = total * (seen * np.log(seen / share) + (1 - seen) * np.log((1 - seen) / (1 - share))) / np.log(10)
        surprise = np.where(counts > share * total, surprise - np.log10(self.layout.classes), 0.0)
        which = int(np.argmax(surprise))
        return max(0.0, float(surprise[which])), which, int(counts[which]), float(share[which] * total)


def steadiness(layout: Layout, batches: list[Batch]) -> tuple[float, int]:
    """How much less the batches' means vary than means of rows drawn at random would: (share of columns, columns).

    Of rows drawn at random the means of n vary by the rows' variance over n. Where each batch was standardized by its
    own mean they do not vary at all.

    Args:
      layout: of the batches.
      batches: in order, of about the same size.

    Returns:
      The share of amounts whose means vary by less than a fiftieth of that, and how many amounts there are; (0, 0) for
      fewer than eight batches, or where they hold the same rows.
    """
    sizes = [len(batch) for batch in batches]
    usual = int(np.median(sizes)) if sizes else 0
    whole = [layout.matrix(batch) for batch in batches if len(batch) >= 0.9 * usual]
    if len(whole) < _FEWEST or usual < 2 or not whole[0].shape[1]:
        return 0.0, 0
    rows = np.concatenate(whole)
    means = np.array([part.mean(axis=0) for part in whole])
    variance = rows.var(axis=0)
    is_amount = (variance > 1e-12) & np.array([len(np.unique(column[: 4 * usual])) >= _AMOUNT for column in rows.T])
    if not is_amount.any() or len(np.unique(rows[:, is_amount], axis=0)) < 3 * usual:
        return 0.0, 0
    ratio = means.var(axis=0)[is_amount] * usual / variance[is_amount]
    return float(np.mean(ratio < 0.02)), int(is_amount.sum())


def _fence(losses: Floats) -> float:
    finite = losses[np.isfinite(losses)]
    if len(finite) < _FEWEST:
        return float("inf")
    middle, high = np.quantile(finite, [0.5, _TAILS[1]])
    return float(middle + _BEYOND * (high - middle))


def _quantile(matrix: Floats, level: Any) -> Floats:
    if not len(matrix):
        return np.zeros((*np.shape(level), matrix.shape[1]))
    return np.asarray(np.nanquantile(matrix, level, axis=0))
