"""One curve's evaluation for people: as text for a terminal and as a page that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence

from spikeguard.components.spike_evaluator.causes.ranking import RankedCause
from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.spike_evaluator.plot import svg_plot, terminal_plot
from spikeguard.components.spike_evaluator.result import Evaluation

# Score from which a further cause is told of.
_TOLD = 0.3
# Spikes that the text lists; the JSON and the page have all.
_LISTED = 10
_MEANING = {"batch": "losses of single batches", "running_mean": "running means, undone", "epoch_mean": "epoch means"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f23; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } .verdict { padding: .1rem .6rem; border-radius: .3rem; color: #fff; background: #a32020; }
.verdict.stable { background: #1d6b35; } .verdict.insufficient { background: #6b5a1d; }
svg { width: 100%; border: 1px solid #d5d9de; } .loss { fill: #6d9bd1; stroke: #6d9bd1; } .spike { fill: #a32020; }
svg text { font-size: 12px; fill: #1c1f23; } .level { fill: none; stroke: #1c1f23; stroke-width: 1.5; } table { border-collapse: collapse; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #d5d9de; } td:last-child, th:last-child { text-align: left; }
"""


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


def page(evaluation: Evaluation, name: str) -> str:
    """A page of its own, without scripts and without anything to load.

    Args:
      evaluation: what to tell.
      name: of the curve, as the user gave it.
    """
    title = html.escape(name + (f", run {evaluation.run}" if evaluation.run else ""))
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in evaluation.reasons)
    details = "".join(f"<li>{html.escape(line)}</li>" for line in _facts(evaluation))
    runs = "".join(f"<li>{html.escape(run or name)}: {verdict}</li>" for run, verdict in evaluation.runs)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: {evaluation.verdict}</title>'
        f'<style>{_STYLE}</style></head><body><h1><span class="verdict {evaluation.verdict}">{evaluation.verdict}</span>'
        f" {title}</h1><ul>{reasons}</ul>{svg_plot(evaluation)}{_table(evaluation)}<ul>{details}</ul>"
        + (f"<h2>Runs</h2><ul>{runs}</ul>" if len(evaluation.runs) > 1 else "")
        + "</body></html>\n"
    )


def _table(evaluation: Evaluation) -> str:
    if evaluation.findings is None or evaluation.curve is None or not evaluation.findings.spikes:
        return ""
    kind = evaluation.curve.kind
    heads = (f"{kind}s", "peak", "loss", "expected", "standard deviations", "recovered", "cause")
    rows = [
        (
            f"{spike.start_step} to {spike.end_step}",
            spike.peak_step,
            f"{spike.loss_at_peak:.4g}",
            f"{spike.expected_loss:.4g}",
            f"{spike.height:.0f}",
            "yes" if spike.recovered else "no",
            html.escape(" ".join(cause_lines(causes))),
        )
        for spike, causes in evaluation.explained_spikes
    ]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return "<h2>Spikes</h2><table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + f"</tr>{body}</table>"


def _details(evaluation: Evaluation) -> list[str]:
    if evaluation.findings is None or evaluation.curve is None:
        return []
    spikes, kind = evaluation.explained_spikes, evaluation.curve.kind
    # The highest are told of, in the order of their steps.
    listed = sorted(sorted(spikes, key=lambda one: -one[0].height)[:_LISTED], key=lambda one: one[0].start_step)
    lines = []
    for spike, causes in listed:
        lines.append(_sentence(spike, kind))
        lines += [f"  {line}" for line in cause_lines(causes)]
    if len(spikes) > _LISTED:
        lines.append(f"and {len(spikes) - _LISTED} lower spikes")
    if evaluation.course is not None:
        start, causes = evaluation.course
        rose = f"{kind} {start.peak_step}: {start.loss_at_peak:.4g} before the loss settled"
        lines.append(rose if start.recovered else f"from {kind} {start.start_step} on the loss diverged")
        lines += [f"  {line}" for line in cause_lines(causes)]
    return lines + _facts(evaluation)


def _sentence(spike: Spike, kind: str) -> str:
    return (
        f"{kind} {spike.peak_step}: {spike.loss_at_peak:.4g} where {spike.expected_loss:.4g} was expected"
        f" ({spike.height:.0f} standard deviations), {'recovered' if spike.recovered else 'not recovered'}"
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
