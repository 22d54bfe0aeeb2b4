"""Check (d): the raw numbers were not normalized over the whole set before it was split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from spikeguard.components.normalization_validator import signatures
from spikeguard.components.normalization_validator.effects import EPSILON
from spikeguard.components.normalization_validator.matching import Match
from spikeguard.components.normalization_validator.measured import Measured, at
from spikeguard.components.normalization_validator.measuring import Key
from spikeguard.components.normalization_validator.populations import forbidden_populations, named
from spikeguard.components.normalization_validator.result import Check, worst
from spikeguard.components.normalization_validator.summaries import Columns

_ADVICE = "Split first; then let tf.Transform compute the constants from the train split."
# A scaler leaves its range in every column: fewer columns, or a smaller share of them, may be ratios.
_LEAST_COLUMNS, _LEAST_SHARE = 3, 0.9
# Steps of measured ratios: decimals, percent, and pixels of 4, 8, 10, 12 and 16 bit.
# What float32 leaves of a multiple of the finest step; numbers that are no multiples come as near once in fifty times.
_NEAR_STEP = 0.01
_STEPS = (
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    15,
    16,
    20,
    24,
    25,
    30,
    50,
    60,
    100,
    255,
    256,
    360,
    1000,
    1023,
    4095,
    10000,
    65535,
)


@dataclasses.dataclass(frozen=True)
class _Raw:
    """One raw column in all sets of rows."""

    feature: str
    place: int
    train: Columns
    others: Mapping[str, Columns]

    @property
    def is_measured(self) -> bool:
        """Whether it holds more than whole numbers and flags."""
        total = next(iter(self.others.values()), self.train)
        return bool(total.fractions > 0 and not signatures.is_two_valued(total) and total.count >= 4)


def check_before_split(measured: Measured) -> dict[str, Check]:
    """The check of each raw numeric feature."""
    columns = [column for name in measured.graph.numbers for column in _columns(measured, name)]
    ranges = _range_matches(measured, [column for column in columns if column.is_measured])
    found: dict[str, list[Check]] = {name: [] for name in measured.graph.numbers}
    quantiles = _quantile_matches(measured, columns)
    for number, column in enumerate(columns):
        match = None
        if column.is_measured:
            rounding = 2 * EPSILON * float(column.train.largest / max(float(column.train.sd), 1e-30))
            match = signatures.moments_match(column.train, column.others, rounding)
        match = match or quantiles.get(number) or ranges.get((column.feature, column.place))
        found[column.feature].append(_check(measured, column, match))
    nothing = Check("not_normalized_before_split", "not_applicable", "It has no values.")
    return {name: worst(checks) if checks else nothing for name, checks in found.items()}


def _columns(measured: Measured, name: str) -> list[_Raw]:
    raw = measured.columns("raw", name)
    if measured.train not in raw:
        return []
    others = measured.populations(raw)
    return [
        _Raw(name, place, at(raw[measured.train], place), {key: at(c, place) for key, c in others.items()})
        for place in range(len(raw[measured.train].count))
    ]


def _range_matches(measured: Measured, columns: list[_Raw]) -> dict[tuple[str, int], Match]:
    """Columns that span 0 to 1 over a set of rows, where nearly all do and not by nature; refuted where the train split does not."""
    for name in columns[0].others if columns else ():
        spanning = [column for column in columns if _spans_unit(column.others[name])]
        if len(spanning) < max(_LEAST_COLUMNS, _LEAST_SHARE * len(columns)) or _have_common_step(measured, spanning):
            continue
        return {
            (column.feature, column.place): Match("undecidable", "min-max to 0 and 1", 0.0, name, 0.0)
            if _spans_unit(column.train)
            else Match("refuted", "min-max to 0 and 1", np.inf, name, 0.0)
            for column in spanning
        }
    return {}


def _spans_unit(column: Columns) -> bool:
    return bool(abs(column.minimum) <= 4 * EPSILON and abs(column.maximum - 1) <= 4 * EPSILON)


def _have_common_step(measured: Measured, columns: list[_Raw]) -> bool:
    """Whether all values are multiples of one natural step, as pixels and percentages are."""
    samples = [measured.raw_sample[column.feature][:, column.place] for column in columns]
    values = np.concatenate([sample[np.isfinite(sample)] for sample in samples])
    return any(bool(np.all(np.abs(values * step - np.round(values * step)) <= _NEAR_STEP)) for step in _STEPS)


def _quantile_matches(measured: Measured, columns: list[_Raw]) -> dict[int, Match]:
    suspects = [
        number
        for number, column in enumerate(columns)
        if column.is_measured and any(map(signatures.may_have_median_zero, column.others.values()))
    ]
    keys: set[Key] = {("raw", split, columns[n].feature) for n in suspects for split in measured.splits}
    values = measured.values(sorted(keys)) if keys else {}
    result = {}
    for number in suspects:
        column = columns[number]
        by_split = {
            split: values["raw", split, column.feature][:, column.place]
            for split in measured.splits
            if ("raw", split, column.feature) in values
        }
        if measured.train in by_split:
            others = {
                named(population): np.concatenate([by_split[split] for split in population])
                for population in forbidden_populations(list(by_split), measured.train)
            }
            found = signatures.quantiles_match(by_split[measured.train], others)
            if found is not None:
                result[number] = found
    return result


def _check(measured: Measured, column: _Raw, match: Match | None) -> Check:
    rows = measured.rows(measured.train)
    whole = next(iter(column.others.values()), column.train)
    figures: dict[str, object] = {
        "train_rows": rows,
        "column": column.place,
        "train_mean": float(column.train.mean),
        "train_sd": float(column.train.sd),
        "whole_mean": float(whole.mean),
        "whole_sd": float(whole.sd),
    }
    if match is None:
        return Check(
            "not_normalized_before_split", "proven", "The raw numbers bear no trace of a normalization.", figures
        )
    figures |= {"rule": match.rule, "other_set": match.other}
    figures |= {"precisions_from_train": match.train_misses, "precisions_from_other": match.other_misses}
    if match.status == "proven":
        text = f"The raw numbers are normalized ({match.rule}) by the train split alone."
        return Check("not_normalized_before_split", "proven", text, figures)
    if match.status == "undecidable":
        text = f"The raw numbers are normalized ({match.rule}); the train split and {match.other} look alike in {rows:,} rows."
        return Check("not_normalized_before_split", "undecidable", text, figures)
    text = f"The raw numbers are normalized ({match.rule}) over {match.other}, and not over the train split. {_ADVICE}"
    return Check("not_normalized_before_split", "refuted", text, figures, "ERROR")
