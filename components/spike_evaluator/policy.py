"""The gate's rules: from what the detector saw to a verdict with reasons."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import numpy as np

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.spike_evaluator.detection import Spike, SpikeFindings
from spikeguard.components.training_curve import TrainingCurve

Verdict = Literal["stable", "unstable", "diverged", "insufficient"]


@dataclasses.dataclass(frozen=True)
class SpikePolicy:
    """What a curve may do and still be pushed.

    The defaults let one small, early, recovered spike pass. They block a spike in the last fifth of the run, one that
    the run did not recover from, a very high or a frequent one, and a run that ends far above its best level. Progress
    is what a run has learned: its level when it had settled less its best level.

    Raises:
      InvalidArgumentError: a field is outside its range.
    """

    min_points: int = 20
    """Fewest steps or epochs that can be judged; fewer are `insufficient`. >= 5."""
    least_setback: float = 0.01
    """Spikes that undo less than this share of the progress are reported and not judged; >= 0."""
    max_height: float = 30.0
    """Largest tolerated spike, in robust standard deviations of the noise; what exceeds it must also exceed `max_setback`."""
    max_setback: float = 0.25
    """Largest share of the progress that a spike may undo; what exceeds it must also exceed `max_height`. >= 0."""
    max_spikes_per_1000_steps: float = 3.0
    """Most recovered spikes tolerated; one is always tolerated."""
    max_unrecovered: int = 0
    """Most spikes tolerated from which the loss did not come back."""
    max_validation_spikes: int = 1
    """Most spikes tolerated in the validation loss, where that was recorded; >= 0."""
    calm_tail: float = 0.2
    """Share of the run, at its end, that must be free of spikes; in [0, 1]."""
    max_final_over_best: float = 1.5
    """Largest tolerated ratio of the final level to the best level, where both are positive and the difference exceeds the
    noise and what the run has come back from before; > 1."""
    max_start_over_first: float = 10.0
    """Largest tolerated ratio of the peak while the loss settles to the very first loss; > 1. Learning lowers the loss:
    a start that multiplies it is a learning rate too high or features too large."""
    max_final_over_baseline: float = 1.2
    """Largest tolerated ratio of the final level to that of the baseline run, where one is given, both are positive and
    the difference exceeds the noise; > 1."""

    def __post_init__(self) -> None:
        if not self.min_points >= 5:
            raise InvalidArgumentError("min_points", self.min_points, "be at least 5")
        if not 0 <= self.calm_tail <= 1:
            raise InvalidArgumentError("calm_tail", self.calm_tail, "lie between 0 and 1")
        for name in ("max_final_over_best", "max_start_over_first", "max_final_over_baseline"):
            if not getattr(self, name) > 1:
                raise InvalidArgumentError(name, getattr(self, name), "be above 1")
        names = ("least_setback", "max_height", "max_setback", "max_spikes_per_1000_steps", "max_unrecovered")
        for name in (*names, "max_validation_spikes"):
            if not getattr(self, name) >= 0:
                raise InvalidArgumentError(name, getattr(self, name), "be at least 0")

    @classmethod
    def from_json(cls, text: str) -> SpikePolicy:
        """Reads a policy from a JSON object of its fields; what it does not name keeps its default.

        Raises:
          InvalidArgumentError: no JSON object, a field that does not exist, no number or one out of range.

        >>> SpikePolicy.from_json('{"calm_tail": 0.3}').calm_tail
        0.3
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise InvalidArgumentError("policy", text[:40], f"be JSON ({error})") from error
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, dict):
            raise InvalidArgumentError("policy", text[:40], 'be a JSON object, such as {"calm_tail": 0.3}')
        for name, value in fields.items():
            if name not in known:
                raise InvalidArgumentError("policy", name, "have no other fields", f"Known are {', '.join(known)}.")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidArgumentError(name, value, "be a number")
        return cls(**fields)


