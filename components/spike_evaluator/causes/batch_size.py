"""Batch size: ordinary rows, but so few that their mean strays."""

from __future__ import annotations

import math

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

# Rows of a batch whose mean strays hardly, and much; from a short last batch on, its share of the usual rows.
MANY, FEW, SHORT = 48.0, 4.0, 0.75


def evidence(around: Surroundings) -> Evidence | None:
    """Rows of the batch against the usual number, or few rows in all batches, where none of them is beyond the others."""
    sizes = around.curve.batch_size
    usual = around.usual(sizes)
    if not usual > 0:
        return None
    place = min(around.suspects.tolist(), key=lambda one: int(sizes[one]))
    size = int(sizes[place])
    figures = {"batch_size": float(size), "usual_batch_size": usual, "loss_noise": around.findings.noise}
    beyond = _beyond(around)
    ordinary = (1.0 - 0.8 * beyond) * (1.0 - around.odd_composition)
    chance, oddity = around.figure("sampling_chance"), around.oddity
    if oddity >= 0:
        ordinary = 1.0 - 0.8 * oddity
        figures["chance_of_as_high_a_mean"] = chance
        if around.replay and around.replay["batch_effect"] >= 0.5 and chance >= 0:
            # A mean that as many ordinary rows hardly ever have is not theirs.
            ordinary *= 0.4 + 0.6 * ramp(chance, 1e-4, 1e-2)
    if size < SHORT * usual:
        score = (0.5 + 0.45 * ramp(usual / size, 1.5, 8.0)) * ordinary
        text = f"the batch of step {around.curve.step[place]} has {size} rows, not {usual:.0f}"
        remedy = Remedy("Drop the short last batch.", {"keep_short_batch": False}, flags=("--recipe", "guarded"))
        return Evidence("batch_size", score, text, remedy, figures)
    score = 0.7 * ramp(usual, MANY, FEW) * ordinary
    noise = around.figure("noise_scale")
    if noise >= 0:
        figures["noise_scale"] = noise
        # Gradients of more rows than their noise scale are hardly noisy.
        score *= 0.5 + 0.5 * ramp(noise / usual, 0.5, 3.0)
    text = f"batches have {usual:.0f} rows, and none of those at the spike is beyond what others have"
    if beyond > 0.3:
        text = f"batches have {usual:.0f} rows"
    if noise > usual:
        text += f"; the noise scale of the gradient is {noise:.3g} rows"
    return Evidence("batch_size", score, text, larger_batches(usual), figures)


def larger_batches(rows: float) -> Remedy:
    """The remedy, from the usual rows of a batch."""
    larger = int(max(64, 8 * rows))
    return Remedy(f"Set the batch size to {larger}.", {"batch_size": larger})


def _beyond(around: Surroundings) -> float:
    """Whether a row is beyond all of calm steps, by its loss or input, in [0, 1]."""
    losses = around.curve.worst_loss
    highest = around.top(losses[:, 0]) if losses.shape[1] else math.nan
    ratio = float(losses[around.concentration[2], 0] / highest) if highest > 0 else math.nan
    return max(ramp(ratio, 1.5, 6.0), ramp(around.lift(around.curve.largest_input)[0], 1.3, 4.0))
