"""What a trainer must know of its label, learned from the train split alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.guarded_trainer.recipe import Task
from spikeguard.components.robust import robust_sd
from spikeguard.components.training_curve import Floats

# Huber's estimator of location keeps 95 % efficiency on normal data with this tuning constant (Huber 1981, 4.5).
HUBER_TUNING = 1.345
# More classes than this are most likely identifiers or numbers.
MAX_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class LabelStatistics:
    """Robust location and scale, or the number of classes, of one label on one split."""

    split: str
    """The only split that was seen."""
    rows: int
    """Rows seen, all of them with a label."""
    location: float
    """Median, in units of the label; of class ids for classification."""
    scale: float
    """Robust standard deviation, in units of the label; > 0."""
    classes: int
    """Classes 0..classes-1 for classification; 0 for regression."""


def label_statistics(label: Floats, name: str, split: str, task: Task) -> LabelStatistics:
    """Learns the label's statistics and refuses labels that nothing can be learned from.

    Args:
      label: shape (n,), the labels of all rows of the split; NaN (or a negative class id) marks a missing one.
      name: the label's feature name, for messages.
      split: the split's name, for messages and for the record.
      task: `regression` or `classification` (labels are class ids 0, 1, 2, ...).

    Raises:
      InvalidDataError: no rows, a missing or infinite label, a fraction for a class id, one distinct value, too many
        classes.

    >>> import numpy as np
    >>> label_statistics(np.array([0.0, 1.0, 2.0, 3.0, 100.0]), "delay", "train", "regression").scale
    1.4826
    """
    where = f"label {name!r} in split {split!r}"
    if not len(label):
        raise InvalidDataError(f"split {split!r}", "has no rows", "Give more data, or a split that reaches it.")
    missing = ~np.isfinite(label) | ((label < 0) if task == "classification" else False)
    if missing.any():
        raise InvalidDataError(
            where,
            f"is missing or not finite in {int(missing.sum())} of {len(label)} rows",
            "Remove or fill these rows.",
        )
    if task == "classification" and (label != np.round(label)).any():
        raise InvalidDataError(where, "is no class id in every row: there are fractions", "Make it a class id from 0.")
    if np.min(label) == np.max(label):
        raise InvalidDataError(
            where, f"is {label[0]:g} in all {len(label)} rows: there is nothing to learn", "Check the label column."
        )
    classes = int(np.max(label)) + 1 if task == "classification" else 0
    if classes > MAX_CLASSES:
        raise InvalidDataError(
            where,
            f"has class ids up to {classes - 1}; {MAX_CLASSES} classes are the most",
            "Number the classes from 0, or train a regression.",
        )
    return LabelStatistics(
        split=split,
        rows=len(label),
        location=float(np.median(label)),
        scale=_robust_scale(label),
        classes=classes,
    )


def huber_delta(statistics: LabelStatistics) -> float:
    """1.345 robust standard deviations of the label: residuals beyond it pull with constant force."""
    return HUBER_TUNING * statistics.scale


def _robust_scale(label: Floats) -> float:
    """1.4826 x median absolute deviation; where more than half of the labels are equal, their standard deviation."""
    return robust_sd(label) or float(np.std(label))
