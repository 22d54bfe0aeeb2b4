"""OutlierDetector: its time beside StatisticsGen's, its speed and memory as rows grow, its ranking beside scikit-learn's, and what
each treatment buys.

    python -m tests.bench.outliers --parts ranking,time,growth --rows 40000,160000 --rounds 3

- ranking: see `outlier_ranking`.
- time: executors in one process, on the same flights, taking turns: StatisticsGen, TrainingStatistics, OutlierDetector; by the
  clock, and by what all cores spent, which others at work on the machine disturb less.
- growth: the flights repeated with jitter; rows per second, and the process's peak memory, of a process of its own.
- treatments: see `outlier_treatments`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from tests.bench import RESULTS
from tests.bench.outlier_ranking import encoded_rows, is_forest_of_the_component, measure_ranking
from tests.bench.outlier_sets import labelled_sets
from tests.bench.outlier_treatments import case_of, measure_treatments, record_batch, treatment_of

_PARTS = ("ranking", "time", "growth", "treatments")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def write_flights(folder: pathlib.Path, rows: int) -> Any:
    """An Examples artifact of the year's flights, repeated with jitter up to the number of rows; two of three in train."""
    import pandas as pd
    import tensorflow as tf
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.types import standard_artifacts
    from tfx_bsl.coders import example_coder

    from spikeguard.pipelines import flights
    from spikeguard.pipelines.config import read_schema
    from spikeguard.schemas import schema_path

    frame = pd.read_csv(flights.write_csv("delay", range(1, 13), folder / "csv"))
    schema = read_schema(schema_path("flights_delay"))
    integers = {feature.name for feature in schema.feature if feature.type == schema_pb2.INT}
    random = np.random.default_rng(0)
    writers = {}
    for split in ("train", "eval"):
        path = folder / "examples" / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        path.parent.mkdir(parents=True)
        writers[split] = tf.io.TFRecordWriter(str(path), "GZIP")
    encoder = example_coder.RecordBatchToExamplesEncoder()
    for start in range(0, rows, 20_000):
        places = np.arange(start, min(rows, start + 20_000))
        part = frame.iloc[places % len(frame)]
        if start >= len(frame):
            part = part.copy()
            for name in part.columns:
                if part[name].dtype.kind != "O" and name not in integers:
                    part[name] = part[name] * random.normal(1.0, 1e-3, size=len(part))
        encoded = encoder.encode(record_batch(part, integers))
        for place, record in zip(places, encoded, strict=True):
            writers["eval" if place % 3 == 2 else "train"].write(record)
    for writer in writers.values():
        writer.close()
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(folder / "examples"), '["train", "eval"]'
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    return examples


