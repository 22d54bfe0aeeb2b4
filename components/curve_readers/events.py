"""Reads the scalars of TensorBoard event files; needs TensorBoard's protocol buffers, not TensorFlow.

An event file is a row of records, each of 8 bytes length, 4 bytes checksum of the length, the data, and 4 bytes checksum
of the data: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spikeguard.components.curve_readers import naming
from spikeguard.components.curve_readers.series import RunLog, SeriesBuilder
from spikeguard.components.errors import InvalidDataError

# Numbers of tensorboard.compat.proto.types_pb2.DataType: field and type of a tensor's values.
_VALUES = {1: ("float_val", "<f4"), 2: ("double_val", "<f8"), 3: ("int_val", "<i4"), 9: ("int64_val", "<i8")}
_HALF = 19


def is_event_file(path: pathlib.Path) -> bool:
    """Whether the name or the first bytes are an event file's."""
    if "tfevents" in path.name:
        return True
    with path.open("rb") as file:
        head = file.read(12)
    return len(head) == 12 and _masked_crc(head[:8]) == int.from_bytes(head[8:], "little")


def in_time_order(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Event files in the order in which they were begun, which their names tell."""

    def key(path: pathlib.Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]

    return sorted(paths, key=key)


def read_events(paths: Sequence[pathlib.Path]) -> RunLog:
    """Reads the event files of one run, one after the other.

    Args:
      paths: at least one file, in the order written.

    Returns:
      The scalars whose tags a curve may need, none if there are none. A file that is cut or damaged counts up to there.

    Raises:
      InvalidDataError: a file is empty or not an event file.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2

    builders: dict[str, SeriesBuilder | None] = {}
    notes: list[str] = []
    order = 0
    for path in paths:
        is_first = True
        for record in _records(path, notes):
            try:
                event = event_pb2.Event.FromString(record)
            except DecodeError as error:
                if is_first:
                    raise _not_events(path) from error
                notes.append(_damaged(path))
                break
            is_first = False
            order += 1
            for value in event.summary.value:
                tag = value.tag
                if tag not in builders:
                    builders[tag] = SeriesBuilder() if naming.is_wanted(tag) else None
                builder = builders[tag]
                if builder is None:
                    continue
                scalar = value.simple_value if value.HasField("simple_value") else _scalar(value)
                if scalar is not None:
                    builder.append(event.step, scalar, order)
    built = {tag: builder.build() for tag, builder in builders.items() if builder is not None}
    return RunLog(
        {tag: series for tag, series in built.items() if len(series.step)},
        "step",
        tuple(notes),
        _damaged(paths[-1]) in notes,
    )


def _records(path: pathlib.Path, notes: list[str]) -> Iterator[bytes]:
    size = os.path.getsize(path)
    if not size:
        raise InvalidDataError(str(path), "is empty", "Give a file that a training has written to.")
    place = 0
    with path.open("rb", buffering=1 << 20) as file:
        while place < size:
            head = file.read(12)
            length = int.from_bytes(head[:8], "little")
            is_whole = len(head) == 12 and _masked_crc(head[:8]) == int.from_bytes(head[8:], "little")
            if not is_whole or place + 16 + length > size:
                if not place:
                    raise _not_events(path)
                notes.append(_damaged(path))
                return
            yield file.read(length)
            file.read(4)
            place += 16 + length


def _not_events(path: pathlib.Path) -> InvalidDataError:
    return InvalidDataError(
        str(path), "is not a TensorBoard event file, or is cut in its first record", "Give another file."
    )


def _damaged(path: pathlib.Path) -> str:
    return f"{path.name} is cut or damaged: what follows its last whole record was left out."


def _scalar(value: Any) -> float | None:
    """The number in a summary's tensor, None if it is something else: an image, a text, a histogram."""
    tensor = value.tensor
    if any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    if tensor.dtype == _HALF:
        content = tensor.tensor_content or np.asarray(tensor.half_val[:1], "<u2").tobytes()
        return float(np.frombuffer(content, "<f2")[0]) if len(content) == 2 else None
    if tensor.dtype not in _VALUES:
        return None
    field, kind = _VALUES[tensor.dtype]
    if tensor.tensor_content:
        return float(np.frombuffer(tensor.tensor_content, kind)[0])
    values = getattr(tensor, field)
    # An empty list stands for a zero.
    return float(values[0]) if values else 0.0


@functools.lru_cache(maxsize=65_536)
def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord does; lengths repeat, so most come from the cache."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
