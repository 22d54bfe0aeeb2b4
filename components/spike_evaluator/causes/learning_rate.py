"""Learning rate: it jumped, or steps are so large that ordinary batches lead the weights away."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, either, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

# Ratios of learning rates from which on one is a jump from a step to the next, and a growth over many.
JUMP, GROWTH = 1.5, 2.5


def evidence(around: Surroundings) -> Evidence | None:
    """The learning rate's jump before the spike; else how much each step changes the weights, where no batch is special."""
    curve = around.curve
    jump, place = around.rate_jump
    rate = float(curve.learning_rate[around.start])
    figures = {"learning_rate": rate, "rate_over_before": jump}
    # A batch whose rows, classes or inputs are special is the simpler explanation.
    lift = around.lift(curve.largest_input)[0]
    ordinary = (1.0 - around.few_rows) * (1.0 - around.odd_composition) * (1.0 - ramp(lift, 1.2, 4.0))
    # Raw inputs make any rate too high.
    ordinary *= 1.0 - 0.4 * ramp(around.usual(curve.largest_input), 15.0, 200.0)
    if around.oddity >= 0:
        ordinary = (1.0 - around.oddity) * (0.6 if around.figure("raw_columns") > 0 else 1.0)
    if around.replay:
        figures |= {"batch_effect": around.replay["batch_effect"], "weight_effect": around.replay["weight_effect"]}
        if around.replay["weight_effect"] < 0.3 <= around.replay["batch_effect"]:
            ordinary *= 0.3  # The batch is as high with the weights from before.
    over = around.figure("curvature_over_limit")
    stable = ""
    if over > 0:
        figures["curvature_over_limit"] = over
        stable = (
            f"; the largest curvature is {around.figure('curvature'):.3g} where steps at this rate bear"
            f" {around.figure('stability_limit'):.3g}"
        )
    growth = figures["rate_over_calm"] = around.rate_growth
    if jump > JUMP or growth > GROWTH:
        lasting = 0.8 if around.is_brief else 1.0
        few = ordinary if around.oddity >= 0 else 1.0 - around.known_few_rows * (1.0 - around.led_by_weights)
        sign = ramp(jump, JUMP, 10.0) if jump > JUMP else ramp(growth, GROWTH, 10.0) - 0.1
        before = float(curve.learning_rate[place - 1]) if jump > JUMP else rate / growth
        text = (
            f"the learning rate rose from {before:.3g} to {curve.learning_rate[place]:.3g} at step {curve.step[place]}"
            if jump > JUMP
            else f"the learning rate has grown to {growth:.1f} times the {before:.3g} of the calm steps before"
        )
        score = (0.55 + 0.4 * sign) * lasting * max(0.4, few)
        return Evidence("learning_rate", score, text + stable, lower_rate(before), figures)
    ratios = curve.update_ratio[around.suspects]
    update = float(max(ratios, default=float("nan")))
    usual = around.usual(curve.update_ratio)
    figures |= {"update_ratio": update, "usual_update_ratio": usual}
    # One high batch speaks for its rows, unless the replay tells that it is not high with the weights from before.
    is_brief = around.is_brief and not (
        around.replay and (around.replay["weight_effect"] >= 0.5 or around.replay["batch_effect"] < 0.3)
    )
    score = ordinary * (0.25 if is_brief else 0.55)
    text = (
        "no batch is special, and the loss stayed up for several steps"
        if not around.is_brief
        else "no batch is special"
    )
    if not math.isnan(update):
        score *= 0.6 + 0.4 * max(ramp(update, 1e-3, 1e-1), ramp(usual, 1e-3, 3e-2))
        score += ordinary * (0.0 if is_brief else 0.25) * ramp(max(update, usual), 1e-2, 1e-1)
        text += f"; a step changes the weights by {update:.2%} of their norm (usually {usual:.2%})"
    if over > 0:
        # Below the limit steps do not grow by themselves, above they do.
        score = either(score, 0.5 * ordinary * ramp(over, 0.8, 2.0)) * (1.0 if over > 0.3 else 0.8)
    lower = rate / max(3.0, 1.5 * over if over > 0 else 0.0) if rate > 0 else None
    return Evidence("learning_rate", score, text + stable, lower_rate(lower), figures)


def is_seen(figures: Mapping[str, float]) -> bool:
    """Whether evidence shows the rate to have risen, in a jump or over many steps, before a batch that is not high by itself."""
    has_risen = figures.get("rate_over_before", 0.0) > JUMP or figures.get("rate_over_calm", 0.0) > GROWTH
    return has_risen and figures.get("batch_effect", 0.0) < 0.5


def lower_rate(rate: float | None) -> Remedy:
    """The remedy: a rate, or a third of what it was where none is known."""
    if rate is None or not rate > 0 or not math.isfinite(rate):
        return Remedy(
            "Lower the learning rate to a third, warm up and decay.",
            {"schedule": "cosine"},
            flags=("--recipe", "guarded"),
        )
    rate = float(f"{rate:.2g}")
    return Remedy(
        f"Set the peak learning rate to {rate:g}, warm up and decay.",
        {"learning_rate": rate, "schedule": "cosine", "is_guarded": True},
        flags=("--recipe", "guarded"),
    )
