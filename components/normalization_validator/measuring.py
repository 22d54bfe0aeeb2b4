"""What one file of examples gives: it is read, decoded and transformed in large batches, then summed up."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from spikeguard.components.normalization_validator.graph import ProbedGraph, loaded, matrix, present
from spikeguard.components.normalization_validator.summaries import Columns, merged
from spikeguard.components.training_curve import Floats

# Rows that are decoded and transformed together.
_ROWS = 8192

# Kind (rows, raw, output, present, materialized), split and name; `present` is an output without the rows whose raw value
# is missing, `rows` has a zero for each row.
Key = tuple[str, str, str]
# Whether its examples are transformed ones, split and path.
File = tuple[bool, str, str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure."""

    graph: str
    """Folder of the transform graph."""
    sources: Mapping[str, str | None]
    """The only raw feature of each output; None where there are several."""
    ignored: tuple[str, ...] = ()
    """Outputs that are not measured."""
    kept: tuple[Key, ...] = ()
    """Columns that are kept value by value instead of summed up; with any, all others are left out."""

    def combined(self, parts: Iterable[Floats]) -> Floats:
        """One column's arrays from several files or batches, at least one, as one."""
        return np.concatenate(list(parts)) if self.kept else merged(map(Columns.from_array, parts)).array


def measured_file(plan: Plan, file: File) -> Iterator[tuple[Key, Floats]]:
    """Each column of a file: its summary, see `Columns.array`, or its values where the plan keeps them."""
    is_materialized, split, path = file
    graph = loaded(plan.graph, plan.ignored)
    found: dict[Key, list[Floats]] = {}
    rows = tf.data.TFRecordDataset(path, compression_type=compression(path)).batch(_ROWS).prefetch(2)
    for serialized in rows:
        columns = _materialized(graph, serialized) if is_materialized else _transformed(graph, serialized, plan)
        summed: dict[int, Floats] = {}
        for (kind, name), values in columns.items():
            key = (kind, split, name)
            if not plan.kept:
                if id(values) not in summed:
                    summed[id(values)] = Columns.of(values).array
                found.setdefault(key, []).append(summed[id(values)])
            elif key in plan.kept:
                found.setdefault(key, []).append(values)
    for key, parts in found.items():
        yield key, plan.combined(parts)


def measured_files(plan: Plan, files: Sequence[File]) -> dict[Key, Floats]:
    """All files' columns, measured one file after another in this process."""
    found: dict[Key, list[Floats]] = {}
    for file in files:
        for key, values in measured_file(plan, file):
            found.setdefault(key, []).append(values)
    return {key: plan.combined(parts) for key, parts in found.items()}


def compression(path: str) -> str:
    """TensorFlow's name of a TFRecord file's compression."""
    return "GZIP" if path.endswith(".gz") else ""


def _materialized(graph: ProbedGraph, serialized: tf.Tensor) -> dict[tuple[str, str], Floats]:
    return {("materialized", name): matrix(column) for name, column in graph.parse_transformed(serialized).items()}


def _transformed(graph: ProbedGraph, serialized: tf.Tensor, plan: Plan) -> dict[tuple[str, str], Floats]:
    raw_tensors, output_tensors = graph.measure(serialized)
    raw = {name: matrix(column) for name, column in raw_tensors.items()}
    result = {("raw", name): values for name, values in raw.items()}
    result["rows", ""] = np.zeros((len(serialized), 1))
    for name, column in output_tensors.items():
        values = matrix(column)
        result["output", name] = values
        result["present", name] = present(values, raw, plan.sources.get(name))
    return result
