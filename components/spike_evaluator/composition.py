"""What the make-up of a batch explains of its loss: few rows, rows of a rare class, its place in the epoch.

Each part takes from a step's height what steps of the same make-up show as a rule. A step that is high only before that is
explained, and reported as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from spikeguard.components.robust import MAD_TO_SD, robust_sd
from spikeguard.components.training_curve import Floats, Ints, TrainingCurve

# A batch of fewer rows than this share of the usual is short.
_SHORT = 0.75
# Steps that a group needs before anything is read off it.
_FEWEST = 8
# Deviations, in standard deviations, at which the regression on classes stops to listen.
_HUBER = 2.0
_ROUNDS = 8
# Limits between groups of steps whose classes let expect different losses, in standard deviations.
_GROUPS = (0.5, 2.0, 5.0)
# A place in the epoch is special where half of the epochs lie this far from the trend there.
_SPECIAL = 2.0
# Places after and before the boundary that are looked at.
_PLACES = (0, 1, -1)

Reason = Callable[[int], str]


def explained_heights(curve: TrainingCurve, height: Floats) -> Iterator[tuple[Floats, Reason]]:
    """Heights after each explanation that the curve's columns allow, one on top of the other.

    Args:
      curve: the n steps.
      height: distance of each loss from its level, in standard deviations. Shape (n,).

    Yields:
      The heights that remain, shape (n,), and a function that says in words how a step, given by its place, is special.
    """
    for part in (_by_rows, _by_place):
        result = part(curve, height)
        if result is not None:
            height = result[0]
            yield result


def _by_rows(curve: TrainingCurve, height: Floats) -> tuple[Floats, Reason] | None:
    rows = curve.batch_size
    usual = float(np.median(rows)) if len(rows) else 0.0
    is_short = (rows > 0) & (rows < _SHORT * usual)
    if not np.any(is_short):
        return None
    # A mean over fewer rows is noisier by the root of the ratio; heavy tails make it worse, which only the data know.
    spread = np.sqrt(usual / np.maximum(rows, 1))
    if np.sum(is_short) >= _FEWEST:
        spread *= max(1.0, float(MAD_TO_SD * np.median(np.abs(height[is_short] / spread[is_short]))))
    return np.where(is_short, height / spread, height), lambda place: f"a batch of {rows[place]} rows, not {usual:.0f}"


def class_effect(curve: TrainingCurve, height: Floats) -> tuple[Floats, Reason] | None:
    """What the classes in the batches explain of the heights, by a robust regression on their shares.

    Args:
      curve: the n steps.
      height: distance of each loss from its level, in standard deviations. Shape (n,).

    Returns:
      The part of the heights, zero for the usual batch, shape (n,), and what is special of a step in words; None where
      no classes were recorded.
    """
    counts = curve.class_counts
    total = counts.sum(axis=1) if counts.shape[1] else np.zeros(len(counts))
    if counts.shape[1] < 2 or np.mean(total > 0) < 0.5:
        return None
    shares = counts / np.maximum(total, 1)[:, None]
    common = int(np.argmax(shares.mean(axis=0)))
    others = np.delete(shares, common, axis=1)
    others = others[:, others.std(axis=0) > 0.0]
    if not others.shape[1] or len(height) < _FEWEST * (others.shape[1] + 1):
        return None
    design = np.column_stack([np.ones(len(others)), others])
    weight = np.ones(len(height))
    for _ in range(_ROUNDS):
        weighted = design * weight[:, None]
        solution = np.linalg.lstsq(weighted.T @ design, weighted.T @ height, rcond=None)[0]
        rest = height - design @ solution
        spread = MAD_TO_SD * float(np.median(np.abs(rest))) + 1e-12
        weight = 1.0 / np.maximum(1.0, np.abs(rest) / (_HUBER * spread))
    effect = design @ solution

    def reason(place: int) -> str:
        lift = shares[place] - shares.mean(axis=0)
        lift[common] = -np.inf
        rare = int(np.argmax(lift))
        usual = shares[:, rare].mean() * total[place]
        return f"{counts[place, rare]} rows of class {rare} in a batch of {total[place]}, where {usual:.2g} are usual"

    return effect - np.median(effect), reason


def spread_by(effect: Floats, height: Floats) -> Floats:
    """Heights in the spread that steps with an effect of about this size have. Shape (n,), as are the arguments."""
    rest = height.copy()
    group = np.digitize(np.abs(effect), _GROUPS)
    for number in range(1, len(_GROUPS) + 1):
        members = group == number
        if np.sum(members) >= _FEWEST:
            center, upper = np.quantile(height[members], [0.5, 0.75])
            rest[members] = (height[members] - max(center, 0.0)) / max(1.0, MAD_TO_SD * (upper - center))
    return rest


def _by_place(curve: TrainingCurve, height: Floats) -> tuple[Floats, Reason] | None:
    firsts = np.flatnonzero(np.diff(curve.epoch) > 0) + 1
    if curve.kind != "step" or len(firsts) < _FEWEST:
        return None
    rest, special = height.copy(), {}
    for offset in _PLACES:
        places = firsts + offset
        places = places[(places >= 0) & (places < len(height))]
        center, spread = float(np.median(height[places])), robust_sd(height[places])
        if abs(center) > _SPECIAL or spread > _SPECIAL:
            rest[places] = (height[places] - center) / max(1.0, spread)
            special.update(dict.fromkeys(places.tolist(), offset))
    names = {0: "the first step of an epoch", 1: "the second step of an epoch", -1: "the last step of an epoch"}
    return (
        (rest, lambda place: names[special.get(place, 0)] + ", where the loss is always different") if special else None
    )


def risen_rate(curve: TrainingCurve, place: int, within: int) -> int | None:
    """Where the learning rate last rose by half or more, at most `within` points before a place; None if it did not."""
    first = max(0, place - within)
    rates = curve.learning_rate[first : place + 1]
    if not len(rates) or np.isnan(rates).any():
        return None
    jumps = np.flatnonzero(rates[1:] > 1.5 * np.maximum(rates[:-1], 1e-30))
    return first + int(jumps[-1]) + 1 if len(jumps) else None


def comparable_level(curve: TrainingCurve, trend: Floats, place: int) -> float:
    """Highest level that the run had before a place under at least half the learning rate there; -inf where none was."""
    is_comparable = curve.learning_rate[:place] >= 0.5 * curve.learning_rate[place]
    return float(np.max(trend[:place][is_comparable], initial=-np.inf))


def line_of_descent(step: Ints) -> Ints:
    """Places of the steps that the last weights descend from.

    A run that went back to an earlier step, as after a crash or by hand, has thrown away what it had done since.

    >>> line_of_descent(np.array([1, 2, 3, 2, 3, 4])).tolist()
    [0, 3, 4, 5]
    """
    # A step is kept where all later ones have larger or equal numbers.
    later = np.minimum.accumulate(step[::-1])[::-1]
    is_last = np.append(step[:-1] <= later[1:], True) if len(step) else np.empty(0, dtype=bool)
    is_repeated = (
        np.append(step[:-1] == later[1:], False) & np.append(np.diff(step) != 0, False) if len(step) else is_last
    )
    return np.asarray(np.flatnonzero(is_last & ~is_repeated))
