"""The file of a ClassWeights artifact: what is known of a label's classes, and the weights of their losses.

`class_balance.json`, format `spikeguard.class_balance/1`:

    {"format": "spikeguard.class_balance/1",
     "label", "task": "classification" | "regression", "kind": "classes" | "multi_hot" | "numbers",
     "train_split",
     "classes": [{"name", "weight": number or null, "counts": {split: rows}}], sorted by name, numbers as numbers; no weight
         for a class that train lacks. Empty for a regression, and where the classes of train are not known.
     "splits": {split: rows},
     "scheme", "beta", "cap": how the weights were made,
     "imbalance_ratio", "entropy", "effective_number": {class: number}: of the train split; null where not known,
     "label_shift": [{"split", "distance", "effect", "p_value"}],
     "batch": {"size", "chance_without": {class: p}, "count_mean": {class: rows}, "count_sd": {class: rows},
               "smallest_complete_batch", "expected_loss", "loss_jitter", "loss_jitter_with_weights",
               "smallest_batch_size"} or null,
     "advice": [sentence], "notes": [sentence],
     "regression": {the fields of LabelRange} or null}

A split whose classes are not known exactly is missing from each class's `counts`, and a note says why. Losses are in the
unit of the cross-entropy, of a model that predicts the shares of the classes. The text is strict JSON: no NaN, no Infinity.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.imbalance_detector.class_weighting import LARGEST_WEIGHT
from spikeguard.components.imbalance_detector.label_range import LabelRange

FORMAT = "spikeguard.class_balance/1"
FILE_NAME = "class_balance.json"


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """One class of the label."""

    name: str
    """The raw label as text, or the position in a multi-hot label."""
    weight: float | None
    """Of its rows' losses, > 0, with a mean of 1 over the train rows; None for a class that train lacks."""
    counts: Mapping[str, int]
    """Rows by split, where known exactly."""


@dataclasses.dataclass(frozen=True)
class ShiftOfSplit:
    """`label_shift.LabelShift` of a split from train."""

    split: str
    distance: float
    effect: float
    p_value: float


@dataclasses.dataclass(frozen=True)
class BatchBalance:
    """What chance does to the classes in a batch of shuffled train rows; see `batch_odds`."""

    size: int
    chance_without: Mapping[str, float]
    """Chance that a batch lacks the class."""
    count_mean: Mapping[str, float]
    count_sd: Mapping[str, float]
    smallest_complete_batch: int
    """Rows of a batch that brings the chance to lack any class down to what is asked for."""
    expected_loss: float | None = None
    """Mean loss of a model that predicts the classes' shares: their entropy, in nats. None for multi-hot labels, as
    are the others, for which statistics do not tell what classes come together."""
    loss_jitter: float | None = None
    """Standard deviation of a batch's mean loss that its composition alone explains, under the same model."""
    loss_jitter_with_weights: float | None = None
    """The same with the weights, under the model that predicts the weighted shares."""
    smallest_batch_size: int | None = None
    """Rows of a batch that bring `loss_jitter` down to the share of `expected_loss` that is asked for."""


@dataclasses.dataclass(frozen=True)
class ClassBalance:
    """All that ImbalanceDetector found out; figures are None where the classes are not known."""

    label: str
    task: str
    kind: str
    train_split: str
    classes: tuple[LabelClass, ...]
    splits: Mapping[str, int]
    """Rows by split."""
    scheme: str
    beta: float
    cap: float
    imbalance_ratio: float | None = None
    entropy: float | None = None
    effective_number: Mapping[str, float] | None = None
    label_shift: tuple[ShiftOfSplit, ...] = ()
    batch: BatchBalance | None = None
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    regression: LabelRange | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Weight by name of each class that the train split has."""
        return {known.name: known.weight for known in self.classes if known.weight is not None}


def write_class_balance(balance: ClassBalance, folder: str | os.PathLike[str]) -> None:
    """Writes `class_balance.json` into an existing or new folder."""
    target = pathlib.Path(folder) / FILE_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **dataclasses.asdict(balance)}
    target.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_class_weights(folder: str | os.PathLike[str]) -> ClassBalance:
    """Reads a ClassWeights artifact.

    Args:
      folder: the artifact's `uri`.

    Raises:
      InvalidDataError: the file is missing, damaged or of another format, or holds a weight that no loss can take.

    >>> read_class_weights("/nowhere")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/class_balance.json: cannot be read (No such file or directory). Run ImbalanceDetector again.
    """
    path = pathlib.Path(folder) / FILE_NAME
    remedy = "Run ImbalanceDetector again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.pop("format")
        if found != FORMAT:
            raise InvalidDataError(str(path), f"has format {found!r}, not {FORMAT!r}", remedy)
        balance = _balance_of(content)
    except OSError as error:
        raise InvalidDataError(str(path), f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidDataError):
            raise
        raise InvalidDataError(str(path), f"cannot be read ({type(error).__name__}: {error})", remedy) from error
    for name, weight in balance.weights.items():
        if not (isinstance(weight, int | float) and math.isfinite(weight) and 0 < weight <= LARGEST_WEIGHT):
            raise InvalidDataError(
                str(path), f"has the weight {weight} for class {name!r}, which no loss can take", remedy
            )
    return balance


def _balance_of(content: dict[str, Any]) -> ClassBalance:
    content["classes"] = tuple(LabelClass(**known) for known in content["classes"])
    content["label_shift"] = tuple(ShiftOfSplit(**shift) for shift in content["label_shift"])
    content["batch"] = BatchBalance(**content["batch"]) if content["batch"] else None
    content["regression"] = LabelRange(**content["regression"]) if content["regression"] else None
    content["advice"], content["notes"] = tuple(content["advice"]), tuple(content["notes"])
    return ClassBalance(**content)
