"""Check (a): the constants of each output come from the train split alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spikeguard.components.normalization_validator import signatures
from spikeguard.components.normalization_validator.effects import EPSILON, Effect, effect_of, is_strictly_monotone
from spikeguard.components.normalization_validator.graph import with_values
from spikeguard.components.normalization_validator.matching import (
    Constants,
    Match,
    constants_of,
    decide,
    is_natural_limit,
    match,
)
from spikeguard.components.normalization_validator.measured import Measured, at, raw_place
from spikeguard.components.normalization_validator.measuring import Key
from spikeguard.components.normalization_validator.populations import forbidden_populations, named
from spikeguard.components.normalization_validator.result import Check, worst
from spikeguard.components.normalization_validator.rounded import rounded_match
from spikeguard.components.normalization_validator.summaries import Columns

# Columns whose natural limits differ in so many ways are no coincidence.
_LEAST_DIFFERENT = 3
# Rules that are compared with the constants of other features.
_SWAPPABLE = ("z-score", "min-max to 0 and 1")


@dataclasses.dataclass(frozen=True)
class _Column:
    """One column of one output, and what was found of it."""

    output: str
    place: int
    source: str | None
    raw: int | None
    """Place of its raw column."""
    effect: Effect | None
    match: Match | None


def check_train_only(measured: Measured) -> dict[str, Check]:
    """The check of each output that depends on the data."""
    columns = [
        column
        for output in sorted(measured.output_sample)
        if measured.sources[output].features
        for column in _columns(measured, output)
    ]
    columns = _with_swapped(measured, columns)
    columns = _with_quantiles(measured, columns)
    columns = _with_joint_limits(columns)
    found: dict[str, list[Check]] = {}
    for column in columns:
        found.setdefault(column.output, []).append(_check(measured, column))
    return {output: worst(checks) for output, checks in found.items()}


def _columns(measured: Measured, output: str) -> list[_Column]:
    source = measured.sources[output].only
    sample = measured.output_sample[output]
    raw = measured.raw_sample.get(source) if source is not None else None
    result = []
    for place in range(sample.shape[1]):
        raw_at = (
            raw_place(raw.shape[1], sample.shape[1], place) if raw is not None and len(raw) == len(sample) else None
        )
        effect = effect_of(raw[:, raw_at], sample[:, place]) if raw is not None and raw_at is not None else None
        column = _Column(output, place, source, raw_at, effect, None)
        if effect is None or not _is_identity(effect):
            column = dataclasses.replace(column, match=_match(measured, column))
        result.append(column)
    return result


def _is_identity(effect: Effect) -> bool:
    return abs(effect.location) <= effect.location_error and abs(effect.scale - 1) <= 2 * effect.scale_error + EPSILON


def _match(measured: Measured, column: _Column) -> Match | None:
    raw = measured.columns("raw", column.source) if column.source is not None else {}
    if column.effect is not None and column.raw is not None:
        whole = {split: columns.joined() for split, columns in raw.items() if len(columns.count) > 1}
        for candidates, place in ((raw, column.raw), (whole, 0)):
            others = {name: at(c, place) for name, c in measured.populations(candidates).items()}
            if measured.train in candidates:
                train = at(candidates[measured.train], place)
                found = match(column.effect, train, others) or rounded_match(column.effect, train, others)
                if found is not None:
                    return found
    rounding = 0.0
    if column.raw is not None and measured.train in raw:
        train = at(raw[measured.train], column.raw)
        rounding = 4 * EPSILON * float(train.largest) / max(float(train.sd), 1e-30)
    for kind in ("present", "output"):
        outputs = measured.columns(kind, column.output)
        if measured.train not in outputs:
            continue
        others = {name: at(c, column.place) for name, c in measured.populations(outputs).items()}
        found = signatures.moments_match(at(outputs[measured.train], column.place), others, rounding)
        if found is not None:
            return found
    return _extremes_match(measured, column)


def _extremes_match(measured: Measured, column: _Column) -> Match | None:
    """For a rising curve such as a scaled logarithm: the set of rows whose extremes become 0 and 1, or -1 and 1."""
    outputs = measured.columns("present", column.output)
    if column.effect is not None or column.raw is None or column.source is None or measured.train not in outputs:
        return None
    sample, raw = measured.output_sample[column.output], measured.raw_sample[column.source]
    if not is_strictly_monotone(raw[:, column.raw], sample[:, column.place]):
        return None
    train = at(outputs[measured.train], column.place)
    others = {name: at(c, column.place) for name, c in measured.populations(outputs).items()}
    misses: dict[str, dict[str, float]] = {}
    for name, one in others.items():
        for rule, missed in _extreme_misses(one).items():
            misses.setdefault(rule, {})[name] = missed
    found = decide(_extreme_misses(train), misses)
    if found is None or found.status != "refuted":
        return found
    limits = measured.populations(measured.columns("raw", column.source))[found.other or ""]
    known = at(measured.columns("raw", column.source)[measured.train], column.raw)
    limit = at(limits, column.raw)
    decisive = [float(a) for a, b in ((limit.minimum, known.minimum), (limit.maximum, known.maximum)) if a != b]
    is_limit = all(is_natural_limit(value) for value in decisive) or not _goes_beyond(measured, column, limit)
    return dataclasses.replace(found, status="undecidable") if is_limit else found


def _extreme_misses(column: Columns) -> dict[str, float]:
    if column.count < 3 or signatures.is_two_valued(column):
        return {}
    near = 8 * EPSILON
    low, high = float(column.minimum), float(column.maximum)
    return {
        "min-max to 0 and 1": max(abs(low), abs(high - 1)) / near,
        "min-max to -1 and 1": max(abs(low + 1), abs(high - 1)) / near,
    }


def _goes_beyond(measured: Measured, column: _Column, limit: Columns) -> bool:
    """Whether values beyond the data's leave the range: otherwise the range is that of a clip or a saturating curve."""
    width = float(limit.maximum - limit.minimum)
    source = column.source or ""
    beyond = [float(limit.minimum) - width, float(limit.maximum) + width]
    sample = {**measured.sample, source: with_values(measured.sample[source], beyond)}
    first_two = {name: value if name == source else _two_rows(value) for name, value in sample.items()}
    values = measured.graph.apply(first_two)[column.output][:, column.place]
    return bool(np.nanmin(values) < -EPSILON or np.nanmax(values) > 1 + EPSILON)


