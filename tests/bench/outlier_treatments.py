"""What a treatment buys: January's flights with some train rows spoiled, treated as OutlierDetector does, trained on, validated.

In one process, by the functions that the components call: the robust statistics, the fitted detector, its verdict and its
treatment, the default network with the recipe's optimizer and losses. Rows to validate on are never spoiled. `clean` is the
same training on rows that were not spoiled; `flag` must end as `none` does, as a flag is no feature. One row in 100 spoils
every batch of 256: the loss is high throughout, and nothing stands out of it. One in 2,000 spoils single batches.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from spikeguard.pipelines import flights
from tests.bench import RESULTS

ARMS = ("clean", "none", "flag", "drop", "downweight", "winsorize")
LOSSES = ("squared_error", "huber")
SHARES = (0.01, 0.0005)
SPOILS = ("unit", "sentinel", "label")
"""A distance in metres for kilometres; -9999 for a reading of the weather; a label in seconds."""
_LABEL, _BATCH = flights.LABEL_OF_TASK["delay"], 256
_CATEGORICAL = ("day_of_week", "carrier", "origin", "dest")
_WEATHER = ("temp", "humid", "wind_speed", "pressure")


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows to train and validate on, as columns of raw values."""

    clean: Any
    """DataFrame of train rows."""
    spoiled: Any
    """The same with some rows spoiled."""
    valid: Any
    is_spoiled: np.ndarray
    """Of the train rows, shape (rows,)."""


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What the detector leaves of the train rows."""

    kept: np.ndarray
    """Shape (rows,)."""
    weight: np.ndarray
    limits: dict[str, tuple[float, float]]
    """What numbers are clipped to; empty where they are not."""
    is_outlier: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """One training."""

    loss: str
    arm: str
    seed: int
    error: float
    """Mean absolute error on the rows to validate on after the last step, in minutes."""
    spikes: int
    """That `detect_spikes` finds in the recorded loss."""
    loss_sd: float
    """Standard deviation of the step loss over its mean, in the last half."""
    found: float
    """Share of the spoiled rows that the detector flags; 0 where it does not look."""
    flagged_clean: float
    """Share of the other rows that it flags."""


def record_batch(table: Any, integers: Iterable[str]) -> pa.RecordBatch:
    """A table's rows as a component's decoder gives them: a list of values per row, empty where one is missing."""
    columns = {}
    for name in table.columns:
        values, is_integer = table[name].to_numpy(), name in integers
        kind = pa.binary() if values.dtype.kind == "O" else pa.int64() if is_integer else pa.float32()
        lists = [[] if value != value else [int(value) if is_integer else value] for value in values.tolist()]
        columns[name] = pa.array(lists, pa.large_list(kind))
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


@functools.cache
def case_of(rows: int, spoiled_share: float) -> Case:
    """January's flights, or so many of them, a fifth of them to validate on."""
    import pandas as pd

    table = pd.read_csv(flights.write_csv("delay", [1], RESULTS / "data")).drop(columns="month")
    table = table.sample(frac=1.0, random_state=0, ignore_index=True).iloc[:rows]
    valid, clean = table.iloc[: len(table) // 5], table.iloc[len(table) // 5 :].reset_index(drop=True)
    random = np.random.default_rng(1)
    is_spoiled = random.random(len(clean)) < spoiled_share
    kind = random.integers(len(SPOILS), size=len(clean))
    spoiled = clean.copy()
    spoiled.loc[is_spoiled & (kind == 0), "distance"] *= 1000
    for place in np.flatnonzero(is_spoiled & (kind == 1)):
        spoiled.loc[place, str(random.choice(_WEATHER))] = -9999.0
    spoiled.loc[is_spoiled & (kind == 2), _LABEL] *= 60
    return Case(clean, spoiled, valid, is_spoiled)


def treatment_of(table: Any, arm: str) -> Treatment:
    """Fits on the table's rows, judges and treats them; the arms `clean` and `none` leave them alone."""
    from spikeguard.components.outlier_detector.config import DetectorConfig
    from spikeguard.components.outlier_detector.fences import fences_of
    from spikeguard.components.outlier_detector.matrix import MatrixColumns
    from spikeguard.components.outlier_detector.model import fit_detector
    from spikeguard.components.outlier_detector.sampling import RowSample, hash_rows
    from spikeguard.components.outlier_detector.scoring import judge
    from spikeguard.components.outlier_detector.treating import treat
    from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
    from spikeguard.components.training_statistics.reading import SplitStatistics
    from spikeguard.components.training_statistics.results import robust_statistics_of

    everything, ones = np.ones(len(table), bool), np.ones(len(table), np.float32)
    if arm in ("clean", "none"):
        return Treatment(everything, ones, {}, ~everything)
    config = DetectorConfig(label=_LABEL, task="regression", treatment=arm)  # type: ignore[arg-type]
    batch = record_batch(table, _integers())
    generator = RobustStatisticsGenerator(StatisticsConfig(_LABEL, "regression"))
    proto = generator.extract_output(generator.add_input(generator.create_accumulator(), batch))
    features = {found.name: found for found in map(robust_statistics_of, proto.features) if found is not None}
    described = SplitStatistics(config.split, len(table), dict(sorted(features.items())))
    fences = fences_of(described, config.label, config.task, config.rare_share)
    columns = MatrixColumns.of(fences, config.label)
    matrix = columns.matrix(batch)
    hashes = hash_rows(np.array([row.tobytes() for row in matrix], object), config.seed)
    sample = RowSample.empty(config.trees * config.max_samples, columns.width, config.seed)
    detector = fit_detector(described, config, fences, sample.add(hashes, matrix.__getitem__).rows())
    verdict, _ = judge(detector, batch, {})
    treated = treat(verdict, None, config, is_training_split=True)
    limits = {
        fence.name: (fence.lower[0], fence.upper[0])
        for fence in fences
        if arm == "winsorize" and fence.kind == "number" and fence.name != _LABEL
    }
    weight = treated.columns.get(config.weight, ones)
    return Treatment(~treated.is_dropped, weight, limits, verdict.is_outlier)


def features_of(table: Any, treatment: Treatment, others: Any) -> tuple[np.ndarray, np.ndarray]:
    """As the default preprocessing_fn does: z-scores of the kept train rows, missing ones 0, and a column per category.

    Args:
      table: train rows.
      treatment: of them.
      others: rows that are only transformed.

    Returns:
      Of the kept train rows, shape (kept, width), and of the others, shape (n, width); float32.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for name in table.columns:
        if name == _LABEL:
            continue
        train, other = table[name].to_numpy()[treatment.kept], others[name].to_numpy()
        if name in _CATEGORICAL:
            for category in np.unique(train):
                found.append((train == category, other == category))
            continue
        lower, upper = treatment.limits.get(name, (-np.inf, np.inf))
        train, other = (np.clip(values.astype(np.float64), lower, upper) for values in (train, other))
        mean, deviation = np.nanmean(train), np.nanstd(train) or 1.0
        found += [
            (np.nan_to_num((train - mean) / deviation), np.nan_to_num((other - mean) / deviation)),
            (np.isnan(train), np.isnan(other)),
        ]
    train, other = (np.stack(columns, axis=1).astype(np.float32) for columns in zip(*found, strict=True))
    return train, other


def train(case: Case, arm: str, treatment: Treatment, loss: str, seed: int, steps: int) -> Run:
    """One training with its figures."""
    import keras

    import spikeguard
    from spikeguard.components.guarded_trainer.labels import huber_delta, label_statistics
    from spikeguard.components.guarded_trainer.model import Feature, build_model
    from spikeguard.components.guarded_trainer.recipe import Recipe

    table = case.clean if arm == "clean" else case.spoiled
    x, valid_x = features_of(table, treatment, case.valid)
    y = table[_LABEL].to_numpy()[treatment.kept]
    label = label_statistics(y.astype(np.float64), _LABEL, "train", "regression")
    keras.utils.set_random_seed(seed)
    model = build_model((Feature("x", (x.shape[1],), 0),), label, "regression", Recipe())
    rate = spikeguard.GuardedSchedule(1e-3, steps, steps // 20)
    is_huber = loss == "huber"
    adam = keras.optimizers.Adam(rate)
    model.compile(
        spikeguard.SpikeGuard(adam) if is_huber else adam,
        spikeguard.Huber(huber_delta(label)) if is_huber else keras.losses.MeanSquaredError(),
    )
    with tempfile.TemporaryDirectory() as folder:
        recorder = spikeguard.CurveRecorder(folder, worst_examples=0)
        model.fit(
            _batches(x, y, treatment.weight[treatment.kept], seed),
            steps_per_epoch=steps,
            callbacks=[recorder],
            verbose=0,
        )
        curve = spikeguard.read_curve(folder)
    predicted = np.asarray(model({"x": valid_x}, training=False))[:, 0]
    late = curve.loss[steps // 2 :]
    return Run(
        loss=loss,
        arm=arm,
        seed=seed,
        error=float(np.mean(np.abs(predicted - case.valid[_LABEL].to_numpy()))),
        spikes=len(spikeguard.detect_spikes(curve).spikes),
        loss_sd=float(late.std() / late.mean()),
        found=float(treatment.is_outlier[case.is_spoiled].mean()),
        flagged_clean=float(treatment.is_outlier[~case.is_spoiled].mean()),
    )


def _batches(x: np.ndarray, y: np.ndarray, weight: np.ndarray, seed: int) -> Any:
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices(({"x": x}, y.astype(np.float32)[:, None], weight))
    return rows.shuffle(len(y), seed=seed).batch(_BATCH, drop_remainder=True).repeat().prefetch(2)


def _integers() -> set[str]:
    from tensorflow_metadata.proto.v0 import schema_pb2

    from spikeguard.pipelines.config import read_schema
    from spikeguard.schemas import schema_path

    return {
        feature.name for feature in read_schema(schema_path("flights_delay")).feature if feature.type == schema_pb2.INT
    }


def measure_treatments(
    seeds: int,
    steps: int,
    rows: int,
    losses: Sequence[str] = LOSSES,
    arms: Sequence[str] = ARMS,
    shares: Sequence[float] = SHARES,
) -> list[dict[str, Any]]:
    """A line per share of spoiled train rows, loss and arm: medians over the seeds, their range of errors, all spikes."""
    found = []
    for share in shares:
        case = case_of(rows, share)
        treatments = {arm: treatment_of(case.clean if arm == "clean" else case.spoiled, arm) for arm in arms}
        for loss in losses:
            for arm, treatment in treatments.items():
                runs = [train(case, arm, treatment, loss, seed, steps) for seed in range(seeds)]
                found.append({"spoiled": share, "loss": loss, "arm": arm, "seeds": seeds, **_summary(runs)})
                print(json.dumps(found[-1]), flush=True)
    return found


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    middle = {
        name: float(statistics.median(getattr(run, name) for run in runs))
        for name in ("error", "loss_sd", "found", "flagged_clean")
    }
    errors = [run.error for run in runs]
    return middle | {
        "least error": min(errors),
        "largest error": max(errors),
        "all spikes": sum(run.spikes for run in runs),
        "runs with spikes": sum(run.spikes > 0 for run in runs),
    }