def judge(
    curve: TrainingCurve,
    findings: SpikeFindings,
    policy: SpikePolicy,
    validation: SpikeFindings | None = None,
    baseline: SpikeFindings | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on a curve and the reasons for it, most serious first.

    Args:
      curve: the curve that `findings` describe.
      findings: what `detect_spikes` returned.
      policy: the rules.
      validation: what it returned for the validation losses; None where there are too few.
      baseline: what it returned for the run to compare with; None for no comparison.

    Returns:
      The verdict, and one sentence per broken rule. A stable curve has no reasons.
    """
    lasting = findings.points - findings.superseded_points
    if len(findings.non_finite_steps) == lasting and lasting:
        return "insufficient", ("no loss of the curve is finite",)
    if findings.non_finite_steps:
        return "diverged", (_non_finite(findings.non_finite_steps, curve.kind),)
    if lasting < policy.min_points:
        few = f"the curve has {lasting} points; {policy.min_points} are needed for a verdict"
        # Keras' TensorBoard callback logs epochs by default.
        return "insufficient", (few if curve.kind == "step" else f"{few}: log the loss by batch, not by epoch",)
    reasons = [
        *_start_reasons(curve, findings, policy),
        *_level_reasons(findings, policy),
        *_spike_reasons(curve, findings, policy),
        *_validation_reasons(validation, policy),
        *_baseline_reasons(findings, baseline, policy),
    ]
    if curve.is_cut and not reasons:
        return "insufficient", ("the log breaks off in the middle of a record: the end of the run is unknown",)
    has_diverged = findings.diverged_from is not None and findings.final_loss >= findings.first_loss
    return ("diverged" if has_diverged else "unstable" if reasons else "stable"), tuple(reasons)


def _non_finite(steps: tuple[int, ...], kind: str) -> str:
    unit = kind if len(steps) == 1 else f"{kind}s"
    return f"the loss was not finite at {len(steps)} {unit}, first at {kind} {steps[0]}"


def _start_reasons(curve: TrainingCurve, findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    if not findings.transient_points:
        return []
    # Only reached where every lasting loss is finite.
    lasting = np.flatnonzero(np.isfinite(findings.expected_loss))
    start = curve.loss[lasting[: findings.transient_points]]
    peak = int(np.argmax(start))
    first, top = start[0], start[peak]
    is_high = top - first > policy.max_height * findings.noise
    if not (first > 0 and top > policy.max_start_over_first * first and is_high):
        return []
    return [
        f"the loss rose from {first:.4g} to {top:.4g} at {curve.kind} {curve.step[lasting[peak]]} before it settled"
    ]


def _level_reasons(findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    best, final = findings.best_loss, findings.final_loss
    is_usual = final - best <= max(3.0 * findings.noise, 1.5 * findings.wander)
    if best > 0 and final > policy.max_final_over_best * best and not is_usual:
        return [f"the loss ended at {final:.4g}, {final / best:.1f} times its best level of {best:.4g}"]
    if findings.diverged_from is not None:
        return [
            f"the loss rose from its best level of {best:.4g} after step {findings.diverged_from} and ended at {final:.4g}"
        ]
    return []


def _spike_reasons(curve: TrainingCurve, findings: SpikeFindings, policy: SpikePolicy) -> list[str]:
    progress = max(0.0, findings.first_loss - findings.best_loss)

    def setback(spike: Spike) -> float:
        return (spike.loss_at_peak - spike.expected_loss) / progress if progress else float("inf")

    spikes = [spike for spike in findings.spikes if setback(spike) >= policy.least_setback]
    if not spikes:
        return []
    reasons, unit = [], curve.kind
    unrecovered = [spike for spike in spikes if not spike.recovered]
    if len(unrecovered) > policy.max_unrecovered:
        reasons.append(
            f"the loss did not recover from {_count(len(unrecovered))}, first at {unit} {unrecovered[0].peak_step}"
        )
    first, last = int(np.min(curve.step)), int(curve.step[-1])
    tail_start = last - policy.calm_tail * (last - first)
    in_tail = [spike for spike in spikes if spike.end_step > tail_start]
    if in_tail:
        reasons.append(
            f"{_count(len(in_tail))} in the last {policy.calm_tail:.0%} of the run, the last at {unit} {in_tail[-1].peak_step}"
        )
    high = [spike for spike in spikes if spike.height > policy.max_height and setback(spike) > policy.max_setback]
    if high:
        highest = max(high, key=setback)
        reasons.append(
            f"the spike at {unit} {highest.peak_step} reached {highest.loss_at_peak:.4g} where {highest.expected_loss:.4g} was"
            f" expected ({highest.height:,.0f} standard deviations; {policy.max_height:g} are tolerated)"
        )
    if len(spikes) > max(1.0, policy.max_spikes_per_1000_steps * findings.points / 1000):
        reasons.append(
            f"{_count(len(spikes))} in {findings.points} {unit}s; {policy.max_spikes_per_1000_steps:g} per 1,000 are tolerated"
        )
    return reasons


def _validation_reasons(validation: SpikeFindings | None, policy: SpikePolicy) -> list[str]:
    if validation is None:
        return []
    if validation.non_finite_steps:
        return [f"the validation loss was not finite after step {validation.non_finite_steps[0]}"]
    if len(validation.spikes) <= policy.max_validation_spikes:
        return []
    return [
        f"{_count(len(validation.spikes))} in the validation loss, first at step {validation.spikes[0].peak_step};"
        f" {policy.max_validation_spikes} tolerated"
    ]


def _baseline_reasons(findings: SpikeFindings, baseline: SpikeFindings | None, policy: SpikePolicy) -> list[str]:
    if baseline is None:
        return []
    level, final = baseline.final_loss, findings.final_loss
    if not level > 0 or final <= policy.max_final_over_baseline * level or final - level <= 3.0 * findings.noise:
        return []
    return [f"the loss ended at {final:.4g}, {final / level:.1f} times the {level:.4g} of the baseline run"]


def _count(spikes: int) -> str:
    return f"{spikes} spike" if spikes == 1 else f"{spikes} spikes"