def _two_rows(value: object) -> object:
    import tensorflow as tf

    if isinstance(value, tf.SparseTensor):
        return tf.sparse.slice(value, [0] * value.dense_shape.shape[0], [2, *value.dense_shape.numpy()[1:].tolist()])
    return value[:2]  # type: ignore[index]


def _with_swapped(measured: Measured, columns: list[_Column]) -> list[_Column]:
    """Names other features whose constants a column has that match none of its own."""
    table: list[tuple[str, int, str, Constants]] = []
    if not any(map(_is_unexplained, columns)):
        return columns
    for name in measured.graph.numbers:
        raw = measured.columns("raw", name)
        if measured.train not in raw:
            continue
        for population, summary in [(measured.train, raw[measured.train]), *measured.populations(raw).items()]:
            for place in range(len(summary.count)):
                for constants in constants_of(at(summary, place)):
                    if constants.rule in _SWAPPABLE and not all(map(is_natural_limit, constants.extremes or (0.5001,))):
                        table.append((name, place, population, constants))
    if not table:
        return columns
    location, location_error, scale, scale_error = np.array(
        [[c.location, c.location_error, c.scale, c.scale_error] for *_, c in table]
    ).T

    def swapped(column: _Column) -> _Column:
        effect = column.effect
        if not _is_unexplained(column) or effect is None:
            return column
        misses = np.maximum(
            np.abs(effect.location - location) / (location_error + effect.location_error),
            np.abs(abs(effect.scale) - scale) / (scale_error + effect.scale_error),
        )
        best = int(np.argmin(misses))
        name, place, population, constants = table[best]
        if misses[best] > 1:
            return column
        position = f"[{place}]" if place or name == column.source else ""
        other = f"{name}{position} in {population}"
        found = Match("refuted", constants.rule, np.inf, other, float(misses[best]), None, constants)
        return dataclasses.replace(column, match=found)

    return [swapped(column) for column in columns]


def _with_quantiles(measured: Measured, columns: list[_Column]) -> list[_Column]:
    """Looks at all values of the columns whose median may be 0, since quartiles cannot be merged exactly."""
    suspects: dict[int, tuple[str, ...]] = {}
    keys: set[Key] = set()
    for number, column in enumerate(columns):
        if column.match is not None or (column.effect is not None and _is_identity(column.effect)):
            continue
        outputs = measured.columns("present", column.output)
        if measured.train not in outputs:
            continue
        summaries = {measured.train: outputs[measured.train], **measured.populations(outputs)}
        if any(signatures.may_have_median_zero(at(summary, column.place)) for summary in summaries.values()):
            suspects[number] = tuple(outputs)
            keys.update(("present", split, column.output) for split in outputs)
    if not suspects:
        return columns
    values = measured.values(sorted(keys))
    result = list(columns)
    for number, splits in suspects.items():
        column = columns[number]
        by_split = {
            split: values["present", split, column.output][:, column.place]
            for split in splits
            if ("present", split, column.output) in values
        }
        if measured.train in by_split:
            others = {
                named(population): np.concatenate([by_split[split] for split in population])
                for population in forbidden_populations(list(by_split), measured.train)
            }
            found = signatures.quantiles_match(by_split[measured.train], others)
            result[number] = dataclasses.replace(column, match=found)
    return result


