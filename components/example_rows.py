"""Rows of one file, as they are on disk and as Arrow columns, in their order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.arrow import table_util
from tfx_bsl.coders import example_coder, sequence_example_coder

from spikeguard.components.errors import InvalidDataError

Payload = Literal["FORMAT_TF_EXAMPLE", "FORMAT_TF_SEQUENCE_EXAMPLE"]
# Large enough that the work per batch does not count, small enough for memory.
BATCH_ROWS = 8192
# Rows that are decoded at once: their columns stay in the processor's cache, which takes a third less time.
_DECODED_ROWS = 512
_GZIP = b"\x1f\x8b\x08"
_SEQUENCES = "##SEQUENCE##"


@dataclasses.dataclass(frozen=True)
class SplitFile:
    """One file of a split; such a file cannot be read in parts, so a worker takes all of it."""

    split: str
    path: str
    payload: Payload
    target: str = ""
    """Where its treated rows go."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a file, as they are on disk; they are decoded when they are asked for."""

    file: SplitFile
    serialized: npt.NDArray[np.object_]
    """Shape (rows,), bytes objects."""
    _decoder: Any

    @functools.cached_property
    def batch(self) -> pa.RecordBatch:
        """All of them as Arrow columns, a list of values per row; raises as `decoded` does."""
        return self.decoded(slice(None))

    def decoded(self, places: npt.NDArray[np.intp] | slice) -> pa.RecordBatch:
        """Some of them as Arrow columns.

        Raises:
          InvalidDataError: a feature has values of several types.
        """
        try:
            return _decoded(self._decoder, self.serialized[places])
        except RuntimeError as error:
            if "type" not in str(error) and "parse" not in str(error):
                raise
            text = " ".join(str(error).split())
            raise InvalidDataError(
                f"split {self.file.split!r}, {self.file.path}",
                f"cannot be decoded ({text})",
                "Write each feature with one type.",
            ) from error


def read_rows(file: SplitFile, batch_rows: int = BATCH_ROWS) -> Iterator[Rows]:
    """All rows of a TFRecord file, gzipped or not.

    Beam reads record by record, which takes several times as long as TensorFlow does for a batch.

    Raises:
      InvalidDataError: the file is damaged.
    """
    if file.payload == "FORMAT_TF_EXAMPLE":
        decoder: Any = example_coder.ExamplesToRecordBatchDecoder(None)
    else:
        decoder = sequence_example_coder.SequenceExamplesToRecordBatchDecoder(_SEQUENCES)
    dataset = tf.data.TFRecordDataset(file.path, "GZIP" if _is_gzipped(file.path) else "").batch(batch_rows)
    # Reads on while a batch is worked on.
    dataset = dataset.prefetch(1)
    try:
        for serialized in dataset.as_numpy_iterator():
            yield Rows(file, serialized, decoder)
    except tf.errors.DataLossError as error:
        raise InvalidDataError(
            f"split {file.split!r}, {file.path}", f"is damaged ({error.message})", "Write the examples again."
        ) from error


def _decoded(decoder: Any, serialized: Any) -> pa.RecordBatch:
    # Of no rows there is one part all the same.
    starts = range(0, max(1, len(serialized)), _DECODED_ROWS)
    parts = [decoder.DecodeBatch(serialized[start : start + _DECODED_ROWS]) for start in starts]
    if len(parts) == 1:
        return parts[0]
    try:
        return table_util.MergeRecordBatches(parts)
    except RuntimeError:
        # A feature has one type in each part and several in all of them, which the decoder names and the merging does not.
        return decoder.DecodeBatch(serialized)


def _is_gzipped(path: str) -> bool:
    with tf.io.gfile.GFile(path, "rb") as file:
        return bool(file.read(len(_GZIP)) == _GZIP)
