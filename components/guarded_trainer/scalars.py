"""TensorBoard scalars, a block of steps at a time."""

from __future__ import annotations

import itertools
import os
import pathlib
import socket
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2

from spikeguard.components.training_curve import Floats

# Two writers of one process may begin in the same second.
_FILES = itertools.count()


class ScalarWriter:
    """Writes one event per step that holds all its scalars: `tf.summary.scalar` takes longer than a small training step.

    TensorBoard's own writer computes checksums in Python, which takes longer than everything else about a block. The events
    of a block differ in step and values only, so the values are put into copies of one event's bytes.
    """

    def __init__(self, log_dir: pathlib.Path) -> None:
        """Prepares the writer; files are opened when there is something to write."""
        self._log_dir = log_dir
        self._writers: dict[str, tf.io.TFRecordWriter] = {}

    def write(self, run: str, steps: npt.ArrayLike, scalars: Mapping[str, Floats]) -> None:
        """Appends to one run.

        Args:
          run: subfolder, `train` or `validation`.
          steps: shape (n,).
          scalars: name to values, each of shape (n,).
        """
        writer = self._writers.get(run)
        if writer is None:
            writer = self._writers[run] = _event_file(self._log_dir / run)
        row, ends = _row(list(scalars))
        rows = np.tile(np.frombuffer(row, np.uint8), (len(np.asarray(steps)), 1))
        for end, column in zip(ends, scalars.values(), strict=True):
            rows[:, end - 4 : end] = np.asarray(column, "<f4")[:, np.newaxis].view(np.uint8)
        event = event_pb2.Event(wall_time=time.time())
        for step, values in zip(np.asarray(steps).tolist(), rows, strict=True):
            event.step = step
            # The bytes of two parts of a message are the bytes of the message.
            writer.write(event.SerializeToString() + values.tobytes())

    def flush(self) -> None:
        """Brings everything to disk."""
        for writer in self._writers.values():
            writer.flush()


def _row(names: Sequence[str]) -> tuple[bytes, list[int]]:
    """An event's scalars as bytes, and where each one's value ends: it is the last four bytes of its part."""
    summaries = [summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=name, simple_value=1.0)]) for name in names]
    parts = [summary.SerializeToString() for summary in summaries]
    row = event_pb2.Event(summary=summary_pb2.Summary.FromString(b"".join(parts))).SerializeToString()
    sizes = [len(part) for part in parts]
    return row, [len(row) - sum(sizes[place + 1 :]) for place in range(len(sizes))]


def _event_file(folder: pathlib.Path) -> tf.io.TFRecordWriter:
    """A new file under the kind of name by which TensorBoard finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{next(_FILES)}"
    writer = tf.io.TFRecordWriter(str(folder / name))
    writer.write(event_pb2.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    return writer
