"""Ordinary rows, and batches that are unlike them."""

from __future__ import annotations

import numpy as np

from spikeguard.components.guarded_trainer.kept_rows import Batch
from spikeguard.components.guarded_trainer.replay_changes import rescaled, without_rows
from spikeguard.components.guarded_trainer.replay_reference import Layout, Reference

GENERATOR = np.random.default_rng(0)
ROWS = 300


def _batch(rows: int) -> Batch:
    """Columns: an amount, one that is mostly the same, a flag."""
    amount = GENERATOR.normal(size=rows)
    pixel = np.where(GENERATOR.random(rows) < 0.2, GENERATOR.normal(5.0, 1.0, rows), -0.25)
    flag = GENERATOR.integers(0, 2, rows)
    x = np.stack([amount, pixel, flag], axis=1).astype(np.float32)
    return Batch((x,), np.arange(rows))


def _reference(fixed_size: int | None = None) -> Reference:
    return Reference(Layout(1, ("x",), fixed_size=fixed_size), _batch(ROWS), np.zeros(ROWS))


def _changed(column: int, factor: float, offset: float) -> Batch:
    batch = _batch(32)
    x = batch.leaves[0].copy()
    x[:, column] = (x[:, column] + offset) * factor
    return batch.with_leaf(0, x)


def test_columns_in_another_unit_are_found_whatever_their_kind() -> None:
    reference = _reference()
    assert reference.shifted_columns(_batch(32)).tolist() == []
    # An amount; one whose usual value has no spread; a flag, which has no unit but known values.
    assert reference.shifted_columns(_changed(0, 30.0, 0.5)).tolist() == [0]
    assert reference.shifted_columns(_changed(1, 3.0, 0.5)).tolist() == [1]
    assert reference.shifted_columns(_changed(2, 1.0, 0.5)).tolist() == [2]


def test_flag_that_is_rarely_set_is_not_in_raw_units() -> None:
    x = GENERATOR.normal(size=(ROWS, 3)).astype(np.float32)
    rare = np.arange(ROWS) < 3
    x[:, 1] = (rare - rare.mean()) / rare.std()  # Standardized, and ten standard deviations up where it is set.
    x[:, 1] *= 3.0
    x[:, 2] = 50.0 + 20.0 * x[:, 2]
    reference = Reference(Layout(1, ("x",)), Batch((x,), np.arange(ROWS)), np.zeros(ROWS))
    assert reference.size[1] > 15.0
    assert reference.raw_columns().tolist() == [2]


def test_shifted_batch_comes_back_within_ordinary_rows_and_keeps_its_order() -> None:
    reference, batch = _reference(), _changed(0, 30.0, 0.5)
    before = batch.leaves[0][:, 0].copy()
    change = rescaled([batch, _batch(32)], reference)
    assert change is not None
    after = change.batches[0].leaves[0][:, 0]
    own = reference.rows.leaves[0][:, 0]
    assert own.min() <= after.min()
    assert after.max() <= own.max()
    assert (np.diff(after[np.argsort(before)]) >= 0).all()
    assert change.figures == {"columns": 1.0}


def test_rows_are_replaced_only_where_batches_must_keep_their_size() -> None:
    batch = _batch(32)
    suspects = [np.arange(32) < 2]
    for size, rows, text in ((None, 30, "Removing 2 rows"), (32, 32, "Replacing 2 rows by ordinary ones")):
        change = without_rows([batch], suspects, 0, _reference(size), seed=0)
        assert change is not None
        assert (len(change.batches[0]), change.text) == (rows, text)
        assert not set(change.batches[0].leaves[0][:, 0]) & set(batch.leaves[0][:2, 0])
