"""What uneven classes do to a training, and what weights and balanced batches do about it.

- Trainings without balance, with class weights and on balanced batches: PR-AUC of the rare classes, calibration error with
  and without the correction of the prior, spikes, and the spread of the step loss in the last half.
- The jitter of the loss that the composition of shuffled batches explains: predicted from the rows of the classes and their
  mean losses, against what the recorder's curve shows, for a model that knows the shares alone and for a trained one.
- Orders of rows: how often sorted, half-shuffled and shuffled ones are called unshuffled.

Data: the flights of January (cancelled or not), and scikit-learn's digits with two classes thinned to 1 % of the rows. Of
digits, validation rows are weighted to the shares of the train rows, as 1 % of them would be a handful.

    python -m tests.bench.imbalance --seeds 5 --orders 300
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

import spikeguard
from spikeguard.components.guarded_trainer.balancing import balanced_batches, batch_composition, with_prior_correction
from spikeguard.components.imbalance_detector.batch_odds import loss_jitter, prior_losses
from spikeguard.components.imbalance_detector.class_weighting import class_weights
from spikeguard.components.imbalance_detector.measured_jitter import measured_jitter
from tests.bench import RESULTS
from tests.bench.guard_data import load, prepare

ARMS = ("none", "weights", "batches")
ORDERS = ("shuffled", "sorted", "buffer of a tenth")
_THIN, _THIN_SHARE = (3, 8), 0.01
_BINS = 15


@dataclasses.dataclass(frozen=True)
class Case:
    """One data set at one batch size."""

    data: str
    batch_size: int

    @property
    def name(self) -> str:
        """Of the case, in tables."""
        return f"{self.data}, batch {self.batch_size}"


CASES = (Case("cancelled", 256), Case("cancelled", 32), Case("digits", 32))


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows to train and to validate on."""

    x: np.ndarray
    y: np.ndarray
    """Class ids. Shape (rows,)."""
    valid_x: np.ndarray
    valid_y: np.ndarray
    valid_weight: np.ndarray
    """Gives the validation rows the shares of the train rows."""
    rare: tuple[int, ...]

    @property
    def counts(self) -> np.ndarray:
        """Train rows of each class."""
        return np.bincount(self.y)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training."""

    case: str
    arm: str
    seed: int
    pr_auc: float
    """Mean over the rare classes, of the corrected probabilities; the correction keeps the order of two classes."""
    calibration: float
    """Expected calibration error of the rare classes, corrected."""
    calibration_raw: float
    """The same without the correction."""
    spikes: int
    loss_sd: float
    """Standard deviation of the step loss over its mean, in the last half."""
    composition_sd: float
    """The part that the classes in the batches explain."""


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Predicted and measured jitter of one frozen model on shuffled batches."""

    case: str
    model: str
    seed: int
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share."""
        return self.predicted / self.measured - 1.0


def data_of(case: Case) -> Data:
    """The rows of a case, the same at every call."""
    source = load("cancelled" if case.data == "cancelled" else "digits_clean")
    x, y = source.train_x, source.train_y[:, 0].astype(np.int64)
    valid_y = source.valid_y[:, 0].astype(np.int64)
    rare: tuple[int, ...] = (1,)
    if case.data == "digits":
        rare = _THIN
        kept = np.ones(len(y), dtype=bool)
        for class_id in _THIN:
            kept[np.flatnonzero(y == class_id)[round(_THIN_SHARE * len(y)) :]] = False
        x, y = x[kept], y[kept]
    ratio = (np.bincount(y) / len(y)) / (np.bincount(valid_y) / len(valid_y))
    return Data(x, y, source.valid_x, valid_y, ratio[valid_y], rare)


def train(case: Case, arm: str, seed: int, steps: int) -> tuple[Run, keras.Model]:
    """One training with its figures, and its model."""
    data = data_of(case)
    keras.utils.set_random_seed(seed)
    model, classes = _model(data), len(data.counts)
    weights = class_weights(data.counts) if arm == "weights" else np.ones(classes)
    shares: Any = data.counts * weights
    if arm == "batches":
        shares = batch_composition(data.counts.tolist(), case.batch_size)
    model = with_prior_correction(model, list(shares), data.counts.tolist())
    model.compile(keras.optimizers.Adam(spikeguard.GuardedSchedule(1e-3, steps, steps // 20)), _loss(classes))
    with tempfile.TemporaryDirectory() as folder:
        model.fit(
            _batches(data, case, arm, seed),
            steps_per_epoch=steps,
            class_weight=dict(enumerate(weights.tolist())) if arm == "weights" else None,
            callbacks=[spikeguard.CurveRecorder(folder, worst_examples=0)],
            verbose=0,
        )
        curve = spikeguard.read_curve(folder)
    half = measured_jitter(curve, steps // 2) if arm != "batches" else None
    late = curve.loss[steps // 2 :]
    corrected, raw = (_probabilities(model, data.valid_x, training) for training in (False, True))
    run = Run(
        case=case.name,
        arm=arm,
        seed=seed,
        pr_auc=statistics.mean(
            average_precision_score(data.valid_y == class_id, corrected[:, class_id], sample_weight=data.valid_weight)
            for class_id in data.rare
        ),
        calibration=_calibration_error(data, corrected),
        calibration_raw=_calibration_error(data, raw),
        spikes=len(spikeguard.detect_spikes(curve).spikes),
        loss_sd=float(late.std() / late.mean()),
        composition_sd=float(half.jitter / late.mean()) if half else 0.0,
    )
    return run, model


def jitters(case: Case, trained: keras.Model, seed: int, steps: int) -> list[Jitter]:
    """Predicted against recorded jitter, of a model that knows the shares alone and of a trained one."""
    data, found = data_of(case), []
    for name, model in (("shares alone", _prior_model(data)), ("trained", trained)):
        losses = _class_losses(model, data) if name == "trained" else prior_losses(data.counts)
        model.compile(keras.optimizers.SGD(0.0), _loss(len(data.counts)))
        with tempfile.TemporaryDirectory() as folder:
            recorder = spikeguard.CurveRecorder(folder, worst_examples=0)
            model.fit(_batches(data, case, "none", seed), steps_per_epoch=steps, callbacks=[recorder], verbose=0)
            measured = measured_jitter(spikeguard.read_curve(folder)).jitter
        found.append(Jitter(case.name, name, seed, loss_jitter(data.counts, losses, case.batch_size), measured))
    return found


def order_rates(case: Case, seeds: int, epochs: int = 5) -> dict[str, float]:
    """Share of runs whose batches are called unshuffled, by the order of their rows."""
    labels = data_of(case).y
    found = dict.fromkeys(ORDERS, 0)
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        rows = labels[random.permutation(len(labels))]
        orders = {
            "shuffled": lambda rows=rows, random=random: random.permutation(rows),
            "sorted": lambda rows=rows: np.sort(rows),
            "buffer of a tenth": lambda rows=rows, random=random: _buffered(np.sort(rows), len(rows) // 10, random),
        }
        for name, order in orders.items():
            steps = len(rows) // case.batch_size
            flat = np.concatenate([order()[: steps * case.batch_size] for _ in range(epochs)])
            batches = flat.reshape(-1, case.batch_size)
            counts = np.stack([(batches == class_id).sum(axis=1) for class_id in range(labels.max() + 1)], axis=1)
            curve = spikeguard.TrainingCurve.from_columns(
                loss=np.ones(len(counts)), class_counts=counts, epoch=np.repeat(np.arange(epochs), steps)
            )
            found[name] += bool(spikeguard.check_batches(curve))
    return {name: count / seeds for name, count in found.items()}


def _buffered(rows: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """The order that a shuffle buffer of so many rows gives."""
    buffer, places = rows[:size].copy(), random.integers(size, size=len(rows) - size)
    order = np.empty_like(rows)
    for step, place in enumerate(places):
        order[step], buffer[place] = buffer[place], rows[size + step]
    order[len(rows) - size :] = random.permutation(buffer)
    return order


def _batches(data: Data, case: Case, arm: str, seed: int) -> tf.data.Dataset:
    rows = tf.data.Dataset.from_tensor_slices((data.x, data.y))
    if arm == "batches":
        return balanced_batches(rows, case.batch_size, data.counts.tolist(), seed=seed)
    shuffled = rows.shuffle(len(data.y), seed=seed).batch(case.batch_size, drop_remainder=True)
    return shuffled.repeat().prefetch(2)


def _model(data: Data) -> keras.Model:
    inputs = keras.Input((data.x.shape[1],))
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Dense(64, activation="relu")(inputs))
    classes = len(data.counts)
    output = keras.layers.Dense(1, "sigmoid") if classes == 2 else keras.layers.Dense(classes, "softmax")
    return keras.Model(inputs, output(hidden))


def _prior_model(data: Data) -> keras.Model:
    """Predicts the shares of the classes, whatever the row."""
    inputs, logs = keras.Input((data.x.shape[1],)), np.log(data.counts / data.counts.sum())
    bias = logs[1:] - logs[0] if len(logs) == 2 else logs
    dense = keras.layers.Dense(
        len(bias),
        "sigmoid" if len(bias) == 1 else "softmax",
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(bias),
    )
    return keras.Model(inputs, dense(inputs))


def _loss(classes: int) -> keras.losses.Loss:
    return keras.losses.BinaryCrossentropy() if classes == 2 else keras.losses.SparseCategoricalCrossentropy()


def _probabilities(model: keras.Model, x: np.ndarray, training: bool) -> np.ndarray:
    """Shape (rows, classes)."""
    predicted = np.asarray(model(x, training=training), dtype=np.float64)
    return np.column_stack([1.0 - predicted, predicted]) if predicted.shape[1] == 1 else predicted


def _class_losses(model: keras.Model, data: Data) -> np.ndarray:
    """Mean loss of each class's train rows."""
    probability = _probabilities(model, data.x, training=True)[np.arange(len(data.y)), data.y]
    losses = -np.log(np.maximum(probability, 1e-7))
    return np.bincount(data.y, weights=losses) / data.counts


