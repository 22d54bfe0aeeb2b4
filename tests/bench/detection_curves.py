"""Training curves with spikes of known place and size, each with the twin that has none.

A base curve is a level, the noise's local standard deviation (sd) around it and what a recorder would know of the steps.
Its parameters are drawn by seed from ranges that such trainings show, not from what any detector likes. Recorded losses of
small Keras trainings are base curves as well; their level is a running median, their sd that of the residuals nearby.

Spikes are added to the losses of a base: a single step, a burst of 2 to 10 steps, a sharp rise that decays over 5 to 50
steps (over epochs: 1 or 2 points each), and in one curve of ten a jump that stays. At its peak a spike adds 8 to 100 sd,
and no less than the 99.9 % quantile of that curve's noise: less would not be told from noise by a person either.

Not to be judged: the first 5 % of a curve (nothing is injected there, and alarms there count for nobody); what follows
the first 50 steps of a jump that stays, where an alarm that began in them goes on. Rises that training explains, as after
a warm restart, get no injection within 50 steps, but alarms there are false. Where noise has a heavy tail, the smaller
spikes are no larger than the largest losses of a long twin: no rule on the losses can find them all without false alarms.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage, signal

import spikeguard
from spikeguard.components.training_curve import CurveKind, Floats, TrainingCurve

Generator = np.random.Generator

UNJUDGED_SHARE = 0.05
_MIN_SD, _MAX_SD, _TAIL = 8.0, 100.0, 0.999
_EXPLAINED_STEPS, _JUMP_STEPS, _EPOCH_JUMP_POINTS = 50, 50, 5


@dataclasses.dataclass(frozen=True)
class Base:
    """A curve before anything is injected."""

    loss: Floats
    level: Floats
    """Mean of the loss at each step, had the training been repeated with other noise."""
    sd: Floats
    """Standard deviation of the loss at each step."""
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else a recorder would have known; by `TrainingCurve` field."""
    explained: tuple[int, ...] = ()
    """Indices at which the loss rises for a reason."""
    kind: CurveKind = "step"

    def curve(self, loss: Floats) -> TrainingCurve:
        """The training curve with these losses."""
        return TrainingCurve.from_columns(kind=self.kind, loss=loss, **self.columns)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One curve to find spikes in."""

    kind: str
    """The base's name."""
    seed: int
    training: TrainingCurve
    events: tuple[tuple[int, int], ...]
    """First and last step of each injected spike, in order."""
    twin: TrainingCurve
    """The same losses without injection."""
    is_twin_new: bool
    """Whether no earlier curve has the same twin."""
    level: Floats
    sd: Floats


def _length(rng: Generator) -> int:
    return round(math.exp(rng.uniform(math.log(500), math.log(20_000))))


def _power_law(rng: Generator, steps: int) -> Floats:
    """Falls to a floor of 5 to 50 % of the start."""
    floor, start, knee = rng.uniform(0.05, 0.5), 10 ** rng.uniform(-1, 1), steps * rng.uniform(0.002, 0.1)
    return np.asarray(start * (floor + (1 - floor) * (1 + np.arange(steps) / knee) ** -rng.uniform(0.4, 1.2)))


def _normal(rng: Generator, level: Floats, sd: Floats | float, **more: Any) -> Base:
    sd = np.broadcast_to(sd, level.shape)
    return Base(level + sd * rng.normal(size=len(level)), level, sd, **more)


def _lognormal(rng: Generator, level: Floats, sigma: float) -> Base:
    mean = level * math.exp(sigma**2 / 2)
    return Base(level * rng.lognormal(0, sigma, len(level)), mean, mean * math.sqrt(math.expm1(sigma**2)))


def smooth(rng: Generator) -> Base:
    """Large batches: noise of 0.01 to 0.5 % of the level."""
    level = _power_law(rng, _length(rng))
    return _normal(rng, level, level * 10 ** rng.uniform(-4, -2.3))


def gaussian(rng: Generator) -> Base:
    """The same normal noise everywhere, 2 to 20 % of the last level."""
    level = _power_law(rng, _length(rng))
    return _normal(rng, level, level[-1] * rng.uniform(0.02, 0.2))


def heavy_tailed(rng: Generator) -> Base:
    """Lognormal noise of sigma 0.3 to 1, or Student's t of 3 degrees, times the level."""
    level = _power_law(rng, _length(rng))
    if rng.random() < 0.5:
        return _lognormal(rng, level, rng.uniform(0.3, 1.0))
    scale = rng.uniform(0.05, 0.25)
    factor = np.maximum(1 + scale * rng.standard_t(3, len(level)), 0.01)
    return Base(level * factor, level, level * scale * math.sqrt(3))


