"""Which wrong normalizations NormalizationValidator refuses, which right ones it passes, and what it costs.

Each way to normalize runs through real tf.Transform on each data set at each size: analysis of the rows that the way
analyzes, transformation of both splits into tf.Examples, then the validation of raw examples, graph and transformed
examples. The time of the validation is divided by that of analysis and transformation, in the same process.

    python -m tests.bench.normalization --sizes 300,3000 --data flights,wine --seeds 0,1

Each outcome is written as it comes to `normalization.jsonl`; with `--resume` those in it are not measured again.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console
from rich.table import Table as RichTable
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
from tfx_bsl.public import tfxio

from spikeguard.components.normalization_validator.measured import NormalizationConfig
from spikeguard.components.normalization_validator.result import Report
from spikeguard.components.normalization_validator.transforms import measure as measure_files
from spikeguard.components.normalization_validator.validating import Inputs, validate
from spikeguard.pipelines.config import LOCAL_BEAM_ARGS
from tests.bench import RESULTS
from tests.bench.normalization_data import DATA_SETS, Table, schema, table, write
from tests.bench.normalization_pipelines import RIGHT, WRONG, Way

_BEAM = PipelineOptions(list(LOCAL_BEAM_ARGS))
_SIZES = (300, 3000, 30_000)
_GOAL = 0.25


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One way on one data set at one size."""

    way: str
    is_right: bool
    data: str
    rows: int
    seed: int
    """Of the sample and of the split."""
    verdict: str
    """Of the validator."""
    result: str
    """`refused`, `passed` or `undecidable`."""
    as_wanted: bool
    transform_seconds: float
    validate_seconds: float
    reasons: tuple[str, ...]
    """The first of what was found."""


def run_transform(
    preprocessing_fn: Callable[[dict[str, Any]], dict[str, Any]],
    analyzed: Sequence[str],
    data_schema: schema_pb2.Schema,
    files: Mapping[str, Sequence[str]],
    folder: pathlib.Path,
) -> tuple[str, dict[str, list[str]]]:
    """Analyzes and transforms as Transform does; the graph's folder and the transformed files by split."""
    graph, materialized = str(folder / "graph"), {}
    sources = {
        split: tfxio.TFExampleRecord(list(paths), schema=data_schema, telemetry_descriptors=["bench"])
        for split, paths in files.items()
    }
    with beam.Pipeline(options=_BEAM) as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        batches = {split: pipeline | f"Read {split}" >> source.BeamSource() for split, source in sources.items()}
        config = sources["train"].TensorAdapterConfig()
        rows = tuple(batches[split] for split in analyzed) | beam.Flatten()
        transform_fn = (rows, config) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(graph)
        metadata = dataset_metadata.DatasetMetadata(data_schema)
        _ = metadata | tft_beam.WriteMetadata(str(folder / "graph" / tft.TFTransformOutput.RAW_METADATA_DIR), pipeline)
        for split, batch in batches.items():
            path = folder / f"transformed-{split}"
            transformed, _ = ((batch, config), transform_fn) | f"Apply {split}" >> tft_beam.TransformDataset(
                output_record_batches=True
            )
            _ = (
                transformed
                | f"Encode {split}" >> beam.FlatMapTuple(lambda batch, _: RecordBatchToExamplesEncoder().encode(batch))
                | f"Write {split}" >> beam.io.WriteToTFRecord(str(path), file_name_suffix=".gz", num_shards=1)
            )
            materialized[split] = [f"{path}-00000-of-00001.gz"]
    return graph, materialized


def run_validation(inputs: Inputs, folder: pathlib.Path, **config: Any) -> Report:
    """Validates as the executor does."""
    return validate(
        inputs,
        NormalizationConfig(**config),
        lambda plan, files: measure_files(plan, files, lambda: beam.Pipeline(options=_BEAM), str(folder)),
    )


def measure(way: Way, name: str, rows: int, seed: int = 0) -> Outcome:
    """Runs one way on one data set."""
    data = table(name, rows, seed)
    data = way.spoil(data) if way.spoil else data
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        files = write(data, folder / "raw")
        started = time.perf_counter()
        graph, materialized = _run(way, data, files, folder)
        transform_seconds = time.perf_counter() - started
        if way.materialized_by is not None:
            (folder / "other").mkdir()
            _, other = _run(way.materialized_by, data, files, folder / "other")
            materialized["eval"] = other["eval"]
        started = time.perf_counter()
        report = run_validation(Inputs(graph, files, materialized), folder)
        validate_seconds = time.perf_counter() - started
    return _outcome(way, name, rows, seed, report, transform_seconds, validate_seconds)


def _run(
    way: Way, data: Table, files: Mapping[str, Sequence[str]], folder: pathlib.Path
) -> tuple[str, dict[str, list[str]]]:
    analyzed = {"train": ["train"], "eval": ["eval"], "all": ["train", "eval"]}[way.analyzed]
    return run_transform(way.preprocessing_fn(data), analyzed, schema(data), files, folder)


def _outcome(
    way: Way, name: str, rows: int, seed: int, report: Report, transform_seconds: float, validate_seconds: float
) -> Outcome:
    found = [
        (check.severity, f"{feature.name}: {check.check}: {check.text}")
        for feature in report.features
        for check in feature.checks
    ]
    reasons = tuple(text for severity, text in found if severity == way.expects)
    if report.blocked_by or (way.expects == "WARNING" and reasons):
        result = "refused"
    else:
        result = "undecidable" if report.verdict == "undecidable" else "passed"
    as_wanted = result != "refused" if way.is_right else result == "refused"
    return Outcome(
        way.name,
        way.is_right,
        name,
        rows,
        seed,
        report.verdict,
        result,
        as_wanted,
        transform_seconds,
        validate_seconds,
        (reasons or report.blocked_by)[:2],
    )


