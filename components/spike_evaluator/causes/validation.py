"""Why the validation loss spiked while the training loss may have been calm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.causes import normalization, regularization
from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.learning_rate import lower_rate
from spikeguard.components.spike_evaluator.causes.ranking import ON_THE_WAY, RankedCause, judged, with_status
from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.training_curve import Ints, TrainingCurve

_JUMP = 1.5


def validation_causes(
    curve: TrainingCurve,
    validation: Sequence[Spike],
    explained: Sequence[tuple[Spike, Sequence[RankedCause]]],
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[RankedCause, ...], ...]:
    """The causes of each spike of the validation loss, the most likely first; none is verified, as none is replayed.

    A spike of the training loss since the validation before tells its cause. Else the learning rate may have jumped, the
    validator of normalization may have refuted the validation's constants, or the model has learned its rows by heart.

    Args:
      curve: the run.
      validation: spikes of its validation losses.
      explained: spikes of its training losses with their causes.
      tables: JSON tables of data components, by the name of their file.

    >>> curve = TrainingCurve.from_columns(
    ...     loss=[0.1] * 80, validation_step=list(range(4, 84, 4)), validation_loss=[1.0] * 15 + [9.0] + [1.0] * 4
    ... )
    >>> spike = Spike(64, 64, 64, 9.0, 1.0, 50.0, recovered=True)
    >>> [one.cause for one in validation_causes(curve, [spike], [])[0]]
    ['regularization']
    """
    return tuple(_causes(curve, spike, explained, tables or {}) for spike in validation)


def _causes(
    curve: TrainingCurve,
    spike: Spike,
    explained: Sequence[tuple[Spike, Sequence[RankedCause]]],
    tables: Mapping[str, Mapping[str, Any]],
) -> tuple[RankedCause, ...]:
    earlier = curve.validation_step[curve.validation_step < spike.start_step]
    since = int(earlier.max()) if len(earlier) else 0
    places = np.flatnonzero((curve.step > since) & (curve.step <= spike.peak_step))
    tests = (_of_rate(curve, places), _of_constants(tables), _of_gap(curve, spike, places))
    best = {one.cause: with_status(judged(one, None)) for one in tests if one is not None}
    # What raised the training loss on the way says more than what could have raised this one.
    best |= {one.cause: one for one in _on_the_way(since, spike, explained) if one.status == "likely"}
    ranked = sorted(best.values(), key=lambda one: -round(one.score, 2))
    if not ranked or ranked[0].status == "unknown":
        text = "no cause stands out: the training loss was calm since the validation before"
        remedy = Remedy("Validate on more rows, and average the weights or lower the learning rate.")
        ranked.insert(0, RankedCause("unknown", "unknown", 0.0, text, remedy))
    return tuple(ranked)


def _on_the_way(
    since: int, spike: Spike, explained: Sequence[tuple[Spike, Sequence[RankedCause]]]
) -> list[RankedCause]:
    """The causes of the highest training spike since the validation before."""
    inside = [one for one in explained if one[0].start_step <= spike.peak_step and one[0].end_step > since and one[1]]
    if not inside:
        return []
    trained, causes = max(inside, key=lambda one: one[0].height)
    text = f"the training loss spiked at step {trained.peak_step:,} since the validation before: "
    return [
        dataclasses.replace(
            one,
            status="likely" if one.status == "verified" else one.status,
            score=ON_THE_WAY * one.score,
            text=text + one.text,
            replay=None,
        )
        for one in causes
        if one.cause != "unknown"
    ]


def _of_rate(curve: TrainingCurve, places: Ints) -> Evidence | None:
    """A jump of the learning rate since the validation before."""
    if not len(places):
        return None
    rates = curve.learning_rate[max(0, int(places[0]) - 1) : int(places[-1]) + 1]
    if len(rates) < 2 or not (rates > 0).all():
        return None
    jumps = rates[1:] / rates[:-1]
    place = int(np.argmax(jumps))
    jump, before = float(jumps[place]), float(rates[place])
    if not jump > _JUMP:
        return None
    text = f"the learning rate rose from {before:.3g} to {rates[place + 1]:.3g} since the validation before"
    score = 0.5 + 0.4 * ramp(jump, _JUMP, 10.0)
    return Evidence("learning_rate", score, text, lower_rate(before), {"rate_over_before": jump})


def _of_constants(tables: Mapping[str, Mapping[str, Any]]) -> Evidence | None:
    """Constants of a feature that NormalizationValidator has refuted."""
    refuted = normalization.refuted(tables)
    return Evidence("normalization", 0.7, "; ".join(refuted[:2]), normalization.REMEDY) if refuted else None


def _of_gap(curve: TrainingCurve, spike: Spike, places: Ints) -> Evidence | None:
    """The usual validation loss far above the training loss, late in the run."""
    losses = curve.loss[places]
    losses = losses[np.isfinite(losses)]
    if not len(losses) or not np.median(losses) > 0:
        return None
    gap = spike.expected_loss / float(np.median(losses))
    late = float(places[-1] + 1) / len(curve)
    score = 0.8 * ramp(gap, 1.5, 6.0) * ramp(late, 0.1, 0.4)
    if score < 0.05:
        return None
    text = (
        f"the validation loss is {spike.expected_loss:.4g} without the spike, {gap:.1f} times the training loss: the model"
        " learns its rows by heart, and a small change of its weights weighs much on others"
    )
    return Evidence("regularization", score, text, regularization.REMEDY, {"validation_over_train": gap})
