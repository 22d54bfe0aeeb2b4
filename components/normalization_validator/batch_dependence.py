"""Check (c): what becomes of a row does not depend on the other rows of its batch."""

from __future__ import annotations

import numpy as np

from spikeguard.components.normalization_validator.graph import ProbedGraph
from spikeguard.components.normalization_validator.result import Check
from spikeguard.components.training_curve import Floats

# Vectorized kernels round the last rows of a batch differently, which a division by a small deviation makes larger; what is
# computed from the batch moves by about one standard deviation over the root of its rows.
_NEAR = 1e-2


def check_batch_dependence(graph: ProbedGraph, serialized: list[bytes]) -> dict[str, Check]:
    """Transforms the same rows in one batch and in two uneven parts.

    Args:
      graph: to be probed.
      serialized: rows of the train split.

    Returns:
      The check of each output.
    """
    whole, again = graph.apply(graph.parse(serialized)), graph.apply(graph.parse(serialized))
    cut = max(1, len(serialized) // 3)
    parts = [graph.apply(graph.parse(part)) for part in (serialized[:cut], serialized[cut:]) if part]
    first = graph.apply(graph.parse(serialized[:1]))
    return {
        output: compared_batches(values, again[output], [part[output] for part in parts], first[output])
        for output, values in whole.items()
    }


def compared_batches(whole: Floats, again: Floats, parts: list[Floats], first: Floats) -> Check:
    """Compares what became of the same rows in several make-ups of batches.

    Args:
      whole: of all rows in one batch. Shape (rows, d).
      again: of the same batch once more. Shape (rows, d).
      parts: of the same rows in consecutive parts.
      first: of the first row alone. Shape (1, d).

    >>> rows = np.array([[1.0], [2.0], [3.0], [4.0]])
    >>> compared_batches(rows, rows, [rows[:1], rows[1:] - 0.5], rows[:1]).status
    'refuted'
    """
    rows = len(whole)
    noise = _largest_change(whole, again)
    if noise > _NEAR:
        text = (
            f"The graph gives the same rows other numbers each time (by {noise:.3g} standard deviations): it is random, and so "
            "is what it serves. Move augmentation from the preprocessing_fn into the training."
        )
        return Check("independent_of_batch", "undecidable", text, {"rows": rows, "change_sd": noise}, "WARNING")
    change = max(_largest_change(whole, np.concatenate(parts)), _largest_change(whole[: len(first)], first, whole))
    figures = {"rows": rows, "change_sd": change}
    if change > _NEAR:
        text = (
            f"The same rows come out different by {change:.3g} standard deviations when other rows share their batch. "
            "Use tf.Transform's analyzers (tft.mean, tft.scale_to_z_score, ...) instead of reductions over the batch."
        )
        return Check("independent_of_batch", "refuted", text, figures, "ERROR")
    return Check("independent_of_batch", "proven", f"{rows} rows come out the same in batches of any make-up.", figures)


def _largest_change(one: Floats, other: Floats, scale_of: Floats | None = None) -> float:
    if one.shape != other.shape:
        return np.inf
    if not one.size:
        return 0.0
    reference = one if scale_of is None else scale_of
    with np.errstate(all="ignore"):
        scale = np.nanstd(np.where(np.isfinite(reference), reference, np.nan), axis=0) + 0.01 * np.nanmax(
            np.where(np.isfinite(reference), np.abs(reference), 0.0), axis=0
        )
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
        changed = np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other) / scale, 0.0)
    is_other_gap = np.isfinite(one) != np.isfinite(other)
    return float(np.inf if is_other_gap.any() else changed.max())
