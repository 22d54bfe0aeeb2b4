"""How OutlierDetector's forest ranks rows beside scikit-learn's.

Area under the ROC curve and average precision of the forest that is fitted on rows drawn from all, by the functions that the
component calls, less those of scikit-learn's IsolationForest on all rows of the same table; same settings, other seeds, as
many on both sides. Both are random, so each difference comes with its standard error over the seeds. For some seeds the
component itself runs, in Beam, on the same rows in another order and in several files: its forest must be the same, node
for node. Speed of scoring on one core, interleaved.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.bench.outlier_sets import labelled_sets

_TREES, _MAX_SAMPLES = 100, 256
# Sets of fewer rows, whose forests cost little, get five times as many seeds.
_SMALL = 5000


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One data set and seed."""

    auc: float
    peer_auc: float
    precision: float
    """Average precision."""
    peer_precision: float
    seconds: float
    """Of scoring all rows, on one core."""
    peer_seconds: float


@dataclasses.dataclass(frozen=True)
class EncodedRows:
    """A table as a component meets it."""

    serialized: np.ndarray
    """tf.Examples, shape (rows,)."""
    batch: pa.RecordBatch
    matrix: np.ndarray
    """What the forest sees, shape (rows, width): missing numbers are the median."""
    peer_matrix: np.ndarray
    """What scikit-learn's sees: the same, but texts are numbered in their order, as one does for trees."""


def encoded_rows(table: pd.DataFrame) -> EncodedRows:
    """Encodes all columns, decodes them again, and describes them as TrainingStatistics does."""
    from tfx_bsl.coders import example_coder

    from spikeguard.components.training_statistics.generators import RobustStatisticsGenerator, StatisticsConfig
    from spikeguard.components.training_statistics.reading import SplitStatistics
    from spikeguard.components.training_statistics.results import robust_statistics_of
    from tests.bench.outlier_treatments import record_batch

    encoded = example_coder.RecordBatchToExamplesEncoder().encode(record_batch(table, ()))
    serialized = np.array(encoded, object)
    batch = example_coder.ExamplesToRecordBatchDecoder(None).DecodeBatch(serialized)
    generator = RobustStatisticsGenerator(StatisticsConfig())
    proto = generator.extract_output(generator.add_input(generator.create_accumulator(), batch))
    features = {found.name: found for found in map(robust_statistics_of, proto.features) if found is not None}
    described = SplitStatistics("train", len(table), dict(sorted(features.items())))
    matrix = _matrix(batch, described)
    texts = [name for name in table if table[name].dtype.kind == "O"]
    numbered = [pd.factorize(table[name], sort=True)[0].astype(np.float32) for name in texts]
    numbers = matrix[:, : len(table.columns) - len(texts)]
    return EncodedRows(serialized, batch, matrix, np.column_stack([numbers, *numbered]))


def _matrix(batch: pa.RecordBatch, described: Any) -> np.ndarray:
    from spikeguard.components.outlier_detector.fences import fences_of
    from spikeguard.components.outlier_detector.matrix import MatrixColumns

    return MatrixColumns.of(fences_of(described, None, None, 0.01), None).matrix(batch)


def forest_of(rows: EncodedRows, seed: int) -> Any:
    """Draws and fits without Beam."""
    from spikeguard.components.outlier_detector.forest import fit_forest
    from spikeguard.components.outlier_detector.sampling import RowSample, hash_rows

    sample = RowSample.empty(_TREES * _MAX_SAMPLES, rows.matrix.shape[1], seed)
    hashes = hash_rows(rows.serialized, seed)
    return fit_forest(sample.add(hashes, rows.matrix.__getitem__).rows(), _TREES, _MAX_SAMPLES, seed)


