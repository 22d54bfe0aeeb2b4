"""A sample of rows that depends on their values and a seed alone: not on their order, nor on how workers shared them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from spikeguard.components.outlier_detector.matrix import Matrix

Hashes = npt.NDArray[np.uint64]
# A row that is at least this share of all is counted apart, so that its copies are in the sample in their number.
_FREQUENT = 0.005
# Rows that are followed as possibly frequent: a row of more than 1 in so many is among them (Misra and Gries 1982).
_FOLLOWED = 1024
# Cells that count rows by their hash.
_CELLS = 1 << 16


def hash_rows(rows: Matrix, seed: int) -> Hashes:
    """A 64-bit hash of each row's values (the mixing of SplitMix64, Steele et al. 2014). Shape (n,).

    >>> hashes = hash_rows(np.array([[1, 2], [2, 1], [1, 2]], np.float32), seed=0)
    >>> bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
    (True, False)
    """
    words = np.ascontiguousarray(rows, np.float32).view(np.uint32).astype(np.uint64)
    result = np.full(len(rows), _mixed(np.array([seed], np.uint64))[0], np.uint64)
    for column in range(words.shape[1]):
        result = _mixed(result ^ words[:, column])
    return result


def _mixed(bits: Hashes) -> Hashes:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Different rows, by rising hash, and how often each was there."""

    hashes: Hashes
    counts: npt.NDArray[np.int64]
    rows: Matrix

    @staticmethod
    def empty(columns: int) -> _Counted:
        return _Counted(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty((0, columns), np.float32))

    @staticmethod
    def of(hashes: Hashes, rows: Matrix) -> _Counted:
        distinct, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        return _Counted(distinct, counts.astype(np.int64), rows[first])

    def merged(self, other: _Counted) -> _Counted:
        distinct, first, inverse = np.unique(
            np.concatenate([self.hashes, other.hashes]), return_index=True, return_inverse=True
        )
        counts = np.bincount(inverse, weights=np.concatenate([self.counts, other.counts]), minlength=len(distinct))
        return _Counted(distinct, counts.astype(np.int64), np.concatenate([self.rows, other.rows])[first])

    def of_places(self, places: npt.NDArray[np.bool_] | slice) -> _Counted:
        return _Counted(self.hashes[places], self.counts[places], self.rows[places])


@dataclasses.dataclass(frozen=True)
class RowSample:
    """What is kept of the rows seen so far; its size does not grow with them.

    The different rows of the smallest hashes, with exact counts, are a uniform draw of the different rows. The frequent ones
    among all, which that draw mostly misses, are found by a second summary.
    """

    size: int
    """Rows that the sample is to have."""
    seed: int
    total: int
    """All rows seen."""
    smallest: _Counted
    followed: _Counted
    cells: npt.NDArray[np.int64]

    @staticmethod
    def empty(size: int, columns: int, seed: int) -> RowSample:
        none = _Counted.empty(columns)
        return RowSample(size, seed, 0, none, none, np.zeros(_CELLS, np.int64))

    def add(self, rows: Matrix) -> RowSample:
        """With more rows, shape (n, columns), finite."""
        if not len(rows):
            return self
        hashes = hash_rows(rows, self.seed)
        counted = _Counted.of(hashes, rows)
        cells = np.bincount((hashes % np.uint64(_CELLS)).astype(np.int64), minlength=_CELLS)
        return self.merged(RowSample(self.size, self.seed, len(rows), counted, counted, cells))

    def merged(self, other: RowSample) -> RowSample:
        """Of the rows of both."""
        return RowSample(
            self.size,
            self.seed,
            self.total + other.total,
            self.smallest.merged(other.smallest).of_places(slice(0, self.size)),
            _most_frequent(self.followed.merged(other.followed)),
            self.cells + other.cells,
        )

    def rows(self) -> Matrix:
        """The sample: `size` rows, or all where there are no more, by rising hash. Shape (n, columns)."""
        # By cells rather than by the followed counts, which depend on the order of merging; a cell's other rows are few.
        by_cell = self.cells[(self.followed.hashes % np.uint64(_CELLS)).astype(np.int64)]
        frequent = self.followed.of_places(by_cell >= _FREQUENT * self.total)
        weights = by_cell[by_cell >= _FREQUENT * self.total].astype(np.float64)
        is_other = ~np.isin(self.smallest.hashes, frequent.hashes)
        others = self.smallest.of_places(is_other)
        if len(self.smallest.hashes) < self.size:
            # All different rows are there, with their counts.
            others, frequent, weights = self.smallest, _Counted.empty(self.smallest.rows.shape[1]), np.empty(0)
        other_weights = others.counts.astype(np.float64)
        if len(frequent.hashes) and len(others.hashes):
            other_weights *= max(0.0, self.total - weights.sum()) / other_weights.sum()
        return _drawn(
            np.concatenate([others.rows, frequent.rows]),
            np.concatenate([other_weights, weights]),
            min(self.size, self.total),
        )


def _most_frequent(counted: _Counted) -> _Counted:
    """At most `_FOLLOWED` rows; the counts of the others are taken from all: Agarwal et al. 2013, mergeable summaries."""
    if len(counted.hashes) <= _FOLLOWED:
        return counted
    cut = int(np.partition(counted.counts, -_FOLLOWED - 1)[-_FOLLOWED - 1])
    kept = counted.of_places(counted.counts > cut)
    return dataclasses.replace(kept, counts=kept.counts - cut)


def _drawn(rows: Matrix, weights: npt.NDArray[np.float64], size: int) -> Matrix:
    """`size` rows, each about as often as its weight says: systematic sampling."""
    if not len(rows):
        return rows
    cumulative = np.cumsum(weights) / weights.sum() * size
    drawn: Matrix = rows[np.minimum(np.searchsorted(cumulative, np.arange(size) + 0.5), len(rows) - 1)]
    return drawn
