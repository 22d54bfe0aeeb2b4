"""Which set of rows normalization constants come from, told by their equality in float precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from spikeguard.components.normalization_validator.effects import EPSILON, Effect
from spikeguard.components.normalization_validator.summaries import Columns

Status = Literal["proven", "refuted", "undecidable", "not_applicable"]

# Part of a standard deviation within which constants that were summed up in float32 are equal.
PRECISION = 1e-5
# float32 roundings of the largest value that a mean may be off by.
_ROUNDINGS = 4
# Constants between one and so many precisions off are neither equal nor different.
_DOUBT = 3.0
# Widest numbers that are taken for natural limits, such as 255 or 360, beside those of one or two digits.
_LIMITS = frozenset({180, 255, 256, 360, 365, 366, 1000, 1023, 1024, 1439, 1440, 3600, 4095, 4096, 65535, 65536, 86400})


@dataclasses.dataclass(frozen=True)
class Constants:
    """A pair of constants `(x - location) / scale` that a rule computes from a set of rows."""

    rule: str
    location: float
    scale: float
    location_error: float
    """Distance within which a location is equal."""
    scale_error: float
    extremes: tuple[float, ...] = ()
    """The extremes of the data that the rule uses; empty where it uses moments."""

    def misses(self, effect: Effect) -> float:
        """Distance of the effect's constants from these, in precisions: up to 1 where they are equal."""
        location = abs(effect.location - self.location) / (self.location_error + effect.location_error)
        scale = abs(abs(effect.scale) - self.scale) / (self.scale_error + effect.scale_error)
        return float(max(location, scale))


@dataclasses.dataclass(frozen=True)
class Match:
    """What the constants of one column equal."""

    status: Status
    rule: str
    train_misses: float
    """Distance from the train split's constants, in precisions."""
    other: str | None
    """The other set of rows whose constants are equal (refuted, undecidable) or the least different (proven)."""
    other_misses: float
    train: Constants | None = None
    found: Constants | None = None
    """The other set's constants."""


def constants_of(column: Columns) -> list[Constants]:
    """What the usual rules make of a column; none where it is constant.

    Args:
      column: summary of one column, each field of shape ().
    """
    count, sd = float(column.count), float(column.sd)
    low, high, mean = float(column.minimum), float(column.maximum), float(column.mean)
    rounding = _ROUNDINGS * EPSILON * float(column.largest)
    if count < 2 or not sd > rounding / 8:
        return []
    near = PRECISION * sd + rounding
    unbiased = sd * float(np.sqrt(count / (count - 1)))
    exact = 2 * EPSILON * float(column.largest)
    # Extremes are values of the data: nothing but their own rounding moves them.
    width = high - low
    found = [
        Constants("z-score", mean, sd, near, near),
        Constants("z-score with n - 1", mean, unbiased, near, near),
        Constants("centering", mean, 1.0, near, 4 * EPSILON),
        Constants("division by the standard deviation", 0.0, sd, near, near),
        Constants("min-max to 0 and 1", low, width, exact, 2 * exact, (low, high)),
        Constants("min-max from 1 to 0", high, width, exact, 2 * exact, (low, high)),
        Constants("min-max to -1 and 1", (low + high) / 2, width / 2, exact, 2 * exact, (low, high)),
    ]
    largest = float(column.largest)
    return [*found, Constants("division by the largest", 0.0, largest, exact, exact, (largest,))]


def match(effect: Effect, train: Columns, others: Mapping[str, Columns]) -> Match | None:
    """The set of rows that an effect's constants come from.

    Args:
      effect: of the transformed column.
      train: summary of the raw column in the train split, each field of shape ().
      others: the same in the forbidden sets, by name.

    Returns:
      None where the constants equal no statistic of any set.
    """
    decided = decide_among(effect, constants_of(train), {name: constants_of(column) for name, column in others.items()})
    if decided is None:
        return None
    chosen = decided.found
    if decided.status == "refuted" and chosen is not None and chosen.extremes:
        bounds = decided.train.extremes if decided.train else ()
        decisive = [extreme for extreme in chosen.extremes if extreme not in bounds]
        if all(is_natural_limit(extreme) for extreme in decisive):
            # A limit that the data may reach at any time, and that people write by hand.
            return dataclasses.replace(decided, status="undecidable")
    return decided


def decide_among(effect: Effect, train: Sequence[Constants], others: Mapping[str, Sequence[Constants]]) -> Match | None:
    """The verdict on an effect's constants, with those that it was compared with.

    Args:
      effect: of the transformed column.
      train: constants that the rules compute from the train split.
      others: the same of the forbidden sets, by name.
    """
    trains = {constants.rule: constants for constants in train}
    found: dict[str, dict[str, Constants]] = {}
    for name, several in others.items():
        for constants in several:
            found.setdefault(constants.rule, {})[name] = constants
    train_misses = {rule: constants.misses(effect) for rule, constants in trains.items()}
    other_misses = {rule: {n: c.misses(effect) for n, c in sets.items()} for rule, sets in found.items()}
    decided = decide(train_misses, other_misses)
    if decided is None:
        return None
    chosen = found.get(decided.rule, {}).get(decided.other or "")
    return dataclasses.replace(decided, train=trains.get(decided.rule), found=chosen)


def decide(train_misses: Mapping[str, float], other_misses: Mapping[str, Mapping[str, float]]) -> Match | None:
    """The verdict from how far the constants are from those of each rule and set of rows.

    Args:
      train_misses: by rule, in precisions.
      other_misses: by rule and name of the forbidden set.

    >>> decide({"z-score": 0.2}, {"z-score": {"train + eval": 500.0}}).status
    'proven'
    >>> decide({"z-score": 500.0}, {"z-score": {"train + eval": 0.2}}).status
    'refuted'
    >>> decide({"z-score": 0.2}, {"z-score": {"train + eval": 0.3}}).status
    'undecidable'
    """
    rule = min(train_misses, key=lambda name: train_misses[name], default=None)
    if rule is not None and train_misses[rule] <= 1:
        sets = other_misses.get(rule, {})
        other = min(sets, key=lambda name: sets[name], default=None)
        if other is None:
            return Match("proven", rule, train_misses[rule], None, np.inf)
        status: Status = "proven" if sets[other] > 1 else "undecidable"
        return Match(status, rule, train_misses[rule], other, sets[other])
    best: Match | None = None
    for rule, sets in other_misses.items():
        missed = train_misses.get(rule, np.inf)
        for name, misses in sets.items():
            if misses <= 1 and (best is None or misses < best.other_misses):
                best = Match("refuted" if missed > _DOUBT else "undecidable", rule, missed, name, misses)
    return best


def is_natural_limit(value: float) -> bool:
    """Whether a number is one that people write as the limit of a quantity: two digits at most, or a well-known one.

    >>> [is_natural_limit(value) for value in (0.0, 100.0, 16.0, 255.0, 0.05, 1272.0, 14.83)]
    [True, True, True, True, True, False, False]
    """
    # float32 keeps seven digits.
    digits, _, exponent = f"{abs(value):.6e}".partition("e")
    text = digits.rstrip("0").rstrip(".").replace(".", "")
    return len(text) <= 2 or (float(exponent) >= 2 and abs(value) in _LIMITS)
