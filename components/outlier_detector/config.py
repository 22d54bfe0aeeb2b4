"""What counts as an outlier and what becomes of it, as one typed value that travels through a pipeline as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, get_args

from spikeguard.components.columns import EXAMPLE_ID, OUTLIER_FLAG, OUTLIER_SCORE, SAMPLE_WEIGHT
from spikeguard.components.errors import InvalidArgumentError

Treatment = Literal["flag", "drop", "downweight", "winsorize"]


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """All that decides which rows are outliers and how they are treated.

    A row is an outlier where one of its values lies `fence_factor` times as far from the median as the fence does, where one
    is infinite, or where the isolation forest's score is above the threshold.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> DetectorConfig(contamination=0.9)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: contamination must be above 0 and at most 0.5; got 0.9.
    """

    split: str = "train"
    """The split that is trained on: the only one that anything is fitted on, and the only one that rows are dropped from."""
    label: str | None = None
    """The label: it has fences in a regression, and is no input of the forest, so that serving can score as well."""
    task: str | None = None
    """`regression` or `classification`; given with a label."""
    treatment: Treatment = "flag"
    contamination: float = 0.01
    """Share of the split that the forest is to score as outliers; in (0, 0.5]. It sets the score's threshold."""
    score_threshold: float | None = None
    """Score above which a row is an outlier, in (0, 1], in place of `contamination`; 0.5 is scikit-learn's `auto`."""
    fence_factor: float = 3.0
    """Distance from the median, in distances of the fence, beyond which a value makes its row an outlier; >= 1."""
    trees: int = 100
    """Trees of the isolation forest; 0: fences alone."""
    max_samples: int = 256
    """Rows that each tree sees; >= 2."""
    seed: int = 0
    """Of the drawn rows and of the forest; >= 0."""
    max_dropped_share: float = 0.05
    """`drop` refuses to drop more than this share of the split; in (0, 1)."""
    outlier_weight: float = 0.1
    """Weight that `downweight` gives an outlier of the split; all others have 1; in [0, 1)."""
    weight: str = SAMPLE_WEIGHT
    """Name of the column that `downweight` adds."""
    rare_share: float = 0.01
    """Categories with less than this share of the split's values count as rare; in (0, 1)."""
    top_rows: int = 20
    """Rows that `outliers.json` shows; >= 0."""

    def __post_init__(self) -> None:
        if self.treatment not in get_args(Treatment):
            raise InvalidArgumentError("treatment", self.treatment, f"be one of {', '.join(get_args(Treatment))}")
        if self.task not in (None, "regression", "classification"):
            raise InvalidArgumentError("task", self.task, "be 'regression' or 'classification'")
        if (self.label is None) != (self.task is None):
            raise InvalidArgumentError("task", self.task, "be given with a label, and only with one")
        if not 0 < self.contamination <= 0.5:
            raise InvalidArgumentError("contamination", self.contamination, "be above 0 and at most 0.5")
        if self.score_threshold is not None and not 0 < self.score_threshold <= 1:
            raise InvalidArgumentError("score_threshold", self.score_threshold, "be above 0 and at most 1, or None")
        if not 1 <= self.fence_factor < math.inf:
            raise InvalidArgumentError("fence_factor", self.fence_factor, "be at least 1 and finite")
        for name, least in (("trees", 0), ("max_samples", 2), ("seed", 0), ("top_rows", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidArgumentError(name, value, f"be an integer of at least {least}")
        for name in ("max_dropped_share", "rare_share"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidArgumentError(name, getattr(self, name), "be above 0 and below 1")
        if not 0 <= self.outlier_weight < 1:
            raise InvalidArgumentError("outlier_weight", self.outlier_weight, "be at least 0 and below 1")
        if not self.weight or self.weight in (self.label, EXAMPLE_ID, OUTLIER_SCORE, OUTLIER_FLAG):
            raise InvalidArgumentError("weight", self.weight, "be a name that no other column has")

    @classmethod
    def with_settings(cls, **settings: Any) -> DetectorConfig:
        """From fields by name; raises InvalidArgumentError for one that does not exist.

        >>> DetectorConfig.with_settings(contaminated=0.1)
        Traceback (most recent call last):
            ...
        spikeguard.components.errors.InvalidArgumentError: settings must name fields of DetectorConfig; got ['contaminated'].
        """
        unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InvalidArgumentError("settings", unknown, "name fields of DetectorConfig")
        return cls(**settings)

    def to_json(self) -> str:
        """The configuration as a JSON object, one key per field."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DetectorConfig:
        """Reads `to_json`'s text."""
        return cls(**json.loads(text))

    @property
    def added_columns(self) -> tuple[str, ...]:
        """Names of the columns that rows get, beside `example_id`."""
        return (OUTLIER_SCORE, OUTLIER_FLAG, *((self.weight,) if self.treatment == "downweight" else ()))
