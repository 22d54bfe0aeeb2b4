"""How high the noise of a run reaches by itself: peaks over a threshold, after extreme-value theory.

Peaks of independent noise above a high level follow a generalized Pareto distribution whatever the noise was (Pickands
1975; Davison and Smith 1990). Its scale and shape are estimated from the run's own peaks, some of which may be the spikes
that are sought: these are modelled with them, as a few peaks of any height. A ladder of ever rarer, ever higher peaks is
noise with a heavy tail; peaks beyond a gap are spikes. What a short run cannot tell of the shape a prior does, and the
limit averages over all that scale and shape may be (Coles and Powell 1996).
"""

from __future__ import annotations

import numpy as np

from spikeguard.components.training_curve import Floats

# Points that count as upper tail: a power of all, so that of more points ever less of the tail's foot is looked at.
_TAIL_POWER, _FEWEST = 0.65, 20
# Peaks that may be spikes at most: some, and a share of all points. What happens more often is how the run is.
_SPIKES, _SPIKE_SHARE = 5, 0.005
# Shapes of the noise, from bounded to very heavy-tailed: before the tail is looked at, they are believed to be like those of
# normal or exponential noise, give or take this much. Where the body is skewed already, as that of log-normal noise is, the
# tail is believed to be heavier by so much for each unit that its upper part is longer than that of squared normal noise.
_SHAPE_SD, _SHAPE_PER_SKEW, _USUAL_SKEW = 0.1, 0.2, 3.0
_SHAPES = np.linspace(-0.4, 1.0, 29)
# Points that a 95th percentile is taken from.
_STRETCH = 100
# Scales, in units of what the lowest third of the peaks, which no spikes reach, would mean for exponential ones.
_SCALES = np.geomspace(0.25, 4.0, 29)
# Shares of the most that may be spikes.
_CROWDS = np.array([0.0, 0.1, 0.2, 0.4, 0.7, 1.0])
# Spikes are as likely to be twice as high as to be four times, from the first of these units to at least the second.
_LOWEST_SPIKE, _HIGHEST_SPIKE = 1.0, 100.0
# Up to this many points a tail can hardly be read off a run: there none is believed to be heavier than that of Student's t
# with 3 degrees of freedom, whose survival function approaches 2 sqrt(3) / (pi x^3), in units of its robust deviation.
_SHORT, _STUDENT, _STUDENT_SD = 200, 1.103, 1.134
# Order statistics that stand for all; the highest stand for themselves.
_REPRESENTATIVES = 64


def noise_limit(height: Floats, false_alarms: float, expected_shape: float = 0.0) -> float:
    """Height that the noise of a run exceeds, anywhere in it, with this probability.

    Args:
      height: distance of each point from its level in standard deviations. Shape (n,), n >= 1.
      false_alarms: expected number of peaks above the limit in a run without spikes; in (0, 1).
      expected_shape: of the generalized Pareto distribution, before the tail is looked at; 0 for that of normal or
        exponential noise.

    >>> noise = np.random.default_rng(0).normal(size=5000)
    >>> bool(4 < noise_limit(noise, 0.01) < 8)
    True
    """
    share = min(0.5, max(_FEWEST, len(height) ** _TAIL_POWER) / len(height))
    base = float(np.quantile(height, 1.0 - share))
    excess = np.sort(_peaks(height - base))
    unit = float(np.quantile(excess, 1.0 / 3.0)) / np.log(1.5) if len(excess) else 0.0
    if unit <= 0.0:
        return base
    most = min(0.5, (_SPIKES + _SPIKE_SHARE * len(height)) / len(excess))
    weight, scale, shape = _posterior(excess / unit, most, expected_shape)

    def alarms(limit: float) -> float:
        return float(len(excess) * np.sum(weight * np.exp(_log_survival(limit, scale, shape))))

    low, high = 0.0, 1.0
    while alarms(high) > false_alarms and high < 1e9:
        low, high = high, 2.0 * high
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if alarms(middle) > false_alarms else (low, middle)
    limit = base + unit * high
    if len(height) > _SHORT:
        return limit
    return min(limit, float(np.cbrt(_STUDENT * len(height) / false_alarms)) / _STUDENT_SD)


def shape_of_body(height: Floats) -> float:
    """The tail's shape that the noise's quartiles and 95th percentiles let expect; 0 for curves too short to tell.

    Taken from stretches of the curve, as the noise may show in some of them only.

    Args:
      height: as in `noise_limit`.
    """
    if len(height) <= _SHORT:
        return 0.0
    stretches = height[: len(height) // _STRETCH * _STRETCH].reshape(-1, _STRETCH)
    middle, upper, high = np.quantile(stretches, [0.5, 0.75, 0.95], axis=1)
    is_noisy = upper > middle
    if not np.any(is_noisy):
        return 0.0
    skew = float(np.median((high - upper)[is_noisy] / (upper - middle)[is_noisy]))
    return _SHAPE_PER_SKEW * max(0.0, skew - _USUAL_SKEW)


def _peaks(excess: Floats) -> Floats:
    """The largest value of each stretch above zero; stretches one point apart are one."""
    above = np.flatnonzero(excess > 0.0)
    if not len(above):
        return np.empty(0)
    starts = np.flatnonzero(np.diff(above, prepend=-9) > 2)
    return np.asarray(np.maximum.reduceat(excess[above], starts))


def _posterior(excess: Floats, most: float, expected_shape: float) -> tuple[Floats, Floats, Floats]:
    """Weights of the pairs of scale and shape, given sorted peaks, the most of them that may be spikes, as a share, and the
    shape that is expected."""
    lower, upper = excess[:-_REPRESENTATIVES], excess[-_REPRESENTATIVES:]
    chosen, copies = upper, np.ones(len(upper))
    if len(lower):
        lower_chosen = lower[np.linspace(0, len(lower) - 1, min(len(lower), _REPRESENTATIVES)).astype(np.intp)]
        chosen = np.concatenate([lower_chosen, upper])
        copies = np.concatenate([np.full(len(lower_chosen), len(lower) / len(lower_chosen)), copies])
    scale, shape = (grid.ravel() for grid in np.meshgrid(_SCALES, _SHAPES, indexing="ij"))
    noise = np.exp(_log_survival(chosen[:, None], scale, shape) * (1.0 + shape)) / scale
    is_high = chosen > _LOWEST_SPIKE
    width = np.log(max(_HIGHEST_SPIKE, chosen[-1]) / _LOWEST_SPIKE)
    spike = np.where(is_high, 1.0 / (np.where(is_high, chosen, 1.0) * width), 0.0)[:, None]
    with np.errstate(divide="ignore"):
        fits = np.stack([copies @ np.log((1.0 - crowd) * noise + crowd * spike) for crowd in _CROWDS * most])
    fits -= 0.5 * ((shape - expected_shape) / _SHAPE_SD) ** 2
    weight = np.exp(fits - np.max(fits)).sum(axis=0)
    return weight / np.sum(weight), scale, shape


def _log_survival(excess: Floats | float, scale: Floats, shape: Floats) -> Floats:
    """Logarithm of the probability of a larger excess; -inf beyond the end of a bounded distribution."""
    scaled = np.asarray(excess) / scale
    is_exponential = np.abs(shape) < 1e-9
    inside = np.maximum(1.0 + shape * scaled, 0.0)
    with np.errstate(divide="ignore"):
        bent = -np.log(inside) / np.where(is_exponential, 1.0, shape)
    return np.where(is_exponential, -scaled, np.where(inside > 0.0, bent, -np.inf))
