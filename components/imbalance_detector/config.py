"""How the label is judged and weighted, as one typed value that travels through a pipeline as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.imbalance_detector.class_weighting import Scheme

LabelTask = Literal["regression", "classification"]


@dataclasses.dataclass(frozen=True)
class ImbalanceConfig:
    """How the label is judged and weighted.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> ImbalanceConfig("y", "classification", beta=1.0)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: beta must be at least 0 and below 1; got 1.0.
    """

    label: str
    """Name of the label."""
    task: LabelTask
    train_split: str = "train"
    """The split that is trained on: weights and odds come from it alone."""
    batch_size: int | None = None
    """Rows per step; >= 1. None: what GuardedTrainer takes by default for as many rows."""
    scheme: Scheme = "inverse_frequency"
    """How the weights come from the rows, see `class_weighting.class_weights`."""
    beta: float = 0.999
    """Of the effective number of samples; in [0, 1). At 0.999 rows beyond a few thousand say nothing new."""
    cap: float = 100.0
    """Largest ratio of two weights; >= 1."""
    max_ratio: float = 10.0
    """Largest class over smallest beyond which the label is called imbalanced; >= 1."""
    min_class_rows: int = 10
    """Rows of train below which a class is called too small to learn; >= 1."""
    max_chance_without: float = 0.01
    """Largest chance that a batch lacks a class that is not worth a word; in (0, 1)."""
    max_jitter: float = 0.1
    """Largest jitter of the loss by the composition of batches that is not worth a word, as a share of the loss; > 0."""
    min_shift_effect: float = 0.1
    """Cohen's w from which on a label shift matters, where it is significant; > 0."""
    significance: float = 0.01
    """Largest p-value of a label shift that is significant, over all splits together; in (0, 1)."""
    max_classes: int = 1000
    """Distinct values beyond which a label is taken for an identifier or a number; >= 2."""
    max_tail: float = 2.0
    """Regression: weight of a tail (1 for a normal distribution) beyond which it is called heavy; > 0."""
    max_emptiness: float = 0.5
    """Regression: share of the range that may hold next to no rows; in (0, 1)."""

    def __post_init__(self) -> None:
        if self.task not in get_args(LabelTask):
            raise InvalidArgumentError("task", self.task, f"be one of {', '.join(get_args(LabelTask))}")
        if self.scheme not in get_args(Scheme):
            raise InvalidArgumentError("scheme", self.scheme, f"be one of {', '.join(get_args(Scheme))}")
        if not 0 <= self.beta < 1:
            raise InvalidArgumentError("beta", self.beta, "be at least 0 and below 1")
        for name in ("cap", "max_ratio"):
            if not 1 <= getattr(self, name) < math.inf:
                raise InvalidArgumentError(name, getattr(self, name), "be at least 1 and finite")
        for name in ("max_chance_without", "significance", "max_emptiness"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidArgumentError(name, getattr(self, name), "be above 0 and below 1")
        for name in ("max_jitter", "min_shift_effect", "max_tail"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(name, getattr(self, name), "be above 0 and finite")
        for name, least in (("min_class_rows", 1), ("max_classes", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise InvalidArgumentError(name, value, f"be an integer of at least {least}")
