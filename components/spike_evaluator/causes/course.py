"""Where a run as a whole went wrong, where no spike tells of it: it diverged, or rose before it settled."""

from __future__ import annotations

import numpy as np

from spikeguard.components.robust import MAD_TO_SD
from spikeguard.components.spike_evaluator.detection import Spike, SpikeFindings
from spikeguard.components.training_curve import TrainingCurve

# Steps before a divergence, standard deviations that its beginning is up, and what stands for a loss that is not finite.
_NEAR, _RAISED, _HUGE = 64, 4.0, 1e30
# Multiple of the first loss that a start reaches which goes wrong, as in `SpikePolicy.max_start_over_first`.
START = 10.0


def course_of(curve: TrainingCurve, findings: SpikeFindings) -> Spike | None:
    """Where the run as a whole went wrong, as a spike: a rise to a loss that is not finite, from its best level, or at the start.

    None where none of these happened, or where a spike tells of it.
    """
    if findings.non_finite_steps:
        bad = int(np.flatnonzero(curve.step == findings.non_finite_steps[0])[-1])
    elif findings.diverged_from is not None:
        bad = int(np.flatnonzero(curve.step >= findings.diverged_from)[0])
        bad = bad + int(np.nanargmax(curve.loss[bad:]))
    else:
        return _start_of(curve, findings)
    if any(spike.start_step <= curve.step[bad] <= spike.end_step + 3 for spike in findings.spikes):
        return None
    before = curve.loss[max(0, bad - _NEAR) : bad]
    before = before[np.isfinite(before)]
    calm = before[: max(1, 3 * len(before) // 4)]
    expected = float(np.median(calm)) if len(calm) else 0.0
    noise = (MAD_TO_SD * float(np.median(np.abs(calm - expected))) if len(calm) else 0.0) + 1e-3 * abs(expected) + 1e-12
    start = bad
    while start > 0 and curve.loss[start - 1] > expected + _RAISED * noise:
        start -= 1
    top = float(min(curve.loss[bad], _HUGE)) if not np.isnan(curve.loss[bad]) else _HUGE
    steps = curve.step
    height = (top - expected) / noise
    return Spike(int(steps[start]), int(steps[bad]), int(steps[bad]), top, expected, height, recovered=False)


def _start_of(curve: TrainingCurve, findings: SpikeFindings) -> Spike | None:
    """The rise before the loss settled, where it multiplied the first loss: no spikes are sought there."""
    start = curve.loss[: findings.transient_points]
    if len(start) < 2 or not np.isfinite(start).all() or not start[0] > 0:
        return None
    peak = int(np.argmax(start))
    if not start[peak] > START * start[0]:
        return None
    noise = findings.noise if findings.noise > 0 else start[0]
    first, top = float(start[0]), float(start[peak])
    steps = curve.step
    end = int(steps[findings.transient_points - 1])
    return Spike(int(steps[1]), int(steps[peak]), end, top, first, (top - first) / noise, recovered=True)
