"""The draw: the same however the rows are ordered and dealt out, and true to how often a row is there."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from spikeguard.components.outlier_detector.sampling import RowSample, hash_rows


def _add(sample: RowSample, rows: np.ndarray) -> RowSample:
    return sample.add(hash_rows(np.array([row.tobytes() for row in rows], object), sample.seed), rows.__getitem__)


def _sample(rows: np.ndarray, workers: int, size: int = 500, seed: int = 0) -> np.ndarray:
    empty = RowSample.empty(size, rows.shape[1], seed)
    parts = []
    for share in np.array_split(rows, workers):
        parts.append(functools.reduce(_add, np.array_split(share, max(1, len(share) // 700)), empty))
    return functools.reduce(RowSample.merged, parts).rows()


def _rows(n: int = 6000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


@pytest.mark.parametrize("copies", [0, 4000], ids=["all different", "two fifths the same"])
def test_the_draw_does_not_depend_on_order_or_workers(copies: int) -> None:
    rows = np.concatenate([_rows(), np.full((copies, 3), 7.0, np.float32)])
    expected = _sample(rows, workers=1)
    for workers, seed in ((2, 1), (9, 2), (40, 3)):
        shuffled = np.random.default_rng(seed).permutation(rows)
        np.testing.assert_array_equal(_sample(shuffled, workers), expected)
    assert not np.array_equal(_sample(rows, workers=1, seed=5), expected)


def test_every_row_is_as_likely_as_any_other() -> None:
    rows = np.arange(3000, dtype=np.float32).reshape(-1, 1)
    times = np.zeros(3000)
    for seed in range(200):
        drawn = _sample(rows, workers=3, size=300, seed=seed).ravel().astype(int)
        assert len(np.unique(drawn)) == 300
        times[drawn] += 1
    # 20 each, with the spread of a binomial.
    assert times.mean() == 20
    assert times.std() == pytest.approx(np.sqrt(200 * 0.1 * 0.9), rel=0.1)


def test_copies_are_drawn_in_their_number() -> None:
    rows = np.concatenate([_rows(9000), np.full((6000, 3), 7.0, np.float32)])
    drawn = _sample(rows, workers=4, size=1000)
    assert len(drawn) == 1000
    assert np.mean(drawn[:, 0] == 7.0) == pytest.approx(0.4, abs=0.01)


def test_copies_of_few_are_drawn_in_their_number() -> None:
    # As attacks that all look the same: 0.2 % of the rows each, of which a draw of the different rows has one or none.
    copies = np.repeat(np.arange(20, dtype=np.float32)[:, None] + 100.0, 80, axis=0) * np.ones(3, np.float32)
    rows = np.random.default_rng(3).permutation(np.concatenate([_rows(38_400), copies]))
    drawn = _sample(rows, workers=3, size=4000)
    times = [int(np.sum(drawn[:, 0] == 100.0 + place)) for place in range(20)]
    assert times == [8] * 20


def test_few_different_rows_are_drawn_by_their_counts() -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32), [8000, 1500, 500], axis=0)
    drawn = _sample(rows, workers=5, size=100)
    assert drawn.sum(axis=0).tolist() == [80, 15, 5]


def test_all_rows_are_drawn_when_there_are_no_more() -> None:
    rows = np.concatenate([_rows(100), _rows(100)[:40]])
    drawn = _sample(rows, workers=3)
    np.testing.assert_array_equal(np.sort(drawn, axis=0), np.sort(rows, axis=0))
    assert _sample(rows[:0], workers=1).shape == (0, 3)


def test_hashes_are_spread_evenly() -> None:
    hashes = hash_rows(np.array([str(number % 50_000).encode() for number in range(100_000)], object), seed=0)
    assert len(np.unique(hashes)) == 50_000
    counts = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert np.abs(counts / 6250 - 1).max() < 0.06
