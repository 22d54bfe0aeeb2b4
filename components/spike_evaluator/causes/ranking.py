"""Ranks the causes of each spike: each cause's own evidence, weighed against the others', and what the replay says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.causes import (
    batch_size,
    imbalance,
    learning_rate,
    normalization,
    numerics,
    outliers,
    regularization,
)
from spikeguard.components.spike_evaluator.causes.course import course_of
from spikeguard.components.spike_evaluator.causes.evidence import LIKELY, Cause, Evidence, Remedy, Row, Status
from spikeguard.components.spike_evaluator.causes.replays import belongs_to, short_losses
from spikeguard.components.spike_evaluator.causes.surroundings import REMAINS, REMOVED, Surroundings, in_vain
from spikeguard.components.spike_evaluator.detection import Spike, SpikeFindings
from spikeguard.components.training_curve import TrainingCurve

# Faults of the data come before those of the training where both are as likely: with the first mended, the second may go.
_TESTS: tuple[Callable[[Surroundings], Evidence | None], ...] = (
    numerics.evidence,
    outliers.evidence,
    normalization.evidence,
    imbalance.evidence,
    batch_size.evidence,
    learning_rate.evidence,
    regularization.evidence,
)
# Evidence below this is not told of.
_LEAST = 0.05
# Evidence that a replay can prove.
_LEAST_TO_VERIFY = 0.3
# What is left of the score of a cause whose remedy was replayed in vain.
_REFUTED = 0.35
# Steps after a spike in which another may be its aftermath, and what its verified cause then gains, at most up to which score.
_COMPANY, _RAISED_BY, _MOST_RAISED = 64, 0.25, 0.95
# Multiple of the loss that was expected before a spike from which on the level after it tells that the weights are ruined,
# and what is left of the score of its cause.
_RUINED, ON_THE_WAY = 10.0, 0.9
# Faults of the data; the others are settings of the training.
_STRUCTURAL: tuple[Cause, ...] = ("numerics", "outliers", "normalization", "imbalance")
# Spikes of one run whose causes are sought, the highest.
_MOST_SPIKES = 200


@dataclasses.dataclass(frozen=True)
class RankedCause:
    """One possible cause of a spike."""

    cause: Cause
    status: Status
    """`verified`: evidence, and a replay without the cause had no spike; `likely`: evidence alone; `unknown`: too little."""
    score: float
    """In [0, 1]; from 0.5 on the cause is likely."""
    text: str
    remedy: Remedy
    evidence: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Figures by name."""
    rows: tuple[Row, ...] = ()
    replay: Mapping[str, Any] | None = None
    """What became of the spike with this cause taken away; None where that was not replayed."""


def causes_of(
    curve: TrainingCurve,
    findings: SpikeFindings,
    replays: Sequence[Mapping[str, Any]] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[RankedCause, ...], ...]:
    """The causes of each spike, the most likely first.

    Args:
      curve: the run.
      findings: its spikes.
      replays: what was replayed, as `replays.read_replays` gives it.
      tables: JSON tables of data components, by the name of their file.

    Returns:
      For each spike, in order, at least one cause; `unknown` leads where nothing is likely.

    >>> from spikeguard.components.spike_evaluator.detection import detect_spikes
    >>> loss = [1.0, 1.1, 0.9, 1.0] * 20
    >>> loss[50] = 9.0
    >>> rates = [0.1] * 49 + [0.5] * 31
    >>> curve = TrainingCurve.from_columns(loss=loss, learning_rate=rates)
    >>> causes_of(curve, detect_spikes(curve))[0][0].text
    'the learning rate rose from 0.1 to 0.5 at step 50'
    """
    highest = sorted(findings.spikes, key=lambda spike: -spike.height)[:_MOST_SPIKES]
    wanted = {id(spike) for spike in highest}
    ranked = [
        rank(Surroundings(curve, findings, spike, _figured(replay_of(spike, replays)), tables))
        if id(spike) in wanted
        else ()
        for spike in findings.spikes
    ]
    return tuple(_in_company(curve, findings.spikes, ranked, place) for place in range(len(ranked)))


def _in_company(
    curve: TrainingCurve, spikes: Sequence[Spike], ranked: Sequence[tuple[RankedCause, ...]], place: int
) -> tuple[RankedCause, ...]:
    """The causes of a spike that is not the first of its run.

    One out of a level that an earlier spike has left far above its own is that one's aftermath, whatever set it off: its cause
    leads. Shortly after one, what is verified for it gains weight.
    """
    own, spike = ranked[place], spikes[place]
    for other in range(place):
        first = next(iter(ranked[other]), None)
        if first and first.status != "unknown" and _is_ruined(curve, spikes[other], spike):
            text = f"the loss has not come back from the spike of step {spikes[other].peak_step:,}: {first.text}"
            root = dataclasses.replace(
                first, status="likely", score=max(LIKELY, ON_THE_WAY * first.score), text=text, replay=None
            )
            return (root, *(one for one in own if one.cause not in (root.cause, "unknown")))
    if any(one.status == "verified" for one in own):
        return own
    verified = {
        one.cause: spikes[other].peak_step
        for other in range(place)
        if spike.start_step - spikes[other].end_step <= _COMPANY
        for one in ranked[other]
        if one.status == "verified"
    }
    raised = [
        dataclasses.replace(
            one,
            score=min(_MOST_RAISED, one.score + _RAISED_BY),
            text=f"{one.text}; it is verified for the spike of step {verified[one.cause]:,}",
        )
        if one.cause in verified and one.score >= _LEAST_TO_VERIFY
        else one
        for one in own
        if one.cause != "unknown"
    ]
    if not any(one.cause in verified for one in raised):
        return own
    found = [with_status(one) for one in sorted(raised, key=lambda one: -round(one.score, 2))]
    return tuple(found) if found[0].status != "unknown" else own


