"""Numerics: values that are not finite, in the inputs, the loss or the gradients."""

from __future__ import annotations

import numpy as np

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

# `GuardAction.NON_FINITE_LOSS` and `NON_FINITE_GRADIENT`; importing that module would import TensorFlow's own.
_NON_FINITE = 16 | 32


def evidence(around: Surroundings) -> Evidence | None:
    """Inputs, losses or gradients that are not finite shortly before the spike."""
    curve, places = around.curve, around.suspects
    has_norms = np.isfinite(curve.gradient_norm).any()
    is_bad = ~np.isfinite(curve.loss[places]) | (curve.guard_action[places] & _NON_FINITE > 0)
    if has_norms:
        is_bad |= ~np.isfinite(curve.gradient_norm[places])
    if np.isfinite(curve.largest_input).any():
        is_bad |= ~np.isfinite(curve.largest_input[places])
    if not is_bad.any():
        return None
    step = int(curve.step[places[int(np.argmax(is_bad))]])
    remedy = Remedy(
        "Fill or drop values that are not finite, and keep the guard on, which skips such steps.", {"is_guarded": True}
    )
    text = f"inputs, loss or gradients were not finite at step {step}"
    return Evidence("numerics", 0.9, text, remedy, {"step": float(step)})
