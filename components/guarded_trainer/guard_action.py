"""The bits by which a curve tells what the guard did; apart from the guard, as readers of curves need no TensorFlow."""

from __future__ import annotations

import enum


class GuardAction(enum.IntFlag):
    """What the guard did at a step, and why; 0 for a step that it left alone."""

    SKIP = 1
    """No update: weights, moments and the schedule's position stay as they were."""
    CLIP = 2
    """The gradients were scaled down to the norm's limit."""
    BACK_OFF = 4
    """The factor on the learning rate was halved."""
    ROLLBACK = 8
    """Weights and moments returned to the last good state."""
    NON_FINITE_LOSS = 16
    NON_FINITE_GRADIENT = 32
    HIGH_GRADIENT_NORM = 64
    HIGH_LOSS = 128
    GAVE_UP = 256
    """A rollback was due but all attempts were spent."""
    LARGE_UPDATE = 512
    """A layer would have changed by more than the bound."""
