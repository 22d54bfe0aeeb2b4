"""The gate's rules: from what the detector saw to a verdict with reasons."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.detection import SpikeFindings
from spikeguard.components.training_curve import TrainingCurve

Verdict = Literal["stable", "unstable", "diverged", "insufficient"]


@dataclasses.dataclass(frozen=True)
class SpikePolicy:
    """What a curve may do and still be pushed.

    The defaults let one small, early, recovered spike pass. They block a spike in the last fifth of the run, one that
    the run did not recover from, a very high or a frequent one, and a run that ends far above its best level.

    Raises:
      InvalidArgumentError: a field is outside its range.
    """

    min_points: int = 50
    """Fewest steps that can be judged; fewer are `insufficient`. >= 5."""
    max_height: float = 30.0
    """Largest tolerated spike, in robust standard deviations of the step noise."""
    max_spikes_per_1000_steps: float = 3.0
    """Most recovered spikes tolerated; one is always tolerated."""
    max_unrecovered: int = 0
    """Most spikes tolerated from which the loss did not come back."""
    calm_tail: float = 0.2
    """Share of the run, at its end, that must be free of spikes; in [0, 1]."""
    max_final_over_best: float = 1.5
    """Largest tolerated ratio of the final level to the best level, where both are positive and the difference exceeds the noise; > 1."""

    max_start_over_first: float = 10.0
    """Largest tolerated ratio of the peak while the loss settles to the very first loss; > 1. Learning lowers the loss:
    a start that multiplies it is a learning rate too high or features too large."""

    def __post_init__(self) -> None:
        if self.min_points < 5:
            raise InvalidArgumentError("min_points", self.min_points, "be at least 5")
        if not 0 <= self.calm_tail <= 1:
            raise InvalidArgumentError("calm_tail", self.calm_tail, "lie between 0 and 1")
        for name in ("max_final_over_best", "max_start_over_first"):
            if not getattr(self, name) > 1:
                raise InvalidArgumentError(name, getattr(self, name), "be above 1")
        for name in ("max_height", "max_spikes_per_1000_steps", "max_unrecovered"):
            if not getattr(self, name) >= 0:
                raise InvalidArgumentError(name, getattr(self, name), "be at least 0")


def judge(curve: TrainingCurve, findings: SpikeFindings, policy: SpikePolicy) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on a curve and the reasons for it, most serious first.

    Args:
      curve: the curve that `findings` describe.
      findings: what `detect_spikes` returned.
      policy: the rules.

    Returns:
      The verdict, and one sentence per broken rule. A stable curve has no reasons.
    """
    if findings.non_finite_steps:
        first = findings.non_finite_steps[0]
        return "diverged", (
            f"the loss was not finite at {len(findings.non_finite_steps)} steps, first at step {first}",
        )
    if findings.points < policy.min_points:
        return "insufficient", (
            f"the curve has {findings.points} points; {policy.min_points} are needed for a verdict",
        )
    reasons = [
        *_start_reasons(curve, findings, policy),
        *_level_reasons(findings, policy),
        *_spike_reasons(curve, findings, policy),
    ]
    return ("unstable", tuple(reasons)) if reasons else ("stable", ())


def _start_reasons(curve: TrainingCurve, findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    if not findings.transient_points:
        return []
    # Only reached where every loss is finite, so points and steps of the curve agree.
    first, peak = curve.loss[0], int(np.argmax(curve.loss[: findings.transient_points]))
    top = curve.loss[peak]
    has_exploded = (
        first > 0 and top > policy.max_start_over_first * first and top - first > policy.max_height * findings.noise
    )
    return (
        [f"the loss rose from {first:.4g} to {top:.4g} at step {curve.step[peak]} before it settled"]
        if has_exploded
        else []
    )


def _level_reasons(findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    best, final = findings.best_loss, findings.final_loss
    has_risen = best > 0 and final > policy.max_final_over_best * best and final - best > 3.0 * findings.noise
    return (
        [f"the loss ended at {final:.4g}, {final / best:.1f} times its best level of {best:.4g}"] if has_risen else []
    )


def _spike_reasons(curve: TrainingCurve, findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    spikes = findings.spikes
    if not spikes:
        return []
    reasons = []
    unrecovered = [spike for spike in spikes if not spike.recovered]
    if len(unrecovered) > policy.max_unrecovered:
        reasons.append(
            f"the loss did not recover from {_count(len(unrecovered))}, first at step {unrecovered[0].peak_step}"
        )
    first, last = int(curve.step[0]), int(curve.step[-1])
    tail_start = last - policy.calm_tail * (last - first)
    in_tail = [spike for spike in spikes if spike.end_step > tail_start]
    if in_tail:
        reasons.append(
            f"{_count(len(in_tail))} in the last {policy.calm_tail:.0%} of the run, the last at step {in_tail[-1].peak_step}"
        )
    highest = max(spikes, key=lambda spike: spike.height)
    if highest.height > policy.max_height:
        reasons.append(
            f"the spike at step {highest.peak_step} reached {highest.loss_at_peak:.4g} where {highest.expected_loss:.4g} was"
            f" expected ({highest.height:.0f} standard deviations; {policy.max_height:g} are tolerated)"
        )
    if len(spikes) > max(1.0, policy.max_spikes_per_1000_steps * findings.points / 1000):
        reasons.append(
            f"{_count(len(spikes))} in {findings.points} steps; {policy.max_spikes_per_1000_steps:g} per 1,000 are tolerated"
        )
    return reasons


def _count(spikes: int) -> str:
    return f"{spikes} spike" if spikes == 1 else f"{spikes} spikes"
