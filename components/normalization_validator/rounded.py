"""Constants that were written by hand with a few decimals: which set of rows rounds to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from spikeguard.components.normalization_validator.effects import Effect
from spikeguard.components.normalization_validator.matching import (
    Constants,
    Match,
    constants_of,
    decide_among,
    is_natural_limit,
)
from spikeguard.components.normalization_validator.summaries import Columns

# Rules whose constants are real numbers, so that their decimals are no property of the data.
_RULES = ("z-score", "z-score with n - 1")
# Decimals that people write; more come within the precision in which constants are compared anyway.
_MOST_DECIMALS = 6
# Part of a unit of the last decimal up to which a number must be known, or any would look like one with so many decimals.
_LEAST_KNOWN = 0.05
# Part of a standard deviation that the last decimal must at least resolve, or constants of other rows would round alike.
_COARSEST = 0.01


def rounded_match(effect: Effect, train: Columns, others: Mapping[str, Columns]) -> Match | None:
    """The set of rows whose mean and standard deviation, rounded, are an effect's constants.

    Args:
      effect: of the transformed column.
      train: summary of the raw column in the train split, each field of shape ().
      others: the same in the forbidden sets, by name.

    Returns:
      None where the constants are not round, too round to tell rows apart, or of no set.
    """
    decimals = decimals_of(effect.location, effect.location_error), decimals_of(abs(effect.scale), effect.scale_error)
    if decimals[0] is None or decimals[1] is None:
        return None
    if is_natural_limit(effect.location) or is_natural_limit(effect.scale):
        return None
    halves = 0.5 * 10.0 ** -decimals[0], 0.5 * 10.0 ** -decimals[1]

    def rounded(column: Columns) -> list[Constants]:
        return [
            dataclasses.replace(
                constants, rule=f"{constants.rule}, rounded", location_error=halves[0], scale_error=halves[1]
            )
            for constants in constants_of(column)
            if constants.rule in _RULES and max(halves) <= _COARSEST / 2 * float(column.sd)
        ]

    return decide_among(effect, rounded(train), {name: rounded(column) for name, column in others.items()})


def decimals_of(value: float, error: float) -> int | None:
    """Decimals that a number was written with; None where it is not known well enough to tell, or has too many.

    Args:
      value: the number.
      error: what is left open of it.

    >>> decimals_of(39.650001, 2e-6), decimals_of(39.654321, 2e-6), decimals_of(39.65, 0.01)
    (2, None, None)
    """
    for decimals in range(_MOST_DECIMALS + 1):
        if error > _LEAST_KNOWN * 10.0**-decimals:
            return None
        if abs(round(value, decimals) - value) <= error:
            return decimals
    return None
