"""The pass over all rows: each file is read, decoded and transformed in large batches, then summed up."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf

from spikeguard.components.normalization_validator.graph import loaded, matrix, present
from spikeguard.components.normalization_validator.summaries import Columns, merged
from spikeguard.components.training_curve import Floats

# Rows that are decoded and transformed together.
_ROWS = 8192
# Between the parts of a key.
_SEPARATOR = "\x1f"

# Kind (rows, raw, output, present, materialized), split and name; `present` is an output without the rows whose raw value
# is missing, `rows` has a zero for each row.
Key = tuple[str, str, str]


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


class MeasureFiles(beam.PTransform):  # type: ignore[misc]
    """From `(is_materialized, split, path)` of gzipped tf.Examples to `(Key, summary)`, one per key."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, files: beam.PCollection[tuple[bool, str, str]]) -> beam.PCollection:
        merge = _joined if self._plan.kept else _merged
        return (
            files
            | "Spread" >> beam.Reshuffle()
            | "Measure" >> beam.ParDo(_Measure(self._plan))
            | "Merge" >> beam.CombinePerKey(merge)
        )


def _merged(parts: Iterable[Floats | None]) -> Floats | None:
    # Beam merges what it has merged before, and asks for the merger of nothing.
    columns = [Columns.from_array(part) for part in parts if part is not None]
    return merged(columns).array if columns else None


def _joined(parts: Iterable[Floats | None]) -> Floats | None:
    columns = [part for part in parts if part is not None]
    return np.concatenate(columns) if columns else None


class _Measure(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._graph = loaded(self._plan.graph, self._plan.ignored)

    def process(self, file: tuple[bool, str, str]) -> Iterator[tuple[Key, Floats]]:
        is_materialized, split, path = file
        found: dict[Key, list[Floats]] = {}
        rows = tf.data.TFRecordDataset(path, compression_type=compression(path)).batch(_ROWS).prefetch(2)
        for serialized in rows:
            columns = self._columns(serialized, is_materialized)
            summed: dict[int, Floats] = {}
            for (kind, name), values in columns.items():
                key = (kind, split, name)
                if not self._plan.kept:
                    if id(values) not in summed:
                        summed[id(values)] = Columns.of(values).array
                    found.setdefault(key, []).append(summed[id(values)])
                elif key in self._plan.kept:
                    found.setdefault(key, []).append(values)
        for key, parts in found.items():
            yield key, np.concatenate(parts) if self._plan.kept else merged(map(Columns.from_array, parts)).array

    def _columns(self, serialized: tf.Tensor, is_materialized: bool) -> dict[tuple[str, str], Floats]:
        if is_materialized:
            columns = self._graph.parse_transformed(serialized)
            return {("materialized", name): matrix(column) for name, column in columns.items()}
        raw_tensors, output_tensors = self._graph.measure(serialized)
        raw = {name: matrix(column) for name, column in raw_tensors.items()}
        outputs = {name: matrix(column) for name, column in output_tensors.items()}
        result = {("raw", name): values for name, values in raw.items()}
        result["rows", ""] = np.zeros((len(serialized), 1))
        for name, values in outputs.items():
            result["output", name] = values
            masked = present(values, raw, self._plan.sources.get(name))
            result["present", name] = masked
        return result


def compression(path: str) -> str:
    """TensorFlow's name of a TFRecord file's compression."""
    return "GZIP" if path.endswith(".gz") else ""


def write_measured(measured: list[tuple[Key, Any]], path: str) -> None:
    """Writes what was measured as a NumPy archive, from wherever Beam runs."""
    known = [(key, np.asarray(value, np.float64)) for key, value in measured if value is not None]
    # All in one array: an archive of hundreds of small ones takes a second to open.
    flat = np.concatenate([np.zeros(0), *(value.ravel() for _, value in known)])
    content = io.BytesIO()
    np.savez(
        content,
        keys=np.array([_SEPARATOR.join(key) for key, _ in known], dtype=np.str_),
        shapes=np.array([value.shape for _, value in known], dtype=np.int64).reshape(-1, 2),
        values=flat,
    )
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content.getvalue())


def read_measured(path: str) -> dict[Key, Floats]:
    """Reads what `write_measured` wrote."""
    with tf.io.gfile.GFile(path, "rb") as file:
        content = io.BytesIO(file.read())
    with np.load(content) as archive:
        keys, shapes, values = archive["keys"], archive["shapes"], archive["values"]
    parts = np.split(values, np.cumsum(shapes.prod(axis=1))[:-1])
    found = {}
    for name, shape, part in zip(keys.tolist(), shapes, parts, strict=False):
        kind, split, column = name.split(_SEPARATOR)
        found[kind, split, column] = part.reshape(shape)
    return found