def _calibration_error(data: Data, probabilities: np.ndarray) -> float:
    """Expected calibration error in bins of equal weight, as the mean over the rare classes."""
    errors = []
    for class_id in data.rare:
        order = np.argsort(probabilities[:, class_id], kind="stable")
        weight, predicted = data.valid_weight[order], probabilities[order, class_id]
        is_class = (data.valid_y == class_id)[order]
        bins = np.minimum((np.cumsum(weight) / weight.sum() * _BINS).astype(int), _BINS - 1)
        gap = np.bincount(bins, weights=weight * (predicted - is_class), minlength=_BINS)
        errors.append(float(np.abs(gap).sum() / weight.sum()))
    return statistics.mean(errors)


def report(
    runs: Sequence[Run],
    found: Sequence[Jitter],
    orders: dict[str, dict[str, float]],
    folder: pathlib.Path,
    seconds: float,
) -> None:
    """Prints the tables; writes them as Markdown, and every figure as JSON."""
    tables = [_run_table(runs), _jitter_table(found), _order_table(orders)]
    console = Console(width=180)
    for title, head, rows in tables:
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    markdown = [
        "\n".join([f"## {title}", "", *(_line(row) for row in (head, ["---"] * len(head), *rows)), ""])
        for title, head, rows in tables
    ]
    (folder / "imbalance.md").write_text("\n".join(markdown))
    content = {
        "runs": [dataclasses.asdict(run) for run in runs],
        "jitter": [dataclasses.asdict(one) for one in found],
        "orders": orders,
        "seconds": seconds,
        "load": os.getloadavg(),
    }
    (folder / "imbalance.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_Rows = tuple[str, list[str], list[list[str]]]


def _run_table(runs: Sequence[Run]) -> _Rows:
    figures = ("pr_auc", "calibration", "calibration_raw", "spikes", "loss_sd", "composition_sd")
    head = [
        "case",
        "balance",
        "PR-AUC",
        "calibration error",
        "uncorrected",
        "spikes",
        "loss sd / mean",
        "of it classes",
    ]
    rows = []
    for key in dict.fromkeys((run.case, run.arm) for run in runs):
        own = [run for run in runs if (run.case, run.arm) == key]
        rows.append([*key, *(_spread([getattr(run, figure) for run in own]) for figure in figures)])
    return "Trainings: median (lowest to highest) over seeds", head, rows


def _jitter_table(found: Sequence[Jitter]) -> _Rows:
    rows = []
    for key in dict.fromkeys((one.case, one.model) for one in found):
        own = [one for one in found if (one.case, one.model) == key]
        figures = ([one.predicted for one in own], [one.measured for one in own], [100 * one.error for one in own])
        rows.append([*key, *map(_spread, figures)])
    return "Jitter by the classes in a batch", ["case", "model", "predicted", "measured", "error, %"], rows


def _order_table(orders: dict[str, dict[str, float]]) -> _Rows:
    rows = [[case, *(f"{100 * rate:.1f} %" for rate in rates.values())] for case, rates in orders.items()]
    return "Runs called unshuffled", ["case", *ORDERS], rows


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main(argv: Sequence[str] | None = None) -> tuple[list[Run], list[Jitter], dict[str, dict[str, float]]]:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--jitter-steps", type=int, default=2000)
    parser.add_argument("--orders", type=int, default=300, help="seeds of the orders of rows")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    given = parser.parse_args(argv)
    prepare()
    started, runs, found, orders = time.monotonic(), [], [], {}
    for case in CASES:
        for seed in range(given.seeds):
            for arm in ARMS:
                run, model = train(case, arm, seed, given.steps)
                runs.append(run)
                if arm == "none":
                    found += jitters(case, model, seed, given.jitter_steps)
        orders[case.name] = order_rates(case, given.orders)
        print(f"{case.name}: {time.monotonic() - started:.0f} s", flush=True)
    report(runs, found, orders, given.output, time.monotonic() - started)
    return runs, found, orders


@pytest.mark.bench
def test_imbalance() -> None:
    runs, found, orders = main([])
    assert all(rates["sorted"] == 1.0 and rates["shuffled"] <= 0.01 for rates in orders.values())
    assert all(abs(one.error) <= 0.1 for one in found)
    assert {run.arm for run in runs} == set(ARMS)


@pytest.mark.e2e
def test_smoke_of_the_imbalance_bench(tmp_path: pathlib.Path) -> None:
    case = CASES[2]
    # Half of the steps must tell the losses of ten classes.
    runs = [train(case, arm, seed=0, steps=160)[0] for arm in ("none", "batches")]
    found = jitters(case, train(case, "weights", seed=0, steps=160)[1], seed=0, steps=150)
    rates = order_rates(case, seeds=5)
    assert (rates["sorted"], rates["shuffled"]) == (1.0, 0.0)
    assert found[0].error == pytest.approx(0.0, abs=0.2)
    report(runs, found, {case.name: rates}, tmp_path, seconds=1.0)
    content = json.loads((tmp_path / "imbalance.json").read_text())
    assert content["runs"] == [dataclasses.asdict(run) for run in runs]
    assert (tmp_path / "imbalance.md").read_text().count(f"| {case.name} |") == 5


if __name__ == "__main__":
    main()