def decaying(rng: Generator) -> Base:
    """A power law over 2 to 5 decades, without a floor; lognormal noise of sigma 0.05 to 0.3."""
    steps, decades = _length(rng), rng.uniform(2, 5)
    knee = steps * 10 ** rng.uniform(-3, -1.5)
    level = 10 ** rng.uniform(-1, 1) * (1 + np.arange(steps) / knee) ** (-decades / math.log10(1 + steps / knee))
    return _lognormal(rng, level, rng.uniform(0.05, 0.3))


def rare_class(rng: Generator) -> Base:
    """1 % positives: the loss of a batch is low but for them. Half of the curves know the classes of each batch."""
    level, rows, share = _power_law(rng, _length(rng)), int(rng.choice([32, 64, 128, 256])), 0.01
    positives = np.minimum(rng.poisson(rows * share, len(level)), rows)
    usual, spread, rare = 0.05, rng.uniform(0.05, 0.3), rng.uniform(2, 5)
    each = rng.gamma(np.maximum(positives, 1) * 2.0, 0.5) * (positives > 0)  # Sum of the positives' losses, mean 1 each
    loss = usual * rng.lognormal(0, spread, len(level)) + rare * each / rows
    mean = usual * math.exp(spread**2 / 2) + rare * share
    # Of a Poisson sum: rate times the second moment of one, 1.5 for this gamma.
    variance = 1.5 * rare**2 * share / rows + usual**2 * math.exp(spread**2) * math.expm1(spread**2)
    columns: dict[str, Any] = {"batch_size": np.full(len(level), rows)}
    if rng.random() < 0.5:
        columns["class_counts"] = np.stack([rows - positives, positives], axis=1)
    return Base(level * loss, level * mean, level * math.sqrt(variance), columns)


def warm_restarts(rng: Generator) -> Base:
    """Cosine rate with 2 to 8 restarts; the loss follows the rate within some steps, 5 to 30 sd up at a restart."""
    steps = _length(rng)
    cycle = steps // int(rng.integers(3, 10)) + 1
    rate = 0.5 * (1 + np.cos(np.pi * (np.arange(steps) % cycle) / cycle))
    weight = 1 / rng.uniform(1, 10)
    lagged = signal.lfilter([weight], [1, weight - 1], rate, zi=[(1 - weight) * rate[0]])[0]
    sd = 10 ** rng.uniform(-2.5, -1)
    level = _power_law(rng, steps)
    level = level * (1 + sd * rng.uniform(5, 30) * lagged)
    columns = {"learning_rate": 10 ** rng.uniform(-4, -2) * rate}
    return _normal(rng, level, level * sd, columns=columns, explained=tuple(range(cycle, steps, cycle)))


