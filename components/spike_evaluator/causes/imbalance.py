"""Class imbalance: the batch holds more rows of a class than a batch drawn at random would."""

from __future__ import annotations

import math

import numpy as np

from spikeguard.components.robust import robust_sd
from spikeguard.components.spike_evaluator.causes.evidence import Evidence, Remedy, ramp
from spikeguard.components.spike_evaluator.causes.surroundings import Surroundings

REMEDY = Remedy(
    "Weight the classes or draw balanced batches, and shuffle the rows.",
    {"balance": "weights"},
    flags=("--balance", "weights"),
)


def evidence(around: Surroundings) -> Evidence | None:
    """Composition of the batch against that of a batch drawn at random."""
    if math.isnan(around.composition[0]):
        return _of_mean_label(around)
    chance, which, count, place = around.composition
    counts = around.curve.class_counts
    usual = counts[around.near].sum(axis=0)
    share = float(usual[which] / max(1, usual.sum()))
    total = int(counts[place].sum())
    # The loss must lie in those rows: as many rows as carry it are there beyond what is usual.
    _, carrying, _ = around.concentration
    surplus = count - share * total
    explains = ramp(surplus / max(1, carrying), 0.2, 1.0) if around.few_rows > 0.5 else 1.0
    if around.figure("largest_distance") > 2 and not around.figure("share_of_rows_beyond_fences") > 0.5:
        explains *= 0.7
    score = around.odd_composition * explains * (0.6 if around.figure("shifted_columns") > 0 else 1.0)
    if around.rare_rows[0] and around.rarity * 0.75 > score:
        return _of_rare_rows(around)
    figures = {
        "step": float(around.curve.step[place]),
        "class": float(which),
        "rows": float(count),
        "expected_rows": share * total,
        "log10_chance": -chance,
        "class_share": share,
        "order": _disorder(around),
    }
    text = (
        f"{count} rows of class {which} are in the batch of {total} at step {around.curve.step[place]}, where"
        f" {share * total:.2g} are expected (a chance of at most 1 in 10^{chance:.0f})"
    )
    if figures["order"] > 3.0:
        text += "; so it is in most batches: the rows are not shuffled"
    return Evidence("imbalance", score, text, REMEDY, figures)


def _of_rare_rows(around: Surroundings) -> Evidence:
    """Rows of a class so rare that most batches have none, and that the model has hardly learned."""
    place = around.concentration[2]
    count, which = around.rare_rows
    counts = around.curve.class_counts
    share = float(counts[:, which].sum() / max(1, counts.sum()))
    figures = {
        "step": float(around.curve.step[place]),
        "class": float(which),
        "rows": float(count),
        "class_share": share,
        "rarity": around.rarity,
    }
    text = (
        f"{count} rows of class {which}, which only {share:.1%} of the rows have, carry the loss of step"
        f" {around.curve.step[place]}"
    )
    return Evidence("imbalance", 0.75 * around.rarity, text, REMEDY, figures, around.rows(place, count))


def _disorder(around: Surroundings) -> float:
    """Spread of the commonest class's rows per batch over that of batches drawn at random, as a ratio; 1 where shuffled."""
    counts = around.curve.class_counts[around.near]
    total = counts.sum(axis=1)
    if not len(total) or not total.min():
        return 1.0
    which = int(np.argmax(counts.sum(axis=0)))
    share = counts[:, which].sum() / total.sum()
    drawn = np.sqrt(np.mean(total * share * (1 - share)))
    return float(np.std(counts[:, which] - share * total) / drawn) if drawn > 0 else 1.0


def _of_mean_label(around: Surroundings) -> Evidence | None:
    """Regression: the mean label of a batch in which no few rows carry the loss."""
    labels = around.curve.label_mean
    usual = labels[around.near]
    usual = usual[np.isfinite(usual)]
    if len(usual) < 8 or not robust_sd(usual) > 0:
        return None
    deviations = np.abs(labels[around.suspects] - np.median(usual)) / robust_sd(usual)
    if np.isnan(deviations).all():
        return None
    best = int(np.nanargmax(deviations))
    deviation, place = float(deviations[best]), int(around.suspects[best])
    score = 0.7 * ramp(deviation, 4.0, 12.0) * (1.0 - around.few_rows)
    text = (
        f"the mean label of the batch at step {around.curve.step[place]} is {labels[place]:.4g},"
        f" {deviation:.1f} standard deviations from the usual {np.median(usual):.4g}"
    )
    figures = {"step": float(around.curve.step[place]), "deviation": deviation}
    return Evidence("imbalance", score, text, Remedy("Shuffle the rows, so that each batch holds all kinds."), figures)
