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
    place = int(places[int(np.argmax(is_bad))])
    step = int(curve.step[place])
    # A loss that rose before it overflowed is no fault of the numbers.
    has_risen = place > around.start or curve.loss[place] > around.spike.expected_loss + 0.5 * around.rise
    has_risen |= around.led_by_weights > 0.5
    is_input = np.isfinite(curve.largest_input).any() and not np.isfinite(curve.largest_input[places]).all()
    score = 0.95 if is_input else 0.15 if has_risen else 0.6
    remedy = Remedy(
        "Fill or drop values that are not finite, and keep the guard on, which skips such steps.", {"is_guarded": True}
    )
    text = f"{'inputs' if is_input else 'loss or gradients'} were not finite at step {step}"
    return Evidence("numerics", score, text, remedy, {"step": float(step)})
