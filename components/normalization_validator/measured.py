"""All that the checks look at: the sample, what the graph made of it, and the summaries of all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.normalization_validator.graph import ProbedGraph, Raw, Sources
from spikeguard.components.normalization_validator.measuring import Key
from spikeguard.components.normalization_validator.populations import forbidden_populations, named, pooled
from spikeguard.components.normalization_validator.summaries import Columns
from spikeguard.components.training_curve import Floats


@dataclasses.dataclass(frozen=True)
class NormalizationConfig:
    """What is validated, and from where on a WARNING is given; the fields of `NormalizationValidator`.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> NormalizationConfig(sample_rows=0)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: sample_rows must be at least 8; got 0.
    """

    train_split: str = "train"
    label: str | None = None
    sample_rows: int = 1000
    max_range_sd: float = 10.0
    max_size: float = 10.0
    min_sd: float = 1e-3
    max_shift_sd: float = 0.25
    max_sd_ratio: float = 2.0

    def __post_init__(self) -> None:
        if self.sample_rows < 8:
            raise InvalidArgumentError("sample_rows", self.sample_rows, "be at least 8")
        for name in ("max_range_sd", "max_size", "min_sd", "max_shift_sd"):
            if not getattr(self, name) > 0:
                raise InvalidArgumentError(name, getattr(self, name), "be above 0")
        if not self.max_sd_ratio > 1:
            raise InvalidArgumentError("max_sd_ratio", self.max_sd_ratio, "be above 1")


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evidence."""

    config: NormalizationConfig
    graph: ProbedGraph
    splits: tuple[str, ...]
    """Splits with rows, the train split among them."""
    sample: Raw
    """Rows of the train split."""
    raw_sample: Mapping[str, Floats]
    output_sample: Mapping[str, Floats]
    sources: Mapping[str, Sources]
    """By output."""
    summaries: Mapping[Key, Columns]
    values: Callable[[Sequence[Key]], Mapping[Key, Floats]]
    """Gives all values of some columns, in another pass."""
    analyzed_rows: int | None = None
    """Rows that tf.Transform says it analyzed; None where it does not."""

    @property
    def train(self) -> str:
        return self.config.train_split

    def columns(self, kind: str, name: str) -> dict[str, Columns]:
        """By split, where there are any."""
        found = {split: self.summaries.get((kind, split, name)) for split in self.splits}
        return {split: columns for split, columns in found.items() if columns is not None}

    def populations(self, columns: Mapping[str, Columns]) -> dict[str, Columns]:
        """Summaries of the forbidden sets of rows, by their names."""
        sets = forbidden_populations(list(columns), self.train)
        return {named(population): pooled(columns, population) for population in sets}

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return int(self.summaries["rows", split, ""].count[0])


def at(columns: Columns, place: int) -> Columns:
    """One of several columns, each field of shape ()."""
    return Columns.from_array(columns.array[:, place])


def raw_place(raw_width: int, output_width: int, place: int) -> int | None:
    """The raw column that an output column can be compared with."""
    if raw_width == 1:
        return 0
    return place if raw_width == output_width else None
