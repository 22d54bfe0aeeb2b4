"""A sample of rows that depends on their bytes and a seed alone: not on their order, nor on how workers shared them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from spikeguard.components.outlier_detector.matrix import Matrix

Hashes = npt.NDArray[np.uint64]
MatrixOf = Callable[[npt.NDArray[np.intp]], Matrix]
# A row that is at least this share of all is counted apart, so that its copies are in the sample in their number.
_FREQUENT = 0.0005
# And there are so many of it: different rows that share a cell are fewer.
_LEAST_COPIES = 16
# Rows that are followed as possibly frequent: a row of more than 1 in so many is among them (Misra and Gries 1982).
# Fewer than a batch has: where all its rows differ, none is followed, and none is decoded for that.
_FOLLOWED = 4096
# Cells that count rows by their hash.
_CELLS = 1 << 18


def hash_rows(serialized: npt.NDArray[np.object_], seed: int) -> Hashes:
    """A 64-bit hash of each row's bytes, shape (n,): FarmHash, and the seed by the mixing of SplitMix64 (Steele et al. 2014).

    >>> hashes = hash_rows(np.array([b"12", b"21", b"12"], object), seed=0)
    >>> bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
    (True, False)
    """
    texts = tf.constant(serialized, tf.string, (len(serialized),))
    fingerprints = tf.strings.to_hash_bucket_fast(texts, 2**63 - 1).numpy().astype(np.uint64)
    return _mixed(fingerprints ^ _mixed(np.array([seed], np.uint64)))


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
    rows: Any
    """A Matrix, or the places, shape (n,), of rows that are not decoded yet."""

    @staticmethod
    def empty(columns: int) -> _Counted:
        return _Counted(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty((0, columns), np.float32))

    def merged(self, other: _Counted) -> _Counted:
        distinct, first, inverse = np.unique(
            np.concatenate([self.hashes, other.hashes]), return_index=True, return_inverse=True
        )
        counts = np.bincount(inverse, weights=np.concatenate([self.counts, other.counts]), minlength=len(distinct))
        return _Counted(distinct, counts.astype(np.int64), np.concatenate([self.rows, other.rows])[first])

    def of_places(self, places: npt.NDArray[np.bool_ | np.intp] | slice) -> _Counted:
        return _Counted(self.hashes[places], self.counts[places], self.rows[places])

    def numbered(self) -> _Counted:
        """With the places of the rows, from the end, in place of the rows."""
        return dataclasses.replace(self, rows=np.arange(-len(self.rows), 0))

    def with_rows(self, before: Matrix, matrix_of: MatrixOf) -> _Counted:
        """With the rows of their places: those below 0 among the rows from before, the others in the batch."""
        is_new = self.rows >= 0
        rows = np.empty((len(self.rows), before.shape[1]), np.float32)
        rows[~is_new] = before[self.rows[~is_new]]
        if is_new.any():
            rows[is_new] = matrix_of(self.rows[is_new])
        return dataclasses.replace(self, rows=rows)


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

    def add(self, hashes: Hashes, matrix_of: MatrixOf) -> RowSample:
        """With more rows.

        Args:
          hashes: of `hash_rows`, shape (n,).
          matrix_of: of the places of some of them the rows, shape (places, columns), finite. Few rows are asked for
            where many were seen before: most of the work on a row is to decode it.
        """
        distinct, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        new = _Counted(distinct, counts.astype(np.int64), first)
        is_full = len(self.smallest.hashes) >= self.size
        small = new.of_places(distinct <= self.smallest.hashes[-1]) if is_full else new
        smallest = self.smallest.numbered().merged(small).of_places(slice(0, self.size))
        followed = _most_frequent(self.followed.numbered().merged(new))
        return RowSample(
            self.size,
            self.seed,
            self.total + len(hashes),
            smallest.with_rows(self.smallest.rows, matrix_of),
            followed.with_rows(self.followed.rows, matrix_of),
            self.cells + np.bincount((hashes % np.uint64(_CELLS)).astype(np.int64), minlength=_CELLS),
        )

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
        frequent, weights = self._frequent()
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

    def _frequent(self) -> tuple[_Counted, npt.NDArray[np.float64]]:
        """The rows that are at least `_FREQUENT` of all, and how often each was there."""
        # By cells rather than by the followed counts, which depend on the order of merging; a cell's other rows are few.
        cells = (self.followed.hashes % np.uint64(_CELLS)).astype(np.int64)
        # Which rare rows are followed depends on that order as well: only the first row of a cell can have filled it.
        order = np.lexsort((self.followed.hashes, -self.followed.counts, cells))
        is_first = np.append(True, np.diff(cells[order]) > 0)[: len(order)]
        firsts = np.sort(order[is_first])
        firsts = firsts[self.cells[cells[firsts]] >= max(_LEAST_COPIES, _FREQUENT * self.total)]
        return self.followed.of_places(firsts), self.cells[cells[firsts]].astype(np.float64)


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
