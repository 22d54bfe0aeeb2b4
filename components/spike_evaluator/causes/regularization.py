"""Regularization: late in training, with a model that fits its training rows far better than others."""

from __future__ import annotations

import numpy as np

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

REMEDY = Remedy(
    "Regularize: weight decay of 0.01 and dropout of 0.2, or train for fewer steps.",
    {"weight_decay": 0.01, "dropout": 0.2},
    flags=("--recipe", "guarded"),
)


def evidence(around: Surroundings) -> Evidence | None:
    """Validation loss against training loss before the spike, and how far it has left its best."""
    curve = around.curve
    known = np.flatnonzero((curve.validation_step <= curve.step[around.end]) & np.isfinite(curve.validation_loss))
    if len(known) < 3:
        return None
    losses = curve.validation_loss[known]
    best, last = float(np.min(losses)), float(np.median(losses[-3:]))
    train = max(around.spike.expected_loss, 1e-12)
    if not best > 0:
        return None
    ordinary = (1.0 - around.odd_composition) * (1.0 - 0.8 * around.few_rows)
    jump = around.rate_jump[0]
    ordinary *= 1.0 - ramp(jump, 1.2, 3.0) if jump > 0 else 1.0
    gap, rise = last / train, last / best
    late = around.start / max(1, len(curve))
    score = 0.8 * ramp(gap, 1.5, 6.0) * ramp(rise, 1.05, 1.6) * ramp(late, 0.1, 0.4) * ordinary
    text = (
        f"the validation loss is {last:.4g}, {gap:.1f} times the training loss, and {rise:.2f} times its best:"
        " the model learns its rows by heart"
    )
    figures = {"validation_over_train": gap, "validation_over_best": rise, "share_of_run": late}
    return Evidence("regularization", score, text, REMEDY, figures)
