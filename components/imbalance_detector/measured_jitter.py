"""What the composition of its batches did to a run's loss, off the recorder's counts."""

from __future__ import annotations

import dataclasses

import numpy as np

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_curve import Floats, TrainingCurve

# Steps for each class, with fewer of which its mean loss is not told from noise.
_FEWEST_STEPS = 8


@dataclasses.dataclass(frozen=True)
class MeasuredJitter:
    """The loss of some steps, taken apart."""

    class_losses: Floats
    """Mean loss of each class's rows, in units of the loss; NaN for a class that no batch held. Shape (classes,)."""
    jitter: float
    """Standard deviation of the loss that the classes in the batches explain: compare `batch_odds.loss_jitter`."""
    loss_sd: float
    """Standard deviation of the loss as a whole."""


def measured_jitter(curve: TrainingCurve, last_steps: int | None = None) -> MeasuredJitter:
    """Takes the loss apart by least squares on the shares of the classes: loss_t = sum_c share_tc L_c + rest.

    Args:
      curve: with the classes of each batch.
      last_steps: steps from the end to look at, over which the model should change little; None for all.

    Raises:
      InvalidDataError: the classes were not recorded, or for too few steps.

    >>> shares = np.random.default_rng(0).multinomial(32, [0.9, 0.1], size=100)
    >>> run = TrainingCurve.from_columns(loss=shares @ [0.1, 2.0] / 32, class_counts=shares)
    >>> measured_jitter(run).class_losses.round(6).tolist()
    [0.1, 2.0]
    """
    first = max(0, len(curve) - last_steps) if last_steps is not None else 0
    counts, loss = curve.class_counts[first:].astype(np.float64), curve.loss[first:]
    total = counts.sum(axis=1)
    is_known = (total > 0) & np.isfinite(loss)
    has_rows = counts[is_known].sum(axis=0) > 0
    if is_known.sum() < _FEWEST_STEPS * max(2, int(has_rows.sum())):
        raise InvalidDataError(
            "the training curve",
            f"has the classes of {int(is_known.sum())} steps, too few to tell their losses",
            "Train with a CurveRecorder and a cross-entropy.",
        )
    shares = counts[is_known] / total[is_known, None]
    class_losses = np.full(counts.shape[1], np.nan)
    class_losses[has_rows] = np.linalg.lstsq(shares[:, has_rows], loss[is_known], rcond=None)[0]
    explained = shares[:, has_rows] @ class_losses[has_rows]
    return MeasuredJitter(class_losses, float(explained.std()), float(loss[is_known].std()))