class _Nodes:
    """The executors of the three components on one artifact."""

    def __init__(self, folder: pathlib.Path, examples: Any) -> None:
        from spikeguard.pipelines.config import LOCAL_BEAM_ARGS
        from spikeguard.schemas import schema_path

        self._folder, self._examples, self._round = folder, examples, 0
        self._args = list(LOCAL_BEAM_ARGS)
        (folder / "schema").mkdir()
        schema = pathlib.Path(schema_path("flights_delay")).read_bytes()
        (folder / "schema" / "schema.pbtxt").write_bytes(schema)

    def run(self, node: str) -> tuple[float, float]:
        """Seconds of one node in a fresh output folder, and of all cores together."""
        from tfx.components.statistics_gen.executor import Executor as StatisticsGen
        from tfx.dsl.components.base import base_beam_executor
        from tfx.types import standard_artifacts

        from spikeguard.components.artifacts import OutlierModel
        from spikeguard.components.outlier_detector.config import DetectorConfig
        from spikeguard.components.outlier_detector.executor import Executor as OutlierDetector
        from spikeguard.components.training_statistics.executor import Executor as TrainingStatistics

        self._round += 1
        context = base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=self._args, unique_id=str(self._round))
        inputs = {"examples": [self._examples], "schema": [self._artifact(standard_artifacts.Schema, "schema")]}
        label = {"label": "arr_delay", "task": "regression"}
        if node == "StatisticsGen":
            outputs = {"statistics": standard_artifacts.ExampleStatistics}
            properties, executor = {"exclude_splits": "[]"}, StatisticsGen(context)
            inputs.pop("schema")
        elif node == "TrainingStatistics":
            outputs = {"statistics": standard_artifacts.ExampleStatistics}
            properties, executor = {"split": "train", "config": json.dumps(label)}, TrainingStatistics(context)
        else:
            inputs["statistics"] = [self._artifact(standard_artifacts.ExampleStatistics, "described/statistics")]
            outputs = {
                "treated_examples": standard_artifacts.Examples,
                "treated_schema": standard_artifacts.Schema,
                "anomalies": standard_artifacts.ExampleAnomalies,
                "model": OutlierModel,
            }
            properties, executor = {"config": DetectorConfig(**label).to_json()}, OutlierDetector(context)
        target = "described" if node == "TrainingStatistics" else f"{node}-{self._round}"
        written = {name: [self._artifact(kind, f"{target}/{name}")] for name, kind in outputs.items()}
        before = time.process_time()
        _, seconds = _timed(lambda: executor.Do(inputs, written, properties))
        return seconds, time.process_time() - before

    def _artifact(self, kind: Any, name: str) -> Any:
        artifact = kind()
        artifact.uri = str(self._folder / name)
        (self._folder / name).mkdir(parents=True, exist_ok=True)
        return artifact


NODES = ("StatisticsGen", "TrainingStatistics", "OutlierDetector")


