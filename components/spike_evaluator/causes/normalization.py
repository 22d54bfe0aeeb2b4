"""Normalization: whole batches of inputs in another unit than the model has learned, or in raw units all along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

# Standardized inputs lie within a dozen standard deviations or so, heavy tails a few dozen.
_USUAL_INPUT, _RAW_INPUT = 15.0, 200.0
# Share of a batch's rows beyond which not a few rows but the batch is in another unit.
_WHOLE = 0.34
REMEDY = Remedy(
    "Standardize the features by constants of the train split, in the transform graph (`normalize=True`).",
    {"standardize_label": True},
    {"normalize": True},
    ("--recipe", "guarded"),
)


def evidence(around: Surroundings) -> Evidence | None:
    """Size of the inputs at the spike against calm steps, and against what standardized inputs have."""
    largest = around.curve.largest_input
    usual, (lift, place) = around.usual(largest), around.lift(largest)
    if not usual > 0 and (largest > 0).any():
        usual = float(np.median(largest[largest > 0]))  # No step is calm, and yet these are the inputs.
    found = refuted(around.tables)
    if not usual > 0 and not found:
        return None
    figures, words = {"usual_largest_input": usual, "largest_input_over_calm": lift}, []
    shifted = ramp(lift, 1.2, 4.0) * (1.0 - around.few_rows)
    raw = 0.75 * ramp(usual, _USUAL_INPUT, _RAW_INPUT) * (1.0 - around.few_rows)
    if shifted > 0.0:
        words.append(
            f"the largest input of step {around.curve.step[place]} is {largest[place]:.4g}, {lift:.1f} times that of any"
            " calm step, and the loss is spread over the rows of the batch"
        )
    if raw > 0.0:
        words.append(f"the inputs reach {usual:.4g} in a usual batch, where standardized ones stay within a dozen")
    words += found[:2]
    score = max(shifted, raw, 0.7 * (1.0 - around.few_rows) if found else 0.0)
    if around.figure("batch_size") > 0:
        score, seen = _from_rows(around, score)
        words = seen or words
    text = "; ".join(words) or f"the inputs are as large as in calm steps ({usual:.3g})"
    return Evidence("normalization", score, text, REMEDY, figures)


def _from_rows(around: Surroundings, score: float) -> tuple[float, list[str]]:
    """The score after a look at all rows of the replayed batches, and what was seen in words."""
    words = []
    features = around.replay["features"] if around.replay else ()
    beyond, shifted = around.figure("share_of_rows_beyond_fences"), around.figure("shifted_columns")
    raw, steady = around.figure("raw_columns"), around.figure("steady_share")
    signs = [score if shifted > 0 else 0.5 * score]
    if shifted > 0 or beyond > _WHOLE:
        signs.append(0.85 if shifted > 0 else 0.7)
        words += [
            f"{one['feature']} has a median of {one['median']:.4g} in the batch (usually {one['usual_median']:.4g}) and a"
            f" standard deviation of {one['spread']:.4g} ({one['usual_spread']:.4g})"
            for one in features[:1]
        ] or [f"{beyond:.0%} of the rows of the batch lie beyond the fences"]
    elif raw > 0:
        carried = around.figure("suspicious_share_of_loss") if around.figure("suspicious_rows") > 0 else 0.0
        signs.append(0.7 * (1.0 - max(0.0, carried)))
        words += [f"{one['feature']} reaches {one['largest']:.4g} in raw units" for one in features[:1]]
    if steady > 0:
        signs.append(0.75)
        words.append(
            f"the means of {steady:.0%} of the inputs are the same in all batches: each batch is standardized by itself"
        )
    return max(signs), words


def refuted(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What NormalizationValidator refuted."""
    table = tables.get("normalization.json", {})
    return [
        f"{feature.get('name')}: {check.get('text') or check.get('check')}"
        for feature in table.get("features", [])
        for check in feature.get("checks", [])
        if check.get("status") == "refuted" and check.get("severity") == "ERROR"
    ]