def report(outcomes: Sequence[Outcome], folder: pathlib.Path) -> None:
    """Prints the tables; writes them as Markdown, and every outcome as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# Normalization: TensorFlow {tf.__version__}, tf.Transform {tft.__version__}, load {os.getloadavg()[0]:.1f}",
        "",
    ]
    sizes = sorted({outcome.rows for outcome in outcomes})
    header = ("way", *(f"{rows:,} rows" for rows in sizes), "share as wanted")
    for is_right in (False, True):
        chosen = [outcome for outcome in outcomes if outcome.is_right == is_right]
        title = "right ways" if is_right else "wrong ways"
        shown, rows_of_table = RichTable(*header, title=title), []
        for way in dict.fromkeys(outcome.way for outcome in chosen):
            cells = [way]
            for size in sizes:
                here = [outcome for outcome in chosen if (outcome.way, outcome.rows) == (way, size)]
                counts = {
                    word: collections.Counter(o.data for o in here if o.result == word)
                    for word in ("refused", "undecidable", "passed")
                }
                cells.append("; ".join(f"{word} {_counted(names)}" for word, names in counts.items() if names))
            mine = [outcome.as_wanted for outcome in chosen if outcome.way == way]
            rows_of_table.append((*cells, f"{np.mean(mine):.0%} of {len(mine)}"))
        for row in rows_of_table:
            shown.add_row(*row)
        Console(width=200).print(shown)
        lines += [f"## {title}", "", *_markdown([header, ["---"] * len(header), *rows_of_table]), ""]
    for is_right, word in ((False, "refused"), (True, "not refused")):
        mine = [outcome for outcome in outcomes if outcome.is_right == is_right]
        undecidable = [outcome for outcome in mine if outcome.result == "undecidable"]
        decided = mine if is_right else [outcome for outcome in mine if outcome not in undecidable]
        share = np.mean([outcome.as_wanted for outcome in decided]) if decided else float("nan")
        lines.append(
            f"{'Right' if is_right else 'Wrong'} ways {word}: {share:.1%} of {len(decided)} (undecidable: {len(undecidable)})."
        )
    for size in sizes:
        ratios = [o.validate_seconds / o.transform_seconds for o in outcomes if o.rows == size]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        seconds = statistics.median(o.transform_seconds for o in outcomes if o.rows == size)
        lines.append(
            f"Time added to Transform at {size:,} rows: {middle:.0%} (quartiles {low:.0%} to {high:.0%}) of {seconds:.1f} s; goal {_GOAL:.0%}."
        )
    print("\n".join(line for line in lines if line and not line.startswith(("|", "#"))))
    (folder / "normalization.md").write_text("\n".join(lines) + "\n")
    content = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes], "load": os.getloadavg()}
    (folder / "normalization.json").write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")


def _counted(names: collections.Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in names.items())


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]


def main(argv: Sequence[str] | None = None) -> list[Outcome]:
    """Measures and reports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, _SIZES)), help="rows")
    parser.add_argument("--data", default=",".join(DATA_SETS))
    parser.add_argument("--ways", default="", help="names, separated by semicolons; all where empty")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    parser.add_argument("--resume", action="store_true", help="keep the outcomes of the run before")
    given = parser.parse_args(argv)
    wanted = given.ways.split(";") if given.ways else None
    given.output.mkdir(parents=True, exist_ok=True)
    kept = given.output / "normalization.jsonl"
    if not given.resume:
        kept.unlink(missing_ok=True)
    outcomes = _read(kept)
    known = {(o.way, o.is_right, o.data, o.rows, o.seed) for o in outcomes}
    cases = itertools.product(map(int, given.seeds.split(",")), map(int, given.sizes.split(",")), given.data.split(","))
    for seed, rows, name in cases:
        for way in (*WRONG, *RIGHT):
            is_wanted = wanted is None or way.name in wanted
            if is_wanted and (way.name, way.is_right, name, rows, seed) not in known:
                outcomes.append(measure(way, name, rows, seed))
                with kept.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(dataclasses.asdict(outcomes[-1])) + "\n")
                _print(outcomes[-1])
    report(outcomes, given.output)
    return outcomes


def _read(path: pathlib.Path) -> list[Outcome]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    contents = [json.loads(line) for line in lines]
    return [Outcome(**{**content, "reasons": tuple(content["reasons"])}) for content in contents]


def _print(outcome: Outcome) -> None:
    mark = "ok " if outcome.as_wanted else "BAD" if outcome.result != "undecidable" else "?  "
    print(
        f"{mark} {outcome.data} {outcome.rows} seed {outcome.seed} {'right' if outcome.is_right else 'wrong'} {outcome.way}: "
        f"{outcome.result} ({outcome.transform_seconds:.1f} + {outcome.validate_seconds:.1f} s) {outcome.reasons[:1]}",
        flush=True,
    )


@pytest.mark.bench
def test_normalization_is_told_right_from_wrong(tmp_path: pathlib.Path) -> None:
    outcomes = main(["--sizes", "3000", "--output", str(tmp_path)])
    assert all(outcome.as_wanted for outcome in outcomes if outcome.is_right)


def test_smoke_of_the_normalization_bench(tmp_path: pathlib.Path) -> None:
    outcomes = main(["--sizes", "300", "--data", "wine", "--ways", "z-score of all rows", "--output", str(tmp_path)])
    assert [outcome.result for outcome in outcomes] == ["refused"]
    assert "100% of 1" in (tmp_path / "normalization.md").read_text()
    assert json.loads((tmp_path / "normalization.json").read_text())["outcomes"][0]["data"] == "wine"


if __name__ == "__main__":
    main()