def measure_time(rounds: int, rows: int) -> list[dict[str, Any]]:
    """Seconds of every node, in turns; the first turn, which loads what later ones have, does not count."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        nodes = _Nodes(pathlib.Path(folder), write_flights(pathlib.Path(folder), rows))
        for number in range(-1, rounds):
            took = {node: nodes.run(node) for node in NODES}
            if number >= 0:
                ratio, core_ratio = (
                    (took["TrainingStatistics"][kind] + took["OutlierDetector"][kind]) / took["StatisticsGen"][kind]
                    for kind in (0, 1)
                )
                found.append(
                    {
                        "round": number,
                        "rows": rows,
                        **{node: took[node][0] for node in NODES},
                        "ratio": ratio,
                        **{f"{node}, core s": took[node][1] for node in NODES},
                        "ratio, core s": core_ratio,
                        "load": os.getloadavg()[0],
                    }
                )
    return found


def measure_growth(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Each size in a process of its own, whose peak memory is its own."""
    found = []
    for rows in sizes:
        command = [sys.executable, "-m", "tests.bench.outliers", "--grow-one", str(rows)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _grow_one(rows: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        nodes = _Nodes(pathlib.Path(folder), write_flights(pathlib.Path(folder), rows))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        took = {node: nodes.run(node) for node in NODES[1:]}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": rows,
        **{f"{node} rows/s": rows / took[node][0] for node in NODES[1:]},
        **{f"{node} rows/core s": rows / took[node][1] for node in NODES[1:]},
        "peak_mb": peak,
        "before_mb": before,
        "load": os.getloadavg()[0],
    }


def report(results: dict[str, list[dict[str, Any]]], folder: pathlib.Path) -> None:
    """Prints a table per part, and writes them as Markdown and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"# OutlierDetector ({os.cpu_count()} cores)"]
    for part, rows in results.items():
        header = list(rows[0])
        cells = [
            [f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in header] for row in rows
        ]
        table = Table(*header, title=part)
        for row in cells:
            table.add_row(*row)
        Console(width=160).print(table)
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells)]
        text.append(f"## {part}\n\n" + "\n".join(lines))
    (folder / "outliers.md").write_text("\n\n".join(text) + "\n")
    (folder / "outliers.json").write_text(json.dumps(results, allow_nan=False, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Measures and reports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(_PARTS))
    parser.add_argument("--seeds", type=int, default=40, help="of the ranking")
    parser.add_argument(
        "--beam-seeds", type=int, default=1, help="seeds whose forest is fitted by the component as well"
    )
    parser.add_argument("--labelled-rows", type=int, default=40_000, help="of each synthetic set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--time-rows", type=int, default=327_346, help="flights for the time; all of the year by default"
    )
    parser.add_argument("--rows", default="300000,1000000,3000000,10000000", help="sizes to grow to")
    parser.add_argument("--grow-one", type=int, help="one size in this process, printed as JSON")
    parser.add_argument("--treatment-seeds", type=int, default=5)
    parser.add_argument("--treatment-steps", type=int, default=1000)
    parser.add_argument("--treatment-rows", type=int, default=30_000, help="of January's flights; all by default")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    given = parser.parse_args(argv)
    if given.grow_one is not None:
        print(json.dumps(_grow_one(given.grow_one)))
        return {}
    if unknown := sorted(set(given.parts.split(",")) - set(_PARTS)):
        parser.error(f"--parts must name some of {', '.join(_PARTS)}; got {', '.join(unknown)}.")
    results: dict[str, list[dict[str, Any]]] = {}
    for part in given.parts.split(","):
        if part == "ranking":
            results[part] = measure_ranking(given.seeds, given.labelled_rows, given.beam_seeds)
        elif part == "time":
            results[part] = measure_time(given.rounds, given.time_rows)
        elif part == "treatments":
            results[part] = measure_treatments(given.treatment_seeds, given.treatment_steps, given.treatment_rows)
        else:
            results[part] = measure_growth([int(rows) for rows in given.rows.split(",")])
    report(results, given.output)
    return results


@pytest.mark.bench
def test_outliers() -> None:
    results = main([])
    for row in results["ranking"]:
        assert row["auc - peer"] > -0.005 - 2 * row["auc se"]
        assert row["ap - peer"] > -0.005 - 2 * row["ap se"]


def test_smoke_of_the_outliers_bench(tmp_path: pathlib.Path) -> None:
    results = main(
        [
            "--parts",
            "ranking",
            "--seeds",
            "2",
            "--beam-seeds",
            "0",
            "--labelled-rows",
            "2000",
            "--output",
            str(tmp_path),
        ]
    )
    found = {row["data"]: row for row in results["ranking"]}
    assert [*found] == [*labelled_sets(2000), "all"]
    assert found["clusters"]["auc"] > 0.9
    assert found["all"]["ap - peer"] == pytest.approx(
        np.mean([row["ap - peer"] for name, row in found.items() if name != "all"])
    )
    assert json.loads((tmp_path / "outliers.json").read_text()) == results
    assert "like http" in (tmp_path / "outliers.md").read_text()


def test_forest_of_the_bench_is_that_of_the_component() -> None:
    table, _ = labelled_sets(600)["like intrusions"]
    assert is_forest_of_the_component(encoded_rows(table), seed=3)


def test_smoke_of_the_treatments() -> None:
    rows = measure_treatments(
        seeds=1, steps=20, rows=3000, losses=("squared_error",), arms=("none", "flag", "drop"), shares=(0.01,)
    )
    found = {row["arm"]: row for row in rows}
    # A flag is no feature: it changes no figure of the training.
    assert found["flag"]["error"] == found["none"]["error"] != found["drop"]["error"]
    assert found["drop"]["found"] > 0.5 > 0.1 > found["drop"]["flagged_clean"]
    case = case_of(3000, 0.01)
    dropped = treatment_of(case.spoiled, "drop")
    np.testing.assert_array_equal(dropped.kept, ~dropped.is_outlier)
    weighted = treatment_of(case.spoiled, "downweight")
    np.testing.assert_allclose(weighted.weight, np.where(dropped.is_outlier, 0.1, 1.0), rtol=1e-6)
    limits = treatment_of(case.spoiled, "winsorize").limits
    assert limits["distance"][1] < case.spoiled["distance"].max()
    assert limits["temp"][0] > -9999.0


if __name__ == "__main__":
    main()
