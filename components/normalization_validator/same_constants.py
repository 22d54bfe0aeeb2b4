"""Check (b): every split was transformed by the graph that serves."""

from __future__ import annotations

import numpy as np

from spikeguard.components.normalization_validator.measured import Measured
from spikeguard.components.normalization_validator.result import Check, worst
from spikeguard.components.normalization_validator.summaries import Columns

# Standard deviations by which two computations of the same float32 numbers may differ: in a mean of many, and in one.
_NEAR = {"mean": 1e-4, "sd": 1e-4, "minimum": 2e-3, "maximum": 2e-3}


def check_same_constants(measured: Measured, output: str) -> Check:
    """Compares what is materialized with what the graph makes of all raw rows; the order of the rows does not matter.

    Args:
      measured: the evidence.
      output: a transformed numeric feature.
    """
    checks = []
    for split, expected in measured.columns("output", output).items():
        found = measured.columns("materialized", output).get(split)
        if found is not None:
            checks.append(_compared(split, expected, found))
    if not checks:
        return Check("same_constants", "not_applicable", "There are no transformed examples to compare with.")
    return worst(checks)


def _compared(split: str, expected: Columns, found: Columns) -> Check:
    advice = "Transform every split by the one graph that serves, and give the examples that it was applied to."
    if expected.mean.shape != found.mean.shape:
        figures = {"split": split, "expected_width": len(expected.mean), "width": len(found.mean)}
        text = f"The transformed {split} split has {len(found.mean)} values in a row where the graph gives {len(expected.mean)}. {advice}"
        return Check("same_constants", "refuted", text, figures, "ERROR", split)
    scale = np.where(expected.sd > 0, expected.sd, 1.0) + 0.1 * expected.largest
    is_known = (expected.count > 0) & (found.count > 0)
    gaps = {}
    for field in _NEAR:
        with np.errstate(invalid="ignore"):
            distance = np.abs(getattr(expected, field) - getattr(found, field)) / scale
        gaps[field] = float(np.where(is_known, distance, 0.0).max(initial=0.0))
    name = max(gaps, key=lambda field: gaps[field] / _NEAR[field])
    missing = float(np.abs(expected.count - found.count).max(initial=0.0))
    rows = float(expected.count.max(initial=0))
    figures = {"split": split, "rows": rows, "largest_gap": gaps[name], "of": name, "missing": missing}
    is_other = gaps[name] > _NEAR[name]
    if is_other or missing:
        what = (
            f"their {name} differs by {gaps[name]:.3g} standard deviations"
            if is_other
            else f"{missing:,.0f} values are missing or added"
        )
        text = f"The transformed {split} examples are not what the graph makes of the raw ones: {what}. {advice}"
        return Check("same_constants", "refuted", text, figures, "ERROR", split)
    text = f"In each split the transformed examples are what the graph makes of the raw ones, to {gaps[name]:.1g} standard deviations."
    return Check("same_constants", "proven", text, figures)
