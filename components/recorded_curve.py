"""The recorder's curve on disk.

A curve is a folder `curve/` of Parquet blocks, each complete in itself and put in place by one rename, so a killed run
loses at most the block that it had not yet written:

    curve/steps-000000000001.parquet        one row per optimizer step, named after its first step
    curve/validation-000000000069.parquet   one row per validation pass, named after the step it followed
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_curve import CURVE_FOLDER, TrainingCurve

STEP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("position", pa.int32()),
        ("loss", pa.float32()),
        ("total_loss", pa.float32()),
        ("batch_size", pa.int32()),
        ("learning_rate", pa.float32()),
        ("guard_factor", pa.float32()),
        ("guard_action", pa.int32()),
        ("gradient_norm", pa.float32()),
        ("update_ratio", pa.float32()),
        ("largest_input", pa.float32()),
        ("label_mean", pa.float32()),
        ("class_counts", pa.list_(pa.int32())),
        ("worst_loss", pa.list_(pa.float32())),
        ("worst_id", pa.list_(pa.int64())),
    ],
    metadata={"format": "spikeguard.training_curve/2", "loss_is": "batch"},
)
VALIDATION_SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.int32()), ("loss", pa.float32())],
    metadata={"format": "spikeguard.validation_curve/1"},
)
# What a block must have; blocks of older versions lack the other columns.
_REQUIRED = ("step", "epoch", "loss")


def write_block(folder: str | os.PathLike[str], columns: Mapping[str, npt.ArrayLike], schema: pa.Schema) -> None:
    """Writes one block of a curve: complete after the rename, absent before it.

    Args:
      folder: the `curve/` folder; made where missing.
      columns: one array per field of `schema`, of equal length n >= 1: (n,) for values, (n, width) for lists. `step`,
        `epoch` and `loss` are required.
      schema: `STEP_SCHEMA` or `VALIDATION_SCHEMA`.
    """
    kind = "steps" if schema is STEP_SCHEMA else "validation"
    target = pathlib.Path(folder) / f"{kind}-{int(np.asarray(columns['step'])[0]):012d}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    known = [field for field in schema if field.name in (*_REQUIRED, *columns)]
    arrays = [_to_arrow(np.asarray(columns[field.name]), field.type) for field in known]
    _replace(target, pa.Table.from_arrays(arrays, schema=pa.schema(known, schema.metadata)))


def cut_curve(folder: str | os.PathLike[str], last_step: int) -> TrainingCurve:
    """Drops from a `curve/` folder what was recorded after a step, and returns the rest.

    Args:
      folder: the `curve/` folder.
      last_step: last step to keep; >= 0.

    Raises:
      InvalidDataError: a block cannot be read; nothing is dropped then.
    """
    read_recorded(folder)
    for block in sorted(pathlib.Path(folder).glob("*.parquet")):
        table = pq.read_table(block)
        kept = table.filter(pa.array(np.asarray(table.column("step").to_numpy()) <= last_step))
        if not len(kept):
            block.unlink()
        elif len(kept) < len(table):
            _replace(block, kept)
    return read_recorded(folder) if any(pathlib.Path(folder).glob("steps-*.parquet")) else TrainingCurve.from_losses([])


def _replace(target: pathlib.Path, table: pa.Table) -> None:
    unfinished = target.with_suffix(".tmp")
    pq.write_table(table, unfinished)
    os.replace(unfinished, target)


def _to_arrow(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """One column: a list per row where the type says so, else a value per row."""
    if not pa.types.is_list(kind):
        return pa.array(values.astype(kind.to_pandas_dtype()))
    rows, width = values.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(offsets, values.ravel().astype(kind.value_type.to_pandas_dtype()))


def read_recorded(path: str | os.PathLike[str]) -> TrainingCurve:
    """Reads the curve that a `CurveRecorder` wrote.

    Args:
      path: the recorder's log folder (a ModelRun's folder), or the `curve/` folder in it.

    Returns:
      The curve, in step order.

    Raises:
      InvalidDataError: no recorded curve is there, or a block of it cannot be read.

    >>> read_recorded("no/such/folder")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: no/such/folder: holds no recorded training curve. Train with GuardedTrainer, or with a CurveRecorder callback on this folder.
    """
    root = pathlib.Path(path)
    folder = root / CURVE_FOLDER if (root / CURVE_FOLDER).is_dir() else root
    steps = _read_blocks(folder, "steps", STEP_SCHEMA)
    if steps is None:
        raise InvalidDataError(
            str(path),
            "holds no recorded training curve",
            "Train with GuardedTrainer, or with a CurveRecorder callback on this folder.",
        )
    validation = _read_blocks(folder, "validation", VALIDATION_SCHEMA) or VALIDATION_SCHEMA.empty_table()

    columns = {name: _to_numpy(steps.column(name)) for name in steps.column_names}
    return TrainingCurve.from_columns(
        kind="step",
        loss_is="batch",
        notes=(),
        is_cut=False,
        **columns,
        validation_step=validation.column("step").to_numpy(),
        validation_loss=validation.column("loss").to_numpy(),
    )


def _to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Shape (n,) of a column of values, (n, widest) of a column of lists; what a shorter list lacks is NaN or -1."""
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    array = column.combine_chunks()
    lengths = np.diff(array.offsets.to_numpy())
    is_float = pa.types.is_floating(column.type.value_type)
    table = np.full((len(lengths), max(lengths, default=0)), np.nan if is_float else -1)
    table[np.arange(table.shape[1]) < lengths[:, None]] = array.flatten().to_numpy()
    return table


def _read_blocks(folder: pathlib.Path, kind: str, schema: pa.Schema) -> pa.Table | None:
    tables = []
    for block in sorted(folder.glob(f"{kind}-*.parquet")):
        try:
            table = pq.read_table(block)
            known = [field for field in schema if field.name in (*_REQUIRED, *table.column_names)]
            tables.append(table.select([field.name for field in known]).cast(pa.schema(known)))
        except (pa.ArrowInvalid, pa.ArrowKeyError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidDataError(
                str(block), f"is not a readable curve block ({reason})", "Restore or remove the file."
            ) from error
    # Blocks of an older version lack columns, which are then known for a part of the run only: unknown.
    common = [name for name in schema.names if all(name in table.column_names for table in tables)]
    return pa.concat_tables([table.select(common) for table in tables]) if tables else None