def short_batches(rng: Generator) -> Base:
    """The last batch of each epoch has a few rows only; the loss of one row is exponential or less noisy."""
    level, rows, per_epoch = _power_law(rng, _length(rng)), int(rng.choice([32, 64, 128])), int(rng.integers(10, 200))
    step = np.arange(len(level))
    sizes = np.where(step % per_epoch == per_epoch - 1, rng.integers(1, rows // 8 + 1), rows)
    shape = sizes * rng.uniform(1, 4)
    columns = {"batch_size": sizes, "epoch": step // per_epoch, "position": step % per_epoch}
    return Base(level * rng.gamma(shape) / shape, level, level / np.sqrt(shape), columns)


def plateaus(rng: Generator) -> Base:
    """3 to 8 stairs down, each by 20 to 60 %, within 1 to 20 steps; normal noise of 1 to 8 %."""
    steps, count = _length(rng), int(rng.integers(3, 9))
    falls = np.zeros(steps)
    falls[rng.choice(np.arange(steps // 20, steps - 20), count, replace=False)] = np.log(rng.uniform(0.4, 0.8, count))
    width = int(rng.integers(1, 21))
    level = 10 ** rng.uniform(-1, 1) * np.exp(np.cumsum(np.convolve(falls, np.ones(width) / width)[:steps]))
    return _normal(rng, level, level * rng.uniform(0.01, 0.08))


def batch_of_one(rng: Generator) -> Base:
    """The loss of one row: exponential, or chi-square of one degree as a squared error is."""
    level = _power_law(rng, _length(rng))
    columns = {"batch_size": np.ones(len(level))}
    if rng.random() < 0.5:
        return Base(level * rng.exponential(size=len(level)), level, level, columns)
    return Base(level * rng.chisquare(1, len(level)), level, level * math.sqrt(2), columns)


def oscillating(rng: Generator) -> Base:
    """As two adversaries' losses: slow waves of no fixed period around one level, an AR(1) of 0.95."""
    steps = _length(rng)
    level, sd = np.full(steps, 10 ** rng.uniform(-0.5, 0.5)), rng.uniform(0.05, 0.3)
    wave = signal.lfilter([math.sqrt(1 - 0.95**2)], [1, -0.95], rng.normal(size=steps + 200))[200:]
    noise = rng.uniform(0.1, 0.5) * rng.normal(size=steps)
    return Base(level * (1 + sd * (wave + noise)), level, level * sd * math.sqrt(1 + np.var(noise)))


def reward_like(rng: Generator) -> Base:
    """A policy's loss: around zero, either sign, with a level and a variance that wander."""
    steps = _length(rng)
    walk = np.cumsum(rng.normal(size=(2, steps)), axis=1) / math.sqrt(steps)
    sd = 10 ** rng.uniform(-2, 0) * np.exp(rng.uniform(0.3, 1.0) * walk[0])
    return _normal(rng, 3 * np.median(sd) * walk[1], sd)


def through_zero(rng: Generator) -> Base:
    """A negative log-likelihood that falls from 2 to 5 down to -1 to -3; normal noise of 0.02 to 0.3."""
    shape = _power_law(rng, _length(rng))
    top, bottom = rng.uniform(2, 5), rng.uniform(-3, -1)
    level = bottom + (top - bottom) * (shape - shape[-1]) / (shape[0] - shape[-1])
    return _normal(rng, level, rng.uniform(0.02, 0.3))


def epochs(rng: Generator) -> Base:
    """20 to 200 epoch means: normal noise of 0.3 to 5 % of the level."""
    level = _power_law(rng, int(rng.integers(20, 201)))
    return _normal(rng, level, level * 10 ** rng.uniform(-2.5, -1.3), kind="epoch")


SYNTHETIC: dict[str, Callable[[Generator], Base]] = {
    make.__name__: make
    for make in (
        smooth,
        gaussian,
        heavy_tailed,
        decaying,
        rare_class,
        warm_restarts,
        short_batches,
        plateaus,
        batch_of_one,
        oscillating,
        reward_like,
        through_zero,
        epochs,
    )
}


@dataclasses.dataclass(frozen=True)
class Training:
    """A small training at a calm rate, about 1,500 steps of Adam."""

    data: str
    batch_size: int
    epochs: int
    rate: float
    is_convolution: bool = False
    flipped_share: float = 0.0

    def record(self, seed: int) -> TrainingCurve:
        """Trains and returns what the recorder wrote."""
        import keras  # The synthetic kinds do without it and its seconds.
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{self.data}")(return_X_y=True)
        x = ((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-3)).astype(np.float32)
        is_regression, rng = self.data == "diabetes", np.random.default_rng(seed)
        y = (
            (y - y.mean()) / y.std()
            if is_regression
            else np.where(rng.random(len(y)) < self.flipped_share, rng.integers(0, 10, len(y)), y)
        )
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(width, activation="relu") for width in (64, 32)]
        if self.is_convolution:
            convolutions = [keras.layers.Conv2D(width, 3, activation="relu") for width in (16, 32)]
            layers = [keras.layers.Reshape((8, 8, 1)), *convolutions, keras.layers.Flatten()]
        last = keras.layers.Dense(1) if is_regression else keras.layers.Dense(10, activation="softmax")
        model = keras.Sequential([keras.Input(x.shape[1:]), *layers, last])
        model.compile(keras.optimizers.Adam(self.rate), "mse" if is_regression else "sparse_categorical_crossentropy")
        with tempfile.TemporaryDirectory() as folder:
            recorder = spikeguard.CurveRecorder(pathlib.Path(folder), has_tensorboard=False)
            model.fit(x, y, self.batch_size, self.epochs, verbose=0, callbacks=[recorder])
            return spikeguard.read_curve(folder)


REAL: dict[str, Training] = {
    "real_mlp": Training("digits", 64, 52, 1e-3),
    "real_convolution": Training("digits", 64, 52, 1e-3, is_convolution=True),
    "real_regression": Training("diabetes", 8, 27, 1e-3),
    "real_batch_of_one": Training("digits", 1, 1, 3e-4),
    "real_flipped": Training("digits", 32, 27, 1e-3, flipped_share=0.05),
}
KINDS = (*SYNTHETIC, *REAL)
# Training costs seconds and injecting none: each recorded curve is injected into several times.
_REAL_SEEDS, _DRAWS = 2, 5


def curves(kind: str, seeds: int) -> Iterator[Curve]:
    """The curves of one kind, the same at every call; of a real kind, at most 2 trainings with 5 injections each."""
    for seed in range(seeds if kind in SYNTHETIC else min(seeds, _REAL_SEEDS)):
        rng = np.random.default_rng([KINDS.index(kind), seed])
        base = SYNTHETIC[kind](rng) if kind in SYNTHETIC else _recorded(REAL[kind].record(seed))
        twin = base.curve(base.loss)
        for draw in range(1 if kind in SYNTHETIC else _DRAWS):
            loss, events = inject(rng, base)
            yield Curve(kind, seed, base.curve(loss), events, twin, draw == 0, base.level, base.sd)


def _recorded(curve: TrainingCurve) -> Base:
    level = ndimage.median_filter(curve.loss, 51, mode="nearest")
    sd = np.sqrt(ndimage.uniform_filter((curve.loss - level) ** 2, 201, mode="nearest"))
    fields = [field.name for field in dataclasses.fields(curve) if field.type in ("Ints", "Floats")]
    columns = {name: getattr(curve, name) for name in fields if name not in ("loss", "total_loss")}
    return Base(curve.loss, level, sd, columns)


def inject(rng: Generator, base: Base) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    """The losses with 0 to 6 spikes added, and the first and last step of each; fewer where there is no room."""
    count, is_epochs = len(base.loss), base.kind == "epoch"
    gap = max(3, count // 20) if is_epochs else int(np.clip(count // 50, 20, 200))
    tail = float(np.quantile((base.loss - base.level) / base.sd, _TAIL))
    loss, is_free = base.loss.copy(), np.arange(count) > UNJUDGED_SHARE * count
    for index in base.explained:
        is_free[max(0, index - _EXPLAINED_STEPS) : index + _EXPLAINED_STEPS] = False
    events = []
    for shape in _shapes(rng, is_epochs):
        is_jump = shape is None
        profile = np.ones(_EPOCH_JUMP_POINTS if is_epochs else _JUMP_STEPS) if shape is None else shape
        # The whole spike and the gap on both sides must be free, and nothing may follow a jump.
        needed = gap + len(profile)
        fits = np.flatnonzero(np.convolve(~is_free, np.ones(needed), "full")[needed - 1 : count] == 0)
        if is_jump and events:
            fits = fits[fits > max(last for _, last in events)]
        if not len(fits):
            continue
        start = int(rng.choice(fits))
        height = base.sd[start] * max(math.exp(rng.uniform(math.log(_MIN_SD), math.log(_MAX_SD))), tail)
        stop = count if is_jump else start + len(profile)
        loss[start:stop] += height if is_jump else height * profile
        end = start + len(profile) - 1
        is_free[max(0, start - gap) : end + gap + 1] = False
        events.append((start + 1, end + 1))
    return loss, tuple(sorted(events))


def _shapes(rng: Generator, is_epochs: bool) -> list[Floats | None]:
    """Of each spike the share of its height at each step; None, always last, for a jump that stays."""
    number = int(rng.integers(0, 7))
    shapes: list[Floats | None] = []
    for name in rng.choice(["single", "burst", "recovery"], number):
        if name == "single":
            shapes.append(np.ones(1))
        elif name == "burst":
            profile = rng.uniform(0.5, 1.0, 2 if is_epochs else int(rng.integers(2, 11)))
            profile[rng.integers(len(profile))] = 1.0
            shapes.append(profile)
        else:
            length = 2 if is_epochs else int(rng.integers(5, 51))
            shapes.append(np.exp(-4.0 * np.arange(length) / length))
    if shapes and rng.random() < 0.1:
        shapes[-1] = None
    return shapes


def large(steps: int, seed: int = 0) -> TrainingCurve:
    """One long curve to take times on: falling, lognormal noise, a spike every 10,000 steps."""
    rng = np.random.default_rng(seed)
    base = _lognormal(rng, 2.0 * (0.1 + (1 + np.arange(steps) / 1e3) ** -0.7), 0.2)
    loss = base.loss.copy()
    loss[5_000::10_000] += 20.0 * base.sd[5_000::10_000]
    return base.curve(loss)


def describe(found: Sequence[Curve]) -> dict[str, int]:
    """Sizes of a set of curves."""
    twins = [curve for curve in found if curve.is_twin_new]
    return {
        "curves": len(found),
        "spikes": sum(len(curve.events) for curve in found),
        "twins": len(twins),
        "twin_steps": sum(len(curve.twin) for curve in twins),
    }
