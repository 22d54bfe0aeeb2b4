"""Checks (e) and (f): numbers that reach the model unscaled, flat, far out, or shifted between the splits."""

from __future__ import annotations

import numpy as np

from spikeguard.components.normalization_validator.measured import Measured, at
from spikeguard.components.normalization_validator.result import Check, worst
from spikeguard.components.normalization_validator.signatures import is_two_valued
from spikeguard.components.normalization_validator.summaries import Columns

# Standard errors beyond which a shift is none of chance.
_SURE = 5.0
# A ratio of standard deviations needs so many rows on both sides.
_LEAST_ROWS = 100


def check_scaled(measured: Measured, output: str) -> Check:
    """Whether the numbers of the train split are of a size that a network learns from."""
    columns = measured.columns("output", output).get(measured.train)
    if columns is None or not columns.count.any():
        return Check("scaled", "undecidable", "It has no values in the train split.", {}, "WARNING")
    return worst([_scaled(measured, at(columns, place), place) for place in range(len(columns.count))])


def _scaled(measured: Measured, column: Columns, place: int) -> Check:
    config = measured.config
    mean, sd = float(column.mean), float(column.sd)
    figures = {
        "column": place,
        "mean": mean,
        "sd": sd,
        "minimum": float(column.minimum),
        "maximum": float(column.maximum),
        "rows": float(column.count),
    }
    if column.minimum == column.maximum:
        text = f"It is {mean:.4g} in all {column.count:,.0f} rows of the train split. Remove it, or check the data."
        return Check("scaled", "refuted", text, figures, "WARNING")
    reach = float(max(mean - column.minimum, column.maximum - mean) / sd)
    figures["reach_sd"] = reach
    if max(sd, abs(mean)) > config.max_size:
        text = (
            f"It reaches the model unscaled: mean {mean:.4g}, standard deviation {sd:.4g}, where 0 and 1 are sound. "
            "Scale it by spikeguard.preprocess or tft.scale_to_z_score."
        )
        return Check("scaled", "refuted", text, figures, "WARNING")
    if sd < config.min_sd:
        text = f"Its standard deviation is {sd:.3g}, near nothing: the model hardly sees it. Divide by less."
        return Check("scaled", "refuted", text, figures, "WARNING")
    if reach > config.max_range_sd and not is_two_valued(column):
        text = (
            f"A value lies {reach:.1f} standard deviations from the mean (more than {config.max_range_sd:g}): one such row can "
            "throw a step. Winsorize it, or take its logarithm, as spikeguard.preprocess does."
        )
        return Check("scaled", "refuted", text, figures, "WARNING")
    return Check(
        "scaled",
        "proven",
        f"Mean {mean:.3g}, standard deviation {sd:.3g}, {reach:.1f} of these at most from it.",
        figures,
    )


def check_distribution(measured: Measured, output: str) -> Check:
    """Whether each split has the mean and the deviation of the train split."""
    columns = measured.columns("output", output)
    train = columns.get(measured.train)
    if train is None or len(columns) < 2:
        return Check("same_distribution", "not_applicable", "There is no other split with values.")
    checks = [
        _skew(measured, split, at(train, place), at(other, place), place)
        for split, other in columns.items()
        if split != measured.train and len(other.count) == len(train.count)
        for place in range(len(train.count))
    ]
    return worst(checks) if checks else Check("same_distribution", "not_applicable", "The splits have other widths.")


def _skew(measured: Measured, split: str, train: Columns, other: Columns, place: int) -> Check:
    if train.sd == 0 or train.count < 2 or other.count < 2:
        return Check("same_distribution", "not_applicable", "It is constant, or has too few rows to compare.")
    shift = float(abs(other.mean - train.mean) / train.sd)
    error = float(np.sqrt(1 / train.count + 1 / other.count))
    ratio = float(other.sd / train.sd)
    figures = {"split": split, "column": place, "shift_sd": shift, "standard_error": error, "sd_ratio": ratio}
    limit, most = measured.config.max_shift_sd, measured.config.max_sd_ratio
    is_wider = not 1 / most <= ratio <= most and min(train.count, other.count) >= _LEAST_ROWS
    if (shift > limit and shift > _SURE * error) or (is_wider and not is_two_valued(train)):
        text = (
            f"In {split} the mean lies {shift:.2f} standard deviations from that of {measured.train}, and the deviation is "
            f"{ratio:.2f} times as large. Check how the rows were dealt to the splits."
        )
        return Check("same_distribution", "refuted", text, figures, "WARNING", split)
    text = f"Mean and deviation of the splits are alike (shift {shift:.2f} standard deviations, ratio {ratio:.2f})."
    return Check("same_distribution", "proven", text, figures)