def _with_joint_limits(columns: Sequence[_Column]) -> list[_Column]:
    """Limits that could each be natural are not, where many columns have each its own and all equal the data's."""
    natural = [column for column in columns if _is_at_limit(column)]
    limits = {c.match.found.extremes for c in natural if c.match and c.match.found}
    if len(limits) < _LEAST_DIFFERENT or sum(map(_is_unexplained, columns)) * 20 > len(natural):
        return list(columns)
    return [
        dataclasses.replace(c, match=dataclasses.replace(c.match, status="refuted"))
        if _is_at_limit(c) and c.match
        else c
        for c in columns
    ]


def _is_at_limit(column: _Column) -> bool:
    found = column.match
    return found is not None and found.status == "undecidable" and found.train_misses > 3


def _is_unexplained(column: _Column) -> bool:
    return column.match is None and column.effect is not None and not _is_identity(column.effect)


def _check(measured: Measured, column: _Column) -> Check:
    found, rows = column.match, measured.rows(measured.train)
    figures: dict[str, object] = {"train_rows": rows, "column": column.place}
    if column.effect is not None:
        figures |= {"location": column.effect.location, "scale": column.effect.scale, "share": column.effect.share}
    if found is None:
        if column.effect is not None and _is_identity(column.effect):
            return Check("train_only", "not_applicable", "It is passed on as it is, without constants.", figures)
        text = "Its constants equal no statistic of any split, as those do that are written by hand or approximate."
        return Check("train_only", "not_applicable", text, figures)
    figures |= {"rule": found.rule, "other_set": found.other, **_constants("train", found.train)}
    figures |= _constants("other", found.found)
    figures |= {"precisions_from_train": found.train_misses, "precisions_from_other": found.other_misses}
    if found.status == "undecidable" and found.train_misses <= 1 and measured.analyzed_rows == rows:
        text = (
            f"Its constants ({found.rule}) are those of the train split; {found.other} would give the same ones to float32's "
            f"precision, but tf.Transform analyzed {rows:,} rows, which are the train split's."
        )
        return Check("train_only", "proven", text, figures | {"analyzed_rows": rows})
    return Check(
        "train_only", found.status, _text(found, rows, figures), figures, "ERROR" if found.status == "refuted" else None
    )


def _constants(prefix: str, constants: Constants | None) -> dict[str, object]:
    if constants is None:
        return {}
    return {f"{prefix}_location": constants.location, f"{prefix}_scale": constants.scale}


def _text(found: Match, rows: int, figures: dict[str, object]) -> str:
    if found.status == "refuted":
        missed = (
            ""
            if np.isinf(found.train_misses)
            else f", and miss those of the train split by {found.train_misses:,.0f} times the precision"
        )
        return (
            f"Its constants ({found.rule}) equal those of {found.other}{missed}. "
            "Analyze the train split alone, by tf.Transform's own analyzers."
        )
    if found.status == "proven" and found.other is None:
        return f"Its constants ({found.rule}) are those of the train split, and there is no other split."
    if found.status == "proven":
        most = rows * found.other_misses**2 if np.isfinite(found.other_misses) else np.inf
        figures["most_rows"] = None if np.isinf(most) or "min-max" in found.rule else float(f"{most:.2g}")
        power = f"Those of {found.other} would miss by {found.other_misses:,.0f} times the precision"
        if figures["most_rows"]:
            power += f", which {rows:,} rows allow to tell; up to about {most:.2g} would"
        return f"Its constants ({found.rule}) are those of the train split alone. {power}."
    if found.train_misses > 1:
        return (
            f"Its constants ({found.rule}) equal those of {found.other} and not of the train split, but may be written "
            "by hand: the limit is a round number, or the data only came close. No number of rows can tell."
        )
    return (
        f"Its constants ({found.rule}) are those of the train split and of {found.other} alike: the two differ by less than "
        f"float32 can tell in {rows:,} rows, or the train split holds the extremes. Give pre_transform_stats, whose "
        "number of rows tells."
    )
