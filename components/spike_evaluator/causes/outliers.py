"""Outliers: few rows whose features or labels lie far from all others carry the loss of the batch."""

from __future__ import annotations

import math

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

_MOST_ROWS = 5
REMEDY = Remedy(
    "Set `--outliers winsorize`, or remove these rows, and train a regression on Huber's loss.",
    {"loss": "huber"},
    ("--outliers", "winsorize"),
)


def evidence(around: Surroundings) -> Evidence | None:
    """Share of the batch's loss in its worst rows, and how far these lie beyond the worst rows of calm batches."""
    share, count, place = around.concentration
    lift, lifted = around.lift(around.curve.largest_input)
    if math.isnan(share):
        return _from_log(around)
    highest = around.top(around.curve.worst_loss[:, 0])
    ratio = float(around.curve.worst_loss[place, 0] / highest) if highest > 0 else float("nan")
    # Rows of an ordinary kind are no outliers, however few carry the loss: either loss or input is beyond all others'.
    beyond = max(ramp(ratio, 1.0, 3.0), ramp(lift, 1.1, 3.0) if abs(lifted - place) <= 1 else 0.0)
    score = share * (0.3 + 0.7 * beyond) * (1.0 - 0.6 * around.odd_composition)
    rows = around.rows(place, min(count, _MOST_ROWS))
    size = int(around.curve.batch_size[place])
    total = size * float(around.curve.loss[place])
    carried = min(1.0, sum(row.loss or 0.0 for row in rows) / total)
    figures = {
        "step": float(around.curve.step[place]),
        "rows": float(len(rows)),
        "batch_size": float(size),
        "share_of_loss": carried,
        "worst_loss_over_calm": ratio,
        "largest_input_over_calm": lift,
    }
    text = f"{len(rows)} of {size} rows carry {carried:.0%} of the loss of step {around.curve.step[place]}"
    if ratio > 1:
        text += f"; the worst is {ratio:.1f} times as high as any in calm steps"
    return Evidence("outliers", score, text, REMEDY, figures, rows)


def _from_log(around: Surroundings) -> Evidence | None:
    """A log without rows: a single high batch may hold outliers, or anything else that is in no other batch."""
    jump = around.rate_jump[0]
    if not around.is_brief or jump > 1.5:
        return None
    text = "one batch alone is high; which of its rows are is not in this log"
    remedy = Remedy("Train with a CurveRecorder, which keeps the worst rows of each step.", REMEDY.recipe, REMEDY.flags)
    return Evidence("outliers", 0.4, text, remedy, {"steps": 1.0})
