"""The pass over all rows: on Beam, or in this process where there is too little to be worth a pipeline."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf

from spikeguard.components.normalization_validator.measuring import (
    File,
    Key,
    Plan,
    measured_file,
    measured_files,
)
from spikeguard.components.training_curve import Floats

# Between the parts of a key.
_SEPARATOR = "\x1f"
# Bytes of files up to which the start of a pipeline, about half a second, would take longer than what it spreads.
_SMALL = 4 << 20


def measure(
    plan: Plan, files: Sequence[File], pipeline: Callable[[], beam.Pipeline], folder: str
) -> Mapping[Key, Floats]:
    """Measures files.

    Args:
      plan: what to measure.
      files: of gzipped or plain tf.Examples.
      pipeline: makes the Beam pipeline, where one is needed.
      folder: for what the pipeline writes; made where it is missing.
    """
    if sum(tf.io.gfile.stat(path).length for _, _, path in files) <= _SMALL:
        return measured_files(plan, files)
    tf.io.gfile.makedirs(folder)
    path = os.path.join(folder, "measured.npz")
    with pipeline() as root:
        _ = (
            root
            | "Files" >> beam.Create(list(files))
            | "MeasureFiles" >> MeasureFiles(plan)
            | "Collect" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write, path)
        )
    return _read(path)


class MeasureFiles(beam.PTransform):  # type: ignore[misc]
    """From `File` to `(Key, array)`, one per key; see `measured_file`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def expand(self, files: beam.PCollection[File]) -> beam.PCollection:
        return (
            files
            | "Spread" >> beam.Reshuffle()
            | "Measure" >> beam.FlatMap(lambda file, plan: measured_file(plan, file), self._plan)
            | "Merge" >> beam.CombinePerKey(functools.partial(_combined, self._plan))
        )


def _combined(plan: Plan, parts: Iterable[Floats | None]) -> Floats | None:
    # Beam merges what it has merged before, and asks for the merger of nothing.
    known = [part for part in parts if part is not None]
    return plan.combined(known) if known else None


def _write(measured: list[tuple[Key, Any]], path: str) -> None:
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


def _read(path: str) -> dict[Key, Floats]:
    """Reads what `_write` wrote."""
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
