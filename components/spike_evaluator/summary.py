"""One curve's evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikeguard.components.spike_evaluator.causes.ranking import RankedCause
from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.spike_evaluator.plot import terminal_plot
from spikeguard.components.spike_evaluator.result import Evaluation

# Score from which a further cause is told of.
_TOLD = 0.3
# Spikes that the text lists; the JSON and the report have all.
_LISTED = 10
_MEANING = {"batch": "losses of single batches", "running_mean": "running means, undone", "epoch_mean": "epoch means"}


def summary(evaluation: Evaluation, name: str, columns: int = 72) -> str:
    """A short answer for a terminal: verdict, reasons, plot, spikes.

    Args:
      evaluation: what to tell.
      name: of the curve, as the user gave it.
      columns: width of the plot in characters.
    """
    lines = [f"{evaluation.verdict}: {name}" + (f", run {evaluation.run}" if evaluation.run else "")]
    lines += [f"  - {reason}" for reason in evaluation.reasons]
    if len(evaluation.runs) > 1:
        lines.append("  runs: " + ", ".join(f"{run or name} {verdict}" for run, verdict in evaluation.runs))
    drawing = terminal_plot(evaluation, columns)
    lines += ["", drawing, ""] if drawing else []
    return "\n".join([*lines, *(f"  {line}" for line in _details(evaluation))])


def _details(evaluation: Evaluation) -> list[str]:
    if evaluation.findings is None or evaluation.curve is None:
        return []
    spikes, kind = evaluation.explained_spikes, evaluation.curve.kind
    # The highest are told of, in the order of their steps.
    told = list(zip(spikes, evaluation.spike_replays, strict=True))
    listed = sorted(sorted(told, key=lambda one: -one[0][0].height)[:_LISTED], key=lambda one: one[0][0].start_step)
    lines = []
    for (spike, causes), replay in listed:
        lines.append(_sentence(spike, kind))
        lines += [f"  {line}" for line in [*cause_lines(causes), *_replay_lines(replay)]]
    if len(spikes) > _LISTED:
        lines.append(f"and {len(spikes) - _LISTED} lower spikes")
    if evaluation.course is not None:
        start, causes = evaluation.course
        rose = f"{kind} {start.peak_step}: {start.loss_at_peak:.4g} before the loss settled"
        lines.append(rose if start.recovered else f"from {kind} {start.start_step} on the loss diverged")
        lines += [f"  {line}" for line in [*cause_lines(causes), *_replay_lines(evaluation.course_replay)]]
    return lines + _facts(evaluation)


def _sentence(spike: Spike, kind: str) -> str:
    return (
        f"{kind} {spike.peak_step}: {spike.loss_at_peak:.4g} where {spike.expected_loss:.4g} was expected"
        f" ({spike.height:,.0f} standard deviations), {'recovered' if spike.recovered else 'not recovered'}"
    )


def cause_lines(causes: Sequence[RankedCause]) -> list[str]:
    """The first cause of a spike and its remedy, in sentences; empty where no cause was sought."""
    if not causes:
        return []
    first = causes[0]
    name = first.cause.replace("_", " ")
    verdict = {"verified": f"Verified: {name}.", "likely": f"Likely: {name}.", "unknown": "Cause unknown."}
    text = f"{first.text[:1].upper()}{first.text[1:]}. {verdict[first.status]} {first.remedy.text}"
    others = [f"{one.cause.replace('_', ' ')} ({one.score:.2f})" for one in causes[1:3] if one.score >= _TOLD]
    return [text, *([f"Also possible: {', '.join(others)}."] if others else [])]


def _replay_lines(replay: Mapping[str, Any] | None) -> list[str]:
    """Why a replay says less than it could; empty where it says all, or where there was none to expect."""
    if replay is None or not replay["reason"]:
        return []
    return [f"{'Replayed in part' if replay['losses'] else 'Not replayed'}: {replay['reason']}."]


def _facts(evaluation: Evaluation) -> list[str]:
    curve, findings = evaluation.curve, evaluation.findings
    if curve is None or findings is None:
        return []
    lines = [f"explained: {curve.kind} {rise.peak_step}, {rise.reason}" for rise in findings.explained[:_LISTED]]
    if len(findings.explained) > _LISTED:
        lines.append(f"and {len(findings.explained) - _LISTED} more rises that are explained")
    if findings.plateau_from is not None:
        lines.append(f"the loss fell no more after {curve.kind} {findings.plateau_from}")
    if findings.superseded_points:
        lines.append(
            f"{findings.superseded_points} points were thrown away when the run went back to an earlier {curve.kind}"
        )
    lines.append(f"{len(curve):,} {curve.kind}s, {_MEANING[curve.loss_is]}")
    return [*lines, *curve.notes, *evaluation.replay_notes]
