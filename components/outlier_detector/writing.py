"""Writes treated rows: what was there, byte for byte, and the added columns after it."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.coders import example_coder

# The rows are read once, by the next component: less work counts for more than a smaller file.
_LEVEL = 1


def added_bytes(columns: dict[str, npt.NDArray[Any]]) -> list[bytes]:
    """One serialized tf.Example per row with these columns alone, float or integer of shape (rows,); NaN is no value.

    Protocol buffers merge messages that follow each other, so a row followed by these bytes is the row with the columns:
    nothing of it is decoded and encoded again. The context of a tf.SequenceExample has the same form.
    """
    encoder = example_coder.RecordBatchToExamplesEncoder()
    added = None
    for name, values in columns.items():
        kind = pa.int64() if values.dtype.kind == "i" else pa.float32()
        is_there = values == values
        offsets = np.concatenate([[0], np.cumsum(is_there)])
        lists = pa.LargeListArray.from_arrays(offsets, pa.array(values[is_there], kind))
        # One column at a time: of several, the encoder's order changes from run to run.
        encoded = encoder.encode(pa.RecordBatch.from_arrays([lists], [name]))
        added = encoded if added is None else [first + second for first, second in zip(added, encoded, strict=True)]
    return list(added or ())


class RowWriter:
    """Writes one gzipped TFRecord file, which appears when it is whole.

    Used as a context; on an exception nothing is left behind, so a worker may try again.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._unfinished = f"{path}.{uuid.uuid4().hex}.tmp"
        self.rows = 0

    def __enter__(self) -> RowWriter:
        tf.io.gfile.makedirs(self._path.rpartition("/")[0])
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=_LEVEL)
        self._writer = tf.io.TFRecordWriter(self._unfinished, options)
        return self

    def write(self, rows: Any, added: list[bytes], is_kept: npt.NDArray[np.bool_]) -> None:
        """Appends the kept rows with their added bytes; all of one length."""
        for row, extra, kept in zip(rows, added, is_kept.tolist(), strict=True):
            if kept:
                self._writer.write(row + extra)
                self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            tf.io.gfile.rename(self._unfinished, self._path, overwrite=True)
        else:
            tf.io.gfile.remove(self._unfinished)