def _is_ruined(curve: TrainingCurve, earlier: Spike, spike: Spike) -> bool:
    """Whether the loss was never near its old level between two spikes."""
    between = curve.loss[(curve.step > earlier.peak_step) & (curve.step < spike.start_step)]
    between = between[np.isfinite(between)]
    return bool(len(between) and earlier.expected_loss > 0 and between.min() > _RUINED * earlier.expected_loss)


def course_causes(
    curve: TrainingCurve,
    findings: SpikeFindings,
    replays: Sequence[Mapping[str, Any]] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Spike, tuple[RankedCause, ...]] | None:
    """The same for a run that diverged, or rose at the start, without a spike that tells of it; None for any other."""
    course = course_of(curve, findings)
    if course is None:
        return None
    return course, rank(Surroundings(curve, findings, course, _figured(replay_of(course, replays)), tables))


def replay_of(spike: Spike, replays: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The replay that belongs to a spike: of those whose high steps overlap with it, the one that begins nearest.

    One that was left out comes after all that were replayed.
    """
    inside = [one for one in replays if belongs_to(spike, one["first_step"], one["step"])]
    nearest = sorted(inside, key=lambda one: (_figured(one) is None, abs(one["first_step"] - spike.start_step)))
    return nearest[0] if nearest else None


def _figured(replay: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The replay, unless it was left out: then it has a reason and no figures."""
    return replay if replay and "figures" in replay else None


def rank(around: Surroundings) -> tuple[RankedCause, ...]:
    """The causes of one spike."""
    found = [evidence for test in _TESTS if (evidence := test(around)) is not None and evidence.score >= _LEAST]
    ranked = [judged(evidence, around.replay) for evidence in found]
    # A lower rate calms any step, and more rows dilute any row: with a cause in the data verified, they verify nothing. But a
    # rate that has risen is a fault that can be seen, too.
    if any(one.status == "verified" and learning_rate.is_seen(one.evidence) for one in ranked):
        # Rows with nothing unusual about them but their loss are of the data's own tail: what makes them ruin the weights is the rate.
        ranked = [
            dataclasses.replace(one, status="likely") if one.evidence.get("distance", math.inf) <= 1.0 else one
            for one in ranked
        ]
    is_structural = any(one.status == "verified" and one.cause in _STRUCTURAL for one in ranked)
    if is_structural:
        ranked = [
            dataclasses.replace(one, status="likely", score=0.5 * one.score)
            if one.status == "verified" and one.cause not in _STRUCTURAL and not learning_rate.is_seen(one.evidence)
            else one
            for one in ranked
        ]
    # Sorting is stable: of equals, the first of `_TESTS` leads.
    ranked.sort(key=lambda one: (one.status != "verified", -round(one.score, 2)))
    ranked = [with_status(one) for one in ranked]
    if not ranked or ranked[0].status == "unknown":
        ranked.insert(0, _unknown(around, ranked))
    return tuple(ranked)


def judged(evidence: Evidence, replay: Mapping[str, Any] | None) -> RankedCause:
    """The evidence with what the replay without this cause says, where there was one."""
    changes = [change for change in (replay or {}).get("changes", ()) if change["cause"] == evidence.cause]
    status: Status = "likely"
    score, text = evidence.score, evidence.text
    best = min(changes, key=lambda change: change["left"], default=None)
    if best is not None and replay is not None:
        if best["left"] <= REMOVED:
            # The replay proves what the evidence has pointed at: without any, a change may help by chance.
            if score >= _LEAST_TO_VERIFY:
                status, score = "verified", max(score, 0.6)
        else:
            score *= 1.0 - (1.0 - _REFUTED) * in_vain(best, replay)
        text += f". {_replayed(best, replay)}"
        best = {**best, "losses": short_losses(best.get("losses"))}
    return RankedCause(
        evidence.cause, status, score, text, evidence.remedy, dict(evidence.figures), evidence.rows, best
    )


def _replayed(change: Mapping[str, Any], replay: Mapping[str, Any]) -> str:
    verb = "lowers" if change["left"] <= REMOVED else "changes" if change["left"] <= REMAINS else "leaves"
    peaks = f"the peak from {replay['peak']:.4g} to {change['peak']:.4g} (expected {replay['expected']:.4g})"
    return f"{change['text']} and replaying from step {replay['state_step']} {verb} {peaks}"


def with_status(one: RankedCause) -> RankedCause:
    """The cause with the status that its score has; a verified one stays so."""
    if one.status == "verified":
        return one
    return dataclasses.replace(one, status="likely" if one.score >= LIKELY else "unknown")


def _unknown(around: Surroundings, others: Sequence[RankedCause]) -> RankedCause:
    curve = around.curve
    missing = [
        name
        for name, is_missing in (
            ("the worst rows", not curve.worst_loss.shape[1]),
            ("the size of the inputs", not (curve.largest_input[around.suspects] >= 0).any()),
            ("the learning rate", not (curve.learning_rate[around.suspects] >= 0).any()),
        )
        if is_missing
    ]
    text = "no cause stands out"
    if missing:
        text += f"; the log lacks {', '.join(missing)}"
    if others:
        text += f"; the most likely is {others[0].cause.replace('_', ' ')}: {others[0].text}"
    remedy = "Train with CurveRecorder(replay=True), which keeps what the tests of the causes need."
    return RankedCause("unknown", "unknown", max(0.0, 0.5 - (others[0].score if others else 0.0)), text, Remedy(remedy))