def is_forest_of_the_component(rows: EncodedRows, seed: int) -> bool:
    """Whether OutlierDetector, by Beam and from files, fits the same forest."""
    from spikeguard.components.outlier_detector.forest import Forest
    from spikeguard.components.outlier_detector.model import read_outlier_model
    from spikeguard.components.training_statistics.reading import read_training_statistics
    from tests.components.outlier_detector.artifacts import detect, examples_in, write_file

    shuffled = np.random.default_rng(seed).permutation(rows.serialized)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number, part in enumerate(np.array_split(shuffled, 3)):
            path = folder / "examples" / "Split-train" / f"data_tfrecord-{number:05d}-of-00003.gz"
            write_file(path, list(part))
        outcome = detect(folder, examples_in(folder / "examples", ["train"]), seed=seed)
        # Medians, which stand for what is missing, come from sketches, and these change with the order of the rows.
        described = read_training_statistics(folder / "statistics")
        ours = forest_of(dataclasses.replace(rows, matrix=_matrix(rows.batch, described)), seed)
        theirs = read_outlier_model(outcome.model.uri).forest
    assert theirs is not None
    return all(
        np.array_equal(getattr(theirs, field.name), getattr(ours, field.name)) for field in dataclasses.fields(Forest)
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _ranking(rows: EncodedRows, is_anomaly: np.ndarray, seed: int) -> Ranking:
    from sklearn.ensemble import IsolationForest
    from sklearn.metrics import average_precision_score, roc_auc_score

    ours = forest_of(rows, seed)
    peer = IsolationForest(
        n_estimators=_TREES, max_samples=min(_MAX_SAMPLES, len(rows.matrix)), random_state=seed + 10_000
    ).fit(rows.peer_matrix)
    scores, seconds = _timed(lambda: ours.score(rows.matrix))
    peer_scores, peer_seconds = _timed(lambda: -peer.score_samples(rows.peer_matrix))
    return Ranking(
        auc=float(roc_auc_score(is_anomaly, scores)),
        peer_auc=float(roc_auc_score(is_anomaly, peer_scores)),
        precision=float(average_precision_score(is_anomaly, scores)),
        peer_precision=float(average_precision_score(is_anomaly, peer_scores)),
        seconds=seconds,
        peer_seconds=peer_seconds,
    )


def measure_ranking(seeds: int, size: int, beam_seeds: int) -> list[dict[str, Any]]:
    """A line per data set, and one of all of them: the mean of their differences.

    Args:
      seeds: of each set.
      size: rows of each synthetic set.
      beam_seeds: seeds for which the component itself must fit the same forest.
    """
    found: list[dict[str, Any]] = []
    for name, (table, is_anomaly) in labelled_sets(size).items():
        rows = encoded_rows(table)
        runs = [_ranking(rows, is_anomaly, seed) for seed in range(seeds * 5 if len(table) < _SMALL else seeds)]
        is_same = [is_forest_of_the_component(rows, seed) for seed in range(beam_seeds)]
        found.append(_line(name, rows, runs) | {"same as the component": f"{sum(is_same)} of {len(is_same)}"})
        print(json.dumps(found[-1]), flush=True)
    return [*found, _of_all(found)]


def _line(name: str, rows: EncodedRows, runs: Sequence[Ranking]) -> dict[str, Any]:
    line: dict[str, Any] = {"data": name, "rows": len(rows.matrix), "seeds": len(runs)}
    for short, field in (("auc", "auc"), ("ap", "precision")):
        ours = np.array([getattr(run, field) for run in runs])
        differences = ours - [getattr(run, f"peer_{field}") for run in runs]
        line |= {
            short: float(ours.mean()),
            f"{short} - peer": float(differences.mean()),
            f"{short} se": float(differences.std(ddof=1) / np.sqrt(len(runs))),
        }
    return line | {
        "rows/s": float(np.median([len(rows.matrix) / run.seconds for run in runs])),
        "time over peer": float(np.median([run.seconds / run.peer_seconds for run in runs])),
    }


def _of_all(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    total = {name: sum(line[name] for line in lines) for name in ("rows", "seeds")}
    means = {
        name: float(np.mean([line[name] for line in lines]))
        for name in ("auc", "auc - peer", "ap", "ap - peer", "rows/s", "time over peer")
    }
    errors = {
        name: float(np.sqrt(np.sum([line[name] ** 2 for line in lines])) / len(lines)) for name in ("auc se", "ap se")
    }
    order = [*lines[0]]
    everything = {"data": "all", **total, **means, **errors, "same as the component": ""}
    return {name: everything[name] for name in order}
