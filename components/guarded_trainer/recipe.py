"""How a model is trained, as one typed value that travels through a pipeline as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, get_args

from spikeguard.components.errors import InvalidArgumentError

# Holds, in the run's folder, the recipe as it was resolved and what came of checking it.
RECIPE_FILE = "recipe.json"

Task = Literal["regression", "classification"]
Loss = Literal["huber", "squared_error", "crossentropy", "generalized_crossentropy"]
Schedule = Literal["cosine", "exponential", "constant"]
Balance = Literal["none", "weights", "batches"]

# What a float32 can hold, with room for the loss that a weight multiplies.
_LARGEST = 1e30

LOSSES_OF_TASK: dict[Task, tuple[Loss, ...]] = {
    "regression": ("huber", "squared_error"),
    "classification": ("crossentropy", "generalized_crossentropy"),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> Recipe(learning_rate=-1)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: learning_rate must be above 0 and finite; got -1.
    >>> Recipe.from_json(Recipe(steps=500).to_json()).steps
    500
    """

    loss: Loss = "huber"
    """`huber` or `squared_error` for a regression; `crossentropy` or, where labels may be wrong,
    `generalized_crossentropy` for a classification."""
    huber_delta: float | None = None
    """Residual, in units of the label, beyond which Huber's loss is linear; > 0. None: from the label's robust scale
    on the train split, see `labels.huber_delta`."""
    label_smoothing: float = 0.0
    """Probability that `crossentropy` spreads over all classes; in [0, 1)."""
    class_weights: tuple[float, ...] | None = None
    """Classification: weight of the loss of class 0, 1, ...; each >= 0. None: all equal, or those of a ClassWeights artifact."""
    balance: Balance = "none"
    """Classification: what evens out the classes. `weights`: weights of their losses. `batches`: batches that all have the
    same rows of each class, see `balancing.balanced_batches`."""
    corrects_prior: bool = True
    """Whether predictions outside of training have the true shares of the classes, where `balance` changes these."""
    learning_rate: float = 1e-3
    """Peak rate of the Adam optimizer; > 0."""
    schedule: Schedule = "cosine"
    """What follows the warm-up: half a `cosine` to 0, an `exponential` to a hundredth, or a `constant` rate."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; >= 0 and below `steps`. None: the shortest sensible, see `schedule.warmup_steps_for`."""
    is_guarded: bool = True
    """Whether `SpikeGuard` is put around the optimizer."""
    checks_learning_rate: bool = True
    """Whether a range test of some 100 steps looks, before training, if the learning rate is stable and useful."""
    l2: float = 0.0
    """Penalty on the squares of the default model's kernels; >= 0."""
    dropout: float = 0.0
    """Share of the default model's hidden units that a step leaves out; in [0, 1)."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the optimizer (AdamW), per step and unit of learning rate; >= 0."""
    steps: int = 1000
    """Optimizer steps; >= 1."""
    batch_size: int | None = None
    """Rows per step; >= 1. None: 256, or the power of two that still gives a small train split ten steps per epoch."""
    keep_short_batch: bool = False
    """Whether an epoch's last, shorter batch is trained on. Its mean loss is noisier than the others'."""
    standardize_label: bool = True
    """Regression: whether the network predicts in robust standard deviations of the train label, rescaled at its output."""
    hidden_units: tuple[int, ...] = (64, 32)
    """Widths of the default model's hidden layers; each >= 1."""
    block_steps: int = 256
    """Steps per block of the recorded curve, the most that a killed run loses; >= 1."""
    worst_examples: int = 5
    """Examples with the largest loss that are recorded per step; >= 0."""
    replays_spikes: bool = True
    """Whether states and batches of high losses are kept and replayed after the training, to verify what caused them; it
    takes at most a tenth of the training's time or half a second, and what it was at when that was over."""
    seed: int = 0
    """Seed of the weights and of the order of the rows; >= 0."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("loss", get_args(Loss)),
            ("schedule", get_args(Schedule)),
            ("balance", get_args(Balance)),
        ):
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(name, getattr(self, name), f"be one of {', '.join(choices)}")
        for name, least in (("steps", 1), ("block_steps", 1), ("worst_examples", 0), ("seed", 0)):
            if not _is_integer(getattr(self, name), least):
                raise InvalidArgumentError(name, getattr(self, name), f"be an integer of at least {least}")
        if self.batch_size is not None and not _is_integer(self.batch_size, 1):
            raise InvalidArgumentError("batch_size", self.batch_size, "be an integer of at least 1, or None")
        if self.warmup_steps is not None and not (_is_integer(self.warmup_steps, 0) and self.warmup_steps < self.steps):
            raise InvalidArgumentError(
                "warmup_steps", self.warmup_steps, f"be an integer from 0 to {self.steps - 1}, below steps, or None"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InvalidArgumentError("learning_rate", self.learning_rate, "be above 0 and finite")
        if self.huber_delta is not None and not 0 < self.huber_delta < math.inf:
            raise InvalidArgumentError("huber_delta", self.huber_delta, "be above 0 and finite, or None")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidArgumentError(name, getattr(self, name), "be at least 0 and below 1")
        for name in ("l2", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidArgumentError(name, getattr(self, name), "be at least 0 and finite")
        if self.label_smoothing and self.loss != "crossentropy":
            raise InvalidArgumentError("label_smoothing", self.label_smoothing, f"be 0 for the loss {self.loss!r}")
        if any(not _is_integer(units, 1) for units in self.hidden_units):
            raise InvalidArgumentError("hidden_units", self.hidden_units, "hold integers of at least 1")
        weights = self.class_weights
        if weights is not None and not (all(0 <= weight <= _LARGEST for weight in weights) and sum(weights) > 0):
            raise InvalidArgumentError("class_weights", weights, f"be from 0 to {_LARGEST:g} and not all 0")
        if weights is not None and self.balance == "batches":
            raise InvalidArgumentError("class_weights", weights, "be None where batches are balanced")

    def check_task(self, task: Task) -> None:
        """Raises InvalidArgumentError where the loss or the class weights do not fit the task."""
        if task not in LOSSES_OF_TASK:
            raise InvalidArgumentError("task", task, f"be one of {', '.join(LOSSES_OF_TASK)}")
        if self.loss not in LOSSES_OF_TASK[task]:
            raise InvalidArgumentError("loss", self.loss, f"be one of {', '.join(LOSSES_OF_TASK[task])} for {task}")
        if self.class_weights is not None and task == "regression":
            raise InvalidArgumentError("class_weights", self.class_weights, "be None for regression")
        if self.balance != "none" and task == "regression":
            raise InvalidArgumentError("balance", self.balance, "be none for regression, which has no classes")

    def to_json(self) -> str:
        """The recipe as a JSON object, one key per field."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Reads `to_json`'s text; raises InvalidArgumentError for an unknown field."""
        fields: dict[str, Any] = json.loads(text)
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InvalidArgumentError("recipe", unknown, "hold known fields only")
        for name, value in fields.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        return cls(**fields)


def guarded(task: Task) -> Recipe:
    """The recipe that spikeguard stands for: robust loss, warm-up and decay, a guard, batches of one size."""
    return Recipe(loss="huber" if task == "regression" else "crossentropy")


def naive(task: Task) -> Recipe:
    """What the person with the spiky curve did: squared error, a high constant rate, batches as they come."""
    return Recipe(
        loss="squared_error" if task == "regression" else "crossentropy",
        learning_rate=0.1,
        schedule="constant",
        warmup_steps=0,
        is_guarded=False,
        keep_short_batch=True,
        standardize_label=False,
    )


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
