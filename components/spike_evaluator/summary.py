"""One curve's evaluation as text for a terminal."""

from __future__ import annotations

from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.spike_evaluator.plot import terminal_plot
from spikeguard.components.spike_evaluator.result import Evaluation

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
    spikes, kind = evaluation.findings.spikes, evaluation.curve.kind
    # The highest are told of, in the order of their steps.
    listed = sorted(sorted(spikes, key=lambda spike: -spike.height)[:_LISTED], key=lambda spike: spike.start_step)
    lines = [_sentence(spike, kind) for spike in listed]
    if len(spikes) > _LISTED:
        lines.append(f"and {len(spikes) - _LISTED} lower spikes")
    return lines + _facts(evaluation)


def _sentence(spike: Spike, kind: str) -> str:
    return (
        f"{kind} {spike.peak_step}: {spike.loss_at_peak:.4g} where {spike.expected_loss:.4g} was expected"
        f" ({spike.height:.0f} standard deviations), {'recovered' if spike.recovered else 'not recovered'}"
    )


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
    return [*lines, *curve.notes]
