"""Chooses how to preprocess each feature, by schema and statistics of the train split, and says why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2

from spikeguard.components.columns import EXAMPLE_ID
from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.preprocessing import scaling
from spikeguard.components.preprocessing.example_ids import id_of_row
from spikeguard.components.preprocessing.winsorizing import winsorize, winsorized_z_score
from spikeguard.components.training_statistics.reading import SplitStatistics
from spikeguard.components.training_statistics.results import RobustStatistics
from spikeguard.components.training_statistics.robust_statistics import Fences

logger = logging.getLogger("spikeguard.preprocessing")

Step = Literal["id", "as it is", "z-score", "winsorize, z-score", "log1p, z-score", "left out"]

# Weight of a tail from which on outliers move mean and deviation: a normal distribution has 1, a Laplace distribution 1.7.
HEAVY_TAIL = 2.0
# Skewness by medcouple from which on a logarithm is tried before the ends are cut.
SKEWED = 0.3


@dataclasses.dataclass(frozen=True)
class PreprocessingChoice:
    """What is done with one feature."""

    feature: str
    step: Step
    reason: str
    has_indicator: bool = False
    """Whether a companion `<feature>_missing` tells its gaps."""

    def __str__(self) -> str:
        indicator = ", with an indicator of gaps" if self.has_indicator else ""
        return f"{self.feature}: {self.step}{indicator} ({self.reason})"


def choose_preprocessing(
    schema: schema_pb2.Schema, statistics: SplitStatistics | None = None
) -> dict[str, PreprocessingChoice]:
    """The step for each feature of a schema.

    Text and numbers that the schema declares to be categories get ids. Other numbers become z-scores: of the logarithm
    where they are >= 0 and skewed to the right, of values winsorized at the train split's fences where a tail is heavy. Flags
    of 0 and 1 stay. What is constant or missing throughout is left out. Without statistics every number becomes a z-score.

    Args:
      schema: of the raw features.
      statistics: of the train split, by TrainingStatistics.

    Returns:
      By feature, in the schema's order.

    >>> schema = schema_pb2.Schema()
    >>> for name, kind in (("city", schema_pb2.BYTES), ("age", schema_pb2.INT)):
    ...     _ = schema.feature.add(name=name, type=kind)
    >>> [str(choice) for choice in choose_preprocessing(schema).values()]
    ['city: id (text)', 'age: z-score, with an indicator of gaps (a number; there are no statistics)']
    """
    known = statistics.features if statistics is not None else {}
    return {feature.name: _choice(feature, known.get(feature.name)) for feature in schema.feature}


def _choice(feature: schema_pb2.Feature, found: RobustStatistics | None) -> PreprocessingChoice:
    name = feature.name
    if found is not None and not found.present_rows:
        return PreprocessingChoice(name, "left out", f"missing in all {found.rows} rows")
    if found is not None and any(finding.startswith("constant:") for finding in found.findings) and not found.missing:
        return PreprocessingChoice(name, "left out", "the same in all rows")
    if feature.type == schema_pb2.BYTES:
        return PreprocessingChoice(name, "id", "text")
    if feature.int_domain.is_categorical or feature.float_domain.is_categorical:
        return PreprocessingChoice(name, "id", "a category by the schema")
    has_gaps = found.missing + found.nan > 0 if found is not None else not feature.HasField("shape")
    if found is None or not found.quantiles:
        return PreprocessingChoice(name, "z-score", "a number; there are no statistics", has_gaps)
    low, high = found.quantiles[0][1], found.quantiles[-1][1]
    if {value for _, value in found.quantiles} <= {0.0, 1.0}:
        return PreprocessingChoice(name, "as it is", "a flag of 0 and 1", has_gaps)
    tail = max(found.lower_tail or 0.0, found.upper_tail or 0.0)
    if low >= 0 and (found.medcouple or 0.0) > SKEWED and high > 10 * max(found.median or 0.0, 1.0):
        return PreprocessingChoice(
            name, "log1p, z-score", f"from {low:.4g} to {high:.4g}, medcouple {found.medcouple:.2f}", has_gaps
        )
    if tail > HEAVY_TAIL and found.fences is not None:
        fences = f"{found.fences.lower:.4g} to {found.fences.upper:.4g}"
        return PreprocessingChoice(
            name, "winsorize, z-score", f"tail {tail:.1f} times a normal one's, fences {fences}", has_gaps
        )
    return PreprocessingChoice(name, "z-score", f"tails {tail:.1f} times a normal one's", has_gaps)


def preprocess(
    inputs: Mapping[str, Any],
    schema: schema_pb2.Schema,
    statistics: SplitStatistics | None = None,
    label: str | None = None,
    choices: Mapping[str, PreprocessingChoice] | None = None,
    unscaled: Sequence[str] = (),
) -> dict[str, tf.Tensor]:
    """All features made ready for a model, inside a preprocessing_fn; what was chosen goes to the log.

    Every constant is tf.Transform's own, of the split that it analyzes, or one of the train split's statistics, and lives in
    the transform graph, so that serving does the same.

    Args:
      inputs: raw columns: dense of shape (batch, ...), or sparse with at most one value per row.
      schema: of the raw features.
      statistics: of the train split; None where all numbers are to become z-scores.
      label: passed on as it is, under its name.
      choices: of some features in place of `choose_preprocessing`'s.
      unscaled: numbers that are passed on as they are, with 0 for gaps.

    Returns:
      One dense tensor per feature: float32 of shape (batch, d) or int64 ids; companions `<feature>_missing`; and
      `example_id`.

    Raises:
      InvalidArgumentError: an input is not in the schema.
    """
    chosen = {**choose_preprocessing(schema, statistics), **(choices or {})}
    features = {name: column for name, column in inputs.items() if name not in (label, EXAMPLE_ID)}
    for name in features:
        if name not in chosen:
            raise InvalidArgumentError("inputs", name, "be features of the schema", "Add it, or leave it out.")
    for name in sorted(features):
        logger.info("preprocess: %s", chosen[name])
    outputs: dict[str, tf.Tensor] = {
        EXAMPLE_ID: id_of_row({name: column for name, column in inputs.items() if name != label})
    }
    if label is not None and label in inputs:
        outputs[label] = inputs[label]
    steps = {name: chosen[name].step for name in features}
    outputs |= {name: scaling.vocabulary_id(features[name]) for name in features if steps[name] == "id"}
    numbers = {name: scaling.number(features[name]) for name in features if steps[name] not in ("id", "left out")}
    gaps = {name: column for name, column in numbers.items() if chosen[name].has_indicator}
    outputs |= {f"{name}_missing": column for name, column in scaling.each(scaling.missing, gaps).items()}
    scaled = {name: column for name, column in numbers.items() if steps[name] != "as it is" and name not in unscaled}
    scaled |= _of_step("log1p, z-score", scaling.log1p, scaled, steps)
    scaled |= _clipped(scaled, steps, statistics)
    unknown = {name: scaled.pop(name) for name in _unknown(scaled, steps, statistics)}
    numbers |= scaling.each(scaling.z_score, scaled) | scaling.each(winsorized_z_score, unknown)
    return outputs | {name: scaling.fill(column) for name, column in numbers.items()}


def _of_step(
    step: Step, apply: Callable[[tf.Tensor], tf.Tensor], columns: Mapping[str, tf.Tensor], steps: Mapping[str, Step]
) -> dict[str, tf.Tensor]:
    return scaling.each(apply, {name: column for name, column in columns.items() if steps[name] == step})


def _fences(name: str, statistics: SplitStatistics | None) -> Fences | None:
    found = statistics.features.get(name) if statistics is not None else None
    return found.fences if found is not None else None


def _clipped(
    columns: Mapping[str, tf.Tensor], steps: Mapping[str, Step], statistics: SplitStatistics | None
) -> dict[str, tf.Tensor]:
    """What is winsorized at fences that the statistics know already."""
    clipped = {}
    for name, column in columns.items():
        fences = _fences(name, statistics) if steps[name] == "winsorize, z-score" else None
        if fences is not None:
            clipped[name] = winsorize(column, fences.lower, fences.upper)
    return clipped


def _unknown(
    columns: Mapping[str, tf.Tensor], steps: Mapping[str, Step], statistics: SplitStatistics | None
) -> list[str]:
    """Names of what is winsorized at fences that no statistics know: one analyzer has to find these and the z-score."""
    return [name for name in columns if steps[name] == "winsorize, z-score" and _fences(name, statistics) is None]
