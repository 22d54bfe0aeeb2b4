"""Why the validation loss spiked while the training loss may have been calm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spikeguard.components.spike_evaluator.causes import imbalance, normalization, regularization
from spikeguard.components.spike_evaluator.causes.batch_size import FEW, MANY, SHORT, larger_batches
from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.learning_rate import GROWTH, JUMP, lower_rate
from spikeguard.components.spike_evaluator.causes.ranking import ON_THE_WAY, RankedCause, judged, with_status
from spikeguard.components.spike_evaluator.causes.surroundings import class_surplus
from spikeguard.components.spike_evaluator.detection import Spike
from spikeguard.components.training_curve import Ints, TrainingCurve

# Steps from before the validation before that tell what is usual.
_FEWEST = 8


def validation_causes(
    curve: TrainingCurve,
    validation: Sequence[Spike],
    explained: Sequence[tuple[Spike, Sequence[RankedCause]]],
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[RankedCause, ...], ...]:
    """The causes of each spike of the validation loss, the most likely first; none is verified, as none is replayed.

    A spike of the training loss since the validation before tells its cause. Else the validator of normalization may have
    refuted the validation's constants, the batches since then may be of other classes or of fewer rows than before, the
    learning rate may have risen, or the model has learned its rows by heart.

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
    tests = (
        _of_constants(tables),
        _of_classes(curve, places),
        _of_batches(curve, places),
        _of_rate(curve, places),
        _of_gap(curve, spike, places),
    )
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
    """A jump of the learning rate since the validation before, or its growth against the steps before that."""
    if not len(places):
        return None
    rates = curve.learning_rate[max(0, int(places[0]) - 1) : int(places[-1]) + 1]
    if len(rates) < 2 or not (rates > 0).all():
        return None
    jumps = rates[1:] / rates[:-1]
    place = int(np.argmax(jumps))
    jump, before = float(jumps[place]), float(rates[place])
    if not jump > JUMP:
        usual = float(np.median(curve.learning_rate[: int(places[0]) + 1]))
        growth = float(rates[-1]) / usual if usual > 0 else 0.0
        if not growth > GROWTH:
            return None
        text = f"the learning rate has grown to {growth:.1f} times the {usual:.3g} of the steps before"
        score = 0.5 + 0.4 * ramp(growth, GROWTH, 10.0)
        return Evidence("learning_rate", score, text, lower_rate(usual), {"rate_over_before": growth})
    text = f"the learning rate rose from {before:.3g} to {rates[place + 1]:.3g} since the validation before"
    score = 0.5 + 0.4 * ramp(jump, JUMP, 10.0)
    return Evidence("learning_rate", score, text, lower_rate(before), {"rate_over_before": jump})


def _of_constants(tables: Mapping[str, Mapping[str, Any]]) -> Evidence | None:
    """Constants of a feature that NormalizationValidator has refuted."""
    refuted = normalization.refuted(tables)
    return Evidence("normalization", 0.7, "; ".join(refuted[:2]), normalization.REMEDY) if refuted else None


def _of_classes(curve: TrainingCurve, places: Ints) -> Evidence | None:
    """The classes of all rows since the validation before against those of the steps before that."""
    counts = curve.class_counts
    if counts.shape[1] < 2 or not len(places) or places[0] < _FEWEST:
        return None
    drawn = counts[places].sum(axis=0)
    chance, share = class_surplus(drawn, counts[: int(places[0])].sum(axis=0))
    which = int(np.argmax(chance))
    score = 0.85 * ramp(float(chance[which]), 4.0, 10.0)
    if score < 0.05:
        return None
    text = (
        f"{drawn[which]} of the {drawn.sum()} rows since the validation before are of class {which}, where"
        f" {share[which] * drawn.sum():.3g} are expected (a chance of at most 1 in 10^{chance[which]:.0f})"
    )
    figures = {"class": float(which), "rows": float(drawn[which]), "log10_chance": -float(chance[which])}
    return Evidence("imbalance", score, text, imbalance.REMEDY, figures)


def _of_batches(curve: TrainingCurve, places: Ints) -> Evidence | None:
    """The size of the batches since the validation before against that of the steps before, or few rows in all of them."""
    if not len(places) or places[0] < _FEWEST:
        return None
    size, usual = (float(np.median(part)) for part in (curve.batch_size[places], curve.batch_size[: int(places[0])]))
    if not (size > 0 and usual > 0):
        return None
    remedy = larger_batches(size)
    figures = {"batch_size": size, "usual_batch_size": usual}
    if size < SHORT * usual:
        text = f"the batches since the validation before have {size:.0f} rows, not {usual:.0f}"
        return Evidence("batch_size", 0.5 + 0.4 * ramp(usual / size, 1.5, 8.0), text, remedy, figures)
    score = 0.6 * ramp(usual, MANY, FEW)
    text = f"batches have {usual:.0f} rows"
    return Evidence("batch_size", score, text, remedy, figures) if score >= 0.05 else None


def _of_gap(curve: TrainingCurve, spike: Spike, places: Ints) -> Evidence | None:
    """The usual validation loss far above the training loss, late in the run."""
    losses = curve.loss[places]
    losses = losses[np.isfinite(losses)]
    # The mean: of batches of few rows most losses lie below it, without being known by heart.
    level = float(np.mean(losses)) if len(losses) else 0.0
    if not level > 0:
        return None
    gap = spike.expected_loss / level
    late = float(places[-1] + 1) / len(curve)
    score = 0.8 * ramp(gap, 1.5, 6.0) * ramp(late, 0.1, 0.4)
    if score < 0.05:
        return None
    text = (
        f"the validation loss is {spike.expected_loss:.4g} without the spike, {gap:.1f} times the training loss: the model"
        " learns its rows by heart, and a small change of its weights weighs much on others"
    )
    return Evidence("regularization", score, text, regularization.REMEDY, {"validation_over_train": gap})
