"""The training curve as data: what the recorder and other tools' logs give, what the detector reads."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidArgumentError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CurveKind = Literal["step", "epoch"]
LossKind = Literal["batch", "running_mean", "epoch_mean"]

# Folder of the recorder's blocks, in a log folder.
CURVE_FOLDER = "curve"
# Fields that hold a row for each point.
_TABLES = ("class_counts", "worst_loss", "worst_id")


@dataclasses.dataclass(frozen=True)
class TrainingCurve:
    """The loss of each optimizer step or epoch, and what was known about it.

    All step arrays have the same length n, in training order. A float that was not recorded is NaN, an integer 0, a
    table has no columns.
    """

    step: Ints
    """Number of the optimizer step, from 1. Shape (n,)."""
    loss: Floats
    """Loss of the step's own batch, before the update and without regularization. Shape (n,); NaN and infinity are kept."""
    epoch: Ints
    """Epoch of the step, from 0. Shape (n,)."""
    position: Ints
    """Position of the step in its epoch, from 0. Shape (n,)."""
    total_loss: Floats
    """The loss with regularization: what the gradients are of. Shape (n,)."""
    batch_size: Ints
    """Rows in the step's batch. Shape (n,)."""
    learning_rate: Floats
    """Learning rate that the update used, before the guard's factor. Shape (n,)."""
    guard_factor: Floats
    """What the guard multiplied the learning rate by; 1 where nothing guards. Shape (n,)."""
    guard_action: Ints
    """`GuardAction` bits: what the guard did at the step, and why; 0 for nothing. Shape (n,)."""
    gradient_norm: Floats
    """Euclidean norm of all gradients together, before any clipping. Shape (n,)."""
    update_ratio: Floats
    """Norm of the change of the weights over the norm of the weights; 0 for a skipped step. Shape (n,)."""
    largest_input: Floats
    """Largest absolute value among the float inputs of the batch; NaN where one of them is NaN. Shape (n,)."""
    label_mean: Floats
    """Mean of the batch's labels. Shape (n,)."""
    class_counts: Ints
    """Rows of each class in the batch. Shape (n, classes)."""
    worst_loss: Floats
    """Losses of the batch's worst examples, largest first, NaN beyond the batch. Shape (n, k)."""
    worst_id: Ints
    """Ids of the same examples, -1 where the data carry none. Shape (n, k)."""
    validation_step: Ints
    """Step after which each validation pass ran. Shape (m,), m may be 0."""
    validation_loss: Floats
    """Mean loss over the validation rows. Shape (m,)."""
    kind: CurveKind = "step"
    """What a point is: an optimizer step, or an epoch, whose number `step` then holds."""
    loss_is: LossKind = "batch"
    """What the source held. Of running means `loss` holds the batch losses recovered from them, NaN where that failed."""
    notes: tuple[str, ...] = ()
    """Sentences on what the reader had to leave out or to assume."""
    is_cut: bool = False
    """Whether the log breaks off in the middle of a record, so that the end of the run may be missing."""

    def __len__(self) -> int:
        return len(self.step)

    def take(self, places: Ints) -> TrainingCurve:
        """The curve of some of the points.

        Args:
          places: indices of the points to keep, in the order wanted. Shape (k,).

        >>> TrainingCurve.from_losses([3.0, 2.0, 1.0]).take(np.array([0, 2])).step.tolist()
        [1, 3]
        """
        fields = [field.name for field in dataclasses.fields(self) if field.type in ("Ints", "Floats")]
        kept = [name for name in fields if not name.startswith("validation_")]
        return dataclasses.replace(self, **{name: getattr(self, name)[places] for name in kept})

    @classmethod
    def from_columns(
        cls,
        kind: CurveKind = "step",
        loss_is: LossKind = "batch",
        notes: tuple[str, ...] = (),
        is_cut: bool = False,
        **columns: npt.ArrayLike,
    ) -> TrainingCurve:
        """A curve from the columns that are known.

        Args:
          kind: what a point is.
          loss_is: what the source held.
          notes: what the reader left out or assumed.
          is_cut: whether the log breaks off.
          **columns: arrays named after the fields; `loss` is required, `step` is 1, 2, 3, ... where it is missing.

        Raises:
          InvalidArgumentError: the losses have not one dimension.

        >>> TrainingCurve.from_columns(loss=[2.0, 1.0], batch_size=[32, 32]).learning_rate.tolist()
        [nan, nan]
        """
        loss = np.asarray(columns["loss"], dtype=np.float64)
        if loss.ndim != 1:
            raise InvalidArgumentError("loss", f"shape {loss.shape}", "have one dimension")
        n, m = len(loss), len(np.asarray(columns.get("validation_step", ())))
        unknown: dict[str, npt.NDArray[Any]] = {"step": np.arange(1, n + 1, dtype=np.int64)}
        for field in dataclasses.fields(cls):
            if field.type not in ("Ints", "Floats"):
                continue
            rows = m if field.name.startswith("validation_") else n
            shape = (rows, 0) if field.name in _TABLES else (rows,)
            is_integer = field.type == "Ints"
            unknown.setdefault(field.name, np.zeros(shape, np.int64) if is_integer else np.full(shape, np.nan))
            if field.name in columns:
                unknown[field.name] = np.asarray(columns[field.name], dtype=np.int64 if is_integer else np.float64)
        return cls(**unknown, kind=kind, loss_is=loss_is, notes=notes, is_cut=is_cut)

    @classmethod
    def from_losses(cls, loss: npt.ArrayLike) -> TrainingCurve:
        """A curve that knows nothing but its losses, of steps 1, 2, 3, ...

        Args:
          loss: shape (n,), any finite or non-finite floats.

        >>> TrainingCurve.from_losses([2.0, 1.0]).step.tolist()
        [1, 2]
        """
        return cls.from_columns(loss=loss)
