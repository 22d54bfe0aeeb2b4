"""How a model is trained, as one typed value that travels through a pipeline as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, get_args

from spikeguard.components.errors import InvalidArgumentError

Task = Literal["regression", "classification"]
Loss = Literal["huber", "squared_error", "crossentropy"]
Schedule = Literal["warmup_cosine", "constant"]

LOSSES_OF_TASK: dict[Task, tuple[Loss, ...]] = {
    "regression": ("huber", "squared_error"),
    "classification": ("crossentropy",),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained.

    Raises:
      InvalidArgumentError: a field is outside its range.

    >>> Recipe(learning_rate=-1)
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: learning_rate must be above 0; got -1.
    >>> Recipe.from_json(Recipe(steps=500).to_json()).steps
    500
    """

    loss: Loss = "huber"
    huber_delta: float | None = None
    """Residual, in units of the label, beyond which Huber's loss is linear; > 0. None: from the label's robust scale
    on the train split, see `labels.huber_delta`."""
    learning_rate: float = 1e-3
    """Peak rate of the Adam optimizer; > 0."""
    schedule: Schedule = "warmup_cosine"
    """`warmup_cosine`: linear from 0 to the peak, then a half cosine to 0. `constant`: the peak throughout."""
    warmup_share: float = 0.05
    """Share of the steps spent warming up; in [0, 0.5]. The tuning playbook advises the shortest that works, at most 0.1."""
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
    seed: int = 0
    """Seed of the weights and of the order of the rows; >= 0."""

    def __post_init__(self) -> None:
        for name, choices in (("loss", get_args(Loss)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(name, getattr(self, name), f"be one of {', '.join(choices)}")
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise InvalidArgumentError("steps", self.steps, "be an integer of at least 1")
        if self.batch_size is not None and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise InvalidArgumentError("batch_size", self.batch_size, "be an integer of at least 1, or None")
        if not self.learning_rate > 0:
            raise InvalidArgumentError("learning_rate", self.learning_rate, "be above 0")
        if self.huber_delta is not None and not self.huber_delta > 0:
            raise InvalidArgumentError("huber_delta", self.huber_delta, "be above 0, or None")
        if not 0 <= self.warmup_share <= 0.5:
            raise InvalidArgumentError("warmup_share", self.warmup_share, "lie between 0 and 0.5")
        if any(units < 1 for units in self.hidden_units):
            raise InvalidArgumentError("hidden_units", self.hidden_units, "hold integers of at least 1")
        if self.seed < 0:
            raise InvalidArgumentError("seed", self.seed, "be at least 0")

    def resolved(self, rows: int, huber_delta: float) -> Recipe:
        """The recipe with nothing left open, for a train split of `rows` rows.

        >>> Recipe().resolved(rows=400, huber_delta=2.0).batch_size
        32
        """
        return dataclasses.replace(
            self,
            batch_size=self.batch_size or min(256, 2 ** max(0, int(math.log2(max(1, rows // 10))))),
            huber_delta=self.huber_delta or (huber_delta if self.loss == "huber" else None),
        )

    def check_task(self, task: Task) -> None:
        """Raises InvalidArgumentError where the loss does not fit the task."""
        if task not in LOSSES_OF_TASK:
            raise InvalidArgumentError("task", task, f"be one of {', '.join(LOSSES_OF_TASK)}")
        if self.loss not in LOSSES_OF_TASK[task]:
            raise InvalidArgumentError("loss", self.loss, f"be one of {', '.join(LOSSES_OF_TASK[task])} for {task}")

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
        if "hidden_units" in fields:
            fields["hidden_units"] = tuple(fields["hidden_units"])
        return cls(**fields)


def guarded(task: Task) -> Recipe:
    """The recipe that spikeguard stands for: robust loss, warm-up and cosine decay, batches of one size."""
    return Recipe(loss="huber" if task == "regression" else "crossentropy")


def naive(task: Task) -> Recipe:
    """What the person with the spiky curve did: squared error, a high constant rate, batches as they come."""
    return Recipe(
        loss="squared_error" if task == "regression" else "crossentropy",
        learning_rate=0.1,
        schedule="constant",
        keep_short_batch=True,
        standardize_label=False,
    )
