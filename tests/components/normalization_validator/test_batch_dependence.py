"""How far a row may move when its batch changes: rounding may move it, a reduction over the batch does more."""

from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.normalization_validator.batch_dependence import compared_batches

ROWS = np.random.default_rng(0).normal(50.0, 2.0, (300, 3))
# The unit of the tolerance: a standard deviation and a hundredth of the largest size.
UNIT = ROWS.std(axis=0) + 0.01 * np.abs(ROWS).max(axis=0)


@pytest.mark.parametrize(("moved", "status"), [(0.0, "proven"), (0.005, "proven"), (0.02, "refuted"), (0.5, "refuted")])
@pytest.mark.parametrize("where", ["part", "first"])
def test_rows_that_move_by_more_than_rounding_depend_on_their_batch(moved: float, status: str, where: str) -> None:
    # One position of one row alone.
    there = np.zeros_like(ROWS)
    there[150 if where == "part" else 0, 1] = moved * UNIT[1]
    parts = [ROWS[:100], (ROWS + there)[100:]]
    found = compared_batches(ROWS, ROWS, parts, (ROWS + there)[:1])
    assert (found.status, found.severity) == (status, "ERROR" if status == "refuted" else None)
    assert found.figures["change_sd"] == pytest.approx(moved)
    assert f"{moved:.3g} standard deviations" in found.text or status == "proven"


@pytest.mark.parametrize(("noise", "status"), [(0.005, "proven"), (0.02, "undecidable")])
def test_random_outputs_are_no_matter_of_the_batch(noise: float, status: str) -> None:
    again = ROWS + noise * UNIT
    found = compared_batches(ROWS, again, [ROWS[:100] + 9.0 * (noise > 0.01), ROWS[100:]], ROWS[:1])
    assert (found.status, found.severity) == (status, "WARNING" if status == "undecidable" else None)


def test_a_gap_that_comes_and_goes_depends_on_the_batch() -> None:
    gap = np.where(np.arange(3) == 2, np.nan, ROWS[:1])
    assert compared_batches(ROWS, ROWS, [ROWS], gap).status == "refuted"
    assert compared_batches(ROWS, ROWS, [ROWS], ROWS[:1]).status == "proven"
