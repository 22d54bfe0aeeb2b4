"""The whole validation: probes the graph with a sample, sums up all rows in one pass, and runs the checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from spikeguard.components.columns import EXAMPLE_ID, SAMPLE_WEIGHT
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.normalization_validator.batch_dependence import check_batch_dependence
from spikeguard.components.normalization_validator.before_split import check_before_split
from spikeguard.components.normalization_validator.graph import ProbedGraph, loaded, matrix, sources_of
from spikeguard.components.normalization_validator.measured import Measured, NormalizationConfig
from spikeguard.components.normalization_validator.measuring import File, Key, Plan, compression
from spikeguard.components.normalization_validator.result import Check, FeatureReport, Report, worst
from spikeguard.components.normalization_validator.same_constants import check_same_constants
from spikeguard.components.normalization_validator.scaling import check_distribution, check_scaled
from spikeguard.components.normalization_validator.summaries import Columns
from spikeguard.components.normalization_validator.train_only import check_train_only
from spikeguard.components.training_curve import Floats

# Outputs that name or weigh rows are no features.
_IDS = (EXAMPLE_ID, SAMPLE_WEIGHT)
# Files that a sample is taken from, row by row in turn.
_SAMPLED_FILES = 16

Run = Callable[[Plan, Sequence[File]], Mapping[Key, Floats]]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is validated."""

    graph: str
    """Folder of the transform graph."""
    raw: Mapping[str, Sequence[str]]
    """Paths of the raw tf.Examples by split."""
    materialized: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Paths of the transformed tf.Examples by split; empty where there are none."""
    analyzed_rows: int | None = None
    """Rows that tf.Transform says it analyzed."""
    described_rows: int | None = None
    """Rows that TrainingStatistics describes."""


def validate(inputs: Inputs, config: NormalizationConfig, run: Run) -> Report:
    """Proves or refutes all it can.

    Args:
      inputs: what is validated.
      config: the train split, and the limits of warnings.
      run: measures files by a plan, as `transforms.measure` does.

    Raises:
      InvalidDataError: the graph or the examples cannot be used.
    """
    if not inputs.raw.get(config.train_split):
        raise InvalidDataError(
            f"split {config.train_split!r}",
            f"is not among the examples' splits ({', '.join(sorted(inputs.raw))}) or has no files",
            "Name the split that is trained on.",
        )
    graph = loaded(inputs.graph, _IDS)
    serialized = read_sample(inputs.raw[config.train_split], config.sample_rows)
    if not serialized:
        raise InvalidDataError(f"split {config.train_split!r}", "has no rows", "Give more data, or another split.")
    batches = _probe(graph, serialized)
    sample = graph.parse(serialized)
    sources = sources_of(graph, sample)
    plan = Plan(inputs.graph, {name: found.only for name, found in sources.items()}, _IDS)
    files = [(False, split, path) for split, paths in sorted(inputs.raw.items()) for path in paths]
    transformed = {split: paths for split, paths in inputs.materialized.items() if split in inputs.raw}
    all_files = files + [(True, split, path) for split, paths in sorted(transformed.items()) for path in paths]
    summaries = {key: Columns.from_array(array) for key, array in run(plan, all_files).items()}
    measured = Measured(
        config,
        graph,
        tuple(split for split in sorted(inputs.raw) if ("rows", split, "") in summaries),
        sample,
        {name: matrix(sample[name]) for name in graph.numbers},
        graph.apply(sample),
        sources,
        summaries,
        lambda keys: run(dataclasses.replace(plan, kept=tuple(keys)), files),
        inputs.analyzed_rows,
    )
    return _report(measured, inputs, batches)


def read_sample(files: Sequence[str], rows: int) -> list[bytes]:
    """The first rows of the files, from all of them in turn; fewer where there are not so many."""
    paths = tf.data.Dataset.from_tensor_slices(list(files))
    dataset = paths.interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type=compression(files[0])),
        cycle_length=min(len(files), _SAMPLED_FILES),
    )
    return [record.numpy() for record in dataset.take(rows)]


def _probe(graph: ProbedGraph, serialized: list[bytes]) -> dict[str, Check]:
    try:
        return check_batch_dependence(graph, serialized)
    except (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError, tf.errors.NotFoundError) as error:
        raise InvalidDataError(
            "transform_graph",
            f"does not take these examples ({' '.join(error.message.split())[:300]})",
            "Give the graph that Transform made of these examples, with its vocabularies.",
        ) from error


def _report(measured: Measured, inputs: Inputs, batches: Mapping[str, Check]) -> Report:
    train_only, raw_checks = check_train_only(measured), check_before_split(measured)
    config = measured.config
    grouped: dict[str, list[str]] = {name: [] for name in measured.graph.numbers}
    for output, found in measured.sources.items():
        if found.features:
            grouped.setdefault(found.only or output, []).append(output)
    features = []
    for name, outputs in sorted(grouped.items()):
        checks = [raw_checks[name]] if name in raw_checks else []
        known = [output for output in outputs if output in measured.output_sample]
        is_input = name != config.label and config.label not in known
        per_output = [
            [train_only[output] for output in known if output in train_only],
            [check_same_constants(measured, output) for output in known],
            [batches[output] for output in known],
            [check_scaled(measured, output) for output in known if is_input and _is_number(measured, output)],
            [check_distribution(measured, output) for output in known if is_input and _is_number(measured, output)],
        ]
        found_checks = (*(worst(group) for group in per_output if group), *checks)
        features.append(FeatureReport(name, tuple(known), found_checks))
    return Report(
        train_split=measured.train,
        rows={split: measured.rows(split) for split in measured.splits},
        features=(*_whole(measured, inputs), *features),
        notes=_notes(measured, inputs),
        failures=_failures(measured),
    )


def _is_number(measured: Measured, output: str) -> bool:
    """Whether an output is a measure, and not the hash of a text."""
    return all(feature in measured.graph.numbers for feature in measured.sources[output].features)


def _whole(measured: Measured, inputs: Inputs) -> list[FeatureReport]:
    if inputs.analyzed_rows is None:
        return []
    rows, analyzed = measured.rows(measured.train), inputs.analyzed_rows
    figures = {"train_rows": rows, "analyzed_rows": analyzed}
    if analyzed == rows:
        check = Check(
            "train_only", "proven", f"tf.Transform analyzed {rows:,} rows, as many as the train split has.", figures
        )
    else:
        text = f"tf.Transform analyzed {analyzed:,} rows; the train split has {rows:,}. Set Transform's splits_config to analyze it alone."
        check = Check("train_only", "refuted", text, figures, "ERROR")
    return [FeatureReport(None, (), (check,))]


def _notes(measured: Measured, inputs: Inputs) -> tuple[str, ...]:
    rows, notes = measured.rows(measured.train), []
    if inputs.described_rows is not None and inputs.described_rows != rows:
        notes.append(
            f"The statistics describe {inputs.described_rows:,} rows, the train split has {rows:,}: they are of other examples."
        )
    if len(measured.splits) < 2:
        notes.append("There is one split alone, so that no other set of rows can have leaked into the constants.")
    if rows < 2:
        notes.append(f"The train split has {rows} row: no constants can be told from it.")
    if not inputs.materialized:
        notes.append("Without transformed examples it is not known by which constants each split was transformed.")
    absent = _absent(measured)
    if absent:
        notes.append(f"The graph's features {', '.join(absent)} have no value in the examples.")
    return tuple(notes)


def _absent(measured: Measured) -> list[str]:
    """Raw features without any value: numbers in all rows, texts in the sample."""
    absent = []
    for name in sorted(measured.graph.spec):
        columns = measured.columns("raw", name).values()
        if name in measured.graph.numbers:
            is_absent = not any(c.count.any() for c in columns)
        else:
            column = measured.sample[name]
            values = (
                column
                if isinstance(column, tf.Tensor)
                else getattr(column, "flat_values", getattr(column, "values", None))
            )
            is_absent = not int(tf.size(values))
        if is_absent:
            absent.append(name)
    return absent


def _failures(measured: Measured) -> tuple[str, ...]:
    absent = _absent(measured)
    if absent and len(absent) == len(measured.graph.spec):
        return ("No feature of the transform graph has a value in the examples: the graph is of another schema.",)
    return ()
