"""Outliers: few rows whose features or labels lie far from all others carry the loss of the batch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, Row, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

_MOST_ROWS = 5
# Up to this share of a batch's rows outliers are few.
_FEW = 0.34
REMEDY = Remedy(
    "Set `--outliers winsorize`, or remove these rows, and train a regression on Huber's loss.",
    {"loss": "huber"},
    {"outliers": "winsorize"},
    ("--outliers", "winsorize"),
)


def evidence(around: Surroundings) -> Evidence | None:
    """Share of the batch's loss in its worst rows, and how far these lie beyond the worst rows of calm batches."""
    found = _from_curve(around)
    return _from_rows(around, found) if around.figure("batch_size") > 0 else found


def _from_curve(around: Surroundings) -> Evidence | None:
    share, count, place = around.concentration
    lift, lifted = around.lift(around.curve.largest_input)
    if math.isnan(share):
        return _from_log(around)
    highest = around.top(around.curve.worst_loss[:, 0])
    ratio = float(around.curve.worst_loss[place, 0] / highest) if highest > 0 else float("nan")
    # Rows of an ordinary kind are no outliers, however few carry the loss: either loss or input is beyond all others'.
    beyond = max(ramp(ratio, 1.0, 3.0), ramp(lift, 1.1, 3.0) if abs(lifted - place) <= 1 else 0.0)
    score = share * (0.3 + 0.7 * beyond) * (1.0 - 0.8 * around.odd_composition) * (1.0 - 0.6 * around.rarity)
    # Where the weights have moved far, some rows are high in any batch.
    score *= 1.0 - 0.7 * around.led_by_weights * (1.0 - ramp(lift, 1.1, 3.0))
    others = around.curve.loss[[one for one in range(around.start, around.end + 1) if one != place]]
    if len(others) >= 3 and float(np.median(others)) > 0.5 * float(around.curve.loss[place]):
        score *= 0.5  # Other batches are as high: it is not these rows.
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
    text += _told(rows)
    if ratio > 1:
        text += f"; the worst is {ratio:.1f} times as high as any in calm steps"
    return Evidence("outliers", score, text, REMEDY, figures, rows)


def _from_rows(around: Surroundings, found: Evidence | None) -> Evidence | None:
    """The same after a look at all rows of the batch that is to blame, against rows of calm steps."""
    size, count = around.figure("batch_size"), around.figure("suspicious_rows")
    told = around.replay["rows"] if around.replay else ()
    score = found.score if found else 0.0
    if not count > 0:
        # The loss lies in few rows, and yet no row is unlike those of calm steps.
        return dataclasses.replace(found, score=0.5 * score) if found else None
    if around.figure("shifted_columns") > 0 or count > max(1.0, _FEW * size):
        return dataclasses.replace(found, score=0.3 * score) if found else None
    distance, carried = around.figure("largest_distance"), around.figure("suspicious_share_of_loss")
    sign = max(ramp(distance, 1.0, 3.0), carried)
    # A row without loss has no gradient; with as much of it, the farther away the more.
    weighs = ramp(carried * max(1.0, distance), 0.1, 0.5)
    # Rows of a class that has become frequent are high, too.
    score = max(
        (0.55 + 0.4 * sign)
        * weighs
        * (1.0 - 0.6 * around.rarity)
        * (1.0 - 0.5 * ramp(-around.figure("log10_chance_of_classes"), 3.0, 7.0)),
        score,
    )
    step = around.replay["culprit_step"] if around.replay else 0
    text = f"{count:.0f} of {size:.0f} rows of step {step} are unlike all others and carry {carried:.0%} of its loss"
    rows = tuple(around.with_raw_value(Row(**row)) for row in told)
    text += _told(rows)
    figures = {"step": float(step), "rows": count, "batch_size": size, "share_of_loss": carried, "distance": distance}
    return Evidence("outliers", score, text, REMEDY, figures, rows)


def _told(rows: tuple[Row, ...]) -> str:
    """The most unusual value among the rows, in words; "" where none is known."""
    for row in rows:
        if row.feature is None or row.value is None:
            continue
        fence = row.upper if row.upper is not None and row.value > row.upper else row.lower
        who = f"row {row.example_id}" if row.example_id is not None else "one of them"
        beyond = "" if fence is None else f" (fence {fence:,.4g})"
        return f"; {row.feature} of {who} is {row.value:,.4g}{beyond}"
    return ""


def _from_log(around: Surroundings) -> Evidence | None:
    """A log without rows: a single high batch may hold outliers, or anything else that is in no other batch."""
    jump = around.rate_jump[0]
    if not around.is_brief or jump > 1.5:
        return None
    text = "one batch alone is high; which of its rows are is not in this log"
    remedy = Remedy(
        "Train with a CurveRecorder, which keeps the worst rows of each step.",
        REMEDY.recipe,
        REMEDY.pipeline,
        REMEDY.flags,
    )
    return Evidence("outliers", 0.4, text, remedy, {"steps": 1.0})
