"""The training curve as data: what the recorder writes, what the detector reads.

On disk a curve is a folder `curve/` of Parquet blocks, each complete in itself and put in place by one rename, so a
killed run loses at most the block that it had not yet written:

    curve/steps-000000000001.parquet        one row per optimizer step, named after its first step
    curve/validation-000000000069.parquet   one row per validation pass, named after the step it followed
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CURVE_FOLDER = "curve"

STEP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("loss", pa.float32()),
        ("batch_size", pa.int32()),
        ("learning_rate", pa.float32()),
        ("gradient_norm", pa.float32()),
    ],
    metadata={"format": "spikeguard.training_curve/1", "loss_is": "batch"},
)
VALIDATION_SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.int32()), ("loss", pa.float32())],
    metadata={"format": "spikeguard.validation_curve/1"},
)


@dataclasses.dataclass(frozen=True)
class TrainingCurve:
    """The true loss of each optimizer step, and what was known about that step.

    All step arrays have the same length n, in training order. A column that was not recorded is NaN throughout.
    """

    step: Ints
    """Number of the optimizer step, from 1. Shape (n,)."""
    loss: Floats
    """Loss of the step's own batch, before the update. Shape (n,); NaN and infinity are kept as they came."""
    epoch: Ints
    """Epoch of the step, from 0. Shape (n,)."""
    batch_size: Ints
    """Rows in the step's batch. Shape (n,)."""
    learning_rate: Floats
    """Learning rate that the update used. Shape (n,)."""
    gradient_norm: Floats
    """Euclidean norm of all gradients together. Shape (n,)."""
    validation_step: Ints
    """Step after which each validation pass ran. Shape (m,), m may be 0."""
    validation_loss: Floats
    """Mean loss over the validation rows. Shape (m,)."""

    def __len__(self) -> int:
        return len(self.step)

    @classmethod
    def from_losses(cls, loss: npt.ArrayLike) -> TrainingCurve:
        """A curve that knows nothing but its losses, of steps 1, 2, 3, ...

        Args:
          loss: shape (n,), any finite or non-finite floats.

        >>> TrainingCurve.from_losses([2.0, 1.0]).step.tolist()
        [1, 2]
        """
        values = np.asarray(loss, dtype=np.float64)
        if values.ndim != 1:
            raise InvalidArgumentError("loss", f"shape {values.shape}", "have one dimension")
        n = len(values)
        unknown = np.full(n, np.nan)
        return cls(
            step=np.arange(1, n + 1, dtype=np.int64),
            loss=values,
            epoch=np.zeros(n, dtype=np.int64),
            batch_size=np.zeros(n, dtype=np.int64),
            learning_rate=unknown,
            gradient_norm=unknown,
            validation_step=np.empty(0, dtype=np.int64),
            validation_loss=np.empty(0, dtype=np.float64),
        )


def write_block(folder: str | os.PathLike[str], columns: Mapping[str, npt.ArrayLike], schema: pa.Schema) -> None:
    """Writes one block of a curve: complete after the rename, absent before it.

    Args:
      folder: the `curve/` folder; made where missing.
      columns: one array per field of `schema`, of equal length n >= 1.
      schema: `STEP_SCHEMA` or `VALIDATION_SCHEMA`.
    """
    kind = "steps" if schema is STEP_SCHEMA else "validation"
    target = pathlib.Path(folder) / f"{kind}-{int(np.asarray(columns['step'])[0]):012d}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = [pa.array(np.asarray(columns[field.name]).astype(field.type.to_pandas_dtype())) for field in schema]
    unfinished = target.with_suffix(".tmp")
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), unfinished)
    os.replace(unfinished, target)


def read_curve(path: str | os.PathLike[str]) -> TrainingCurve:
    """Reads the curve that a `CurveRecorder` wrote.

    Args:
      path: the recorder's log folder (a ModelRun's folder), or the `curve/` folder in it.

    Returns:
      The curve, in step order.

    Raises:
      InvalidDataError: no recorded curve is there, or a block of it cannot be read.

    >>> read_curve("no/such/folder")
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

    def floats(table: pa.Table, name: str) -> Floats:
        return np.asarray(table.column(name).to_numpy(), dtype=np.float64)

    def ints(table: pa.Table, name: str) -> Ints:
        return np.asarray(table.column(name).to_numpy(), dtype=np.int64)

    return TrainingCurve(
        step=ints(steps, "step"),
        loss=floats(steps, "loss"),
        epoch=ints(steps, "epoch"),
        batch_size=ints(steps, "batch_size"),
        learning_rate=floats(steps, "learning_rate"),
        gradient_norm=floats(steps, "gradient_norm"),
        validation_step=ints(validation, "step"),
        validation_loss=floats(validation, "loss"),
    )


def _read_blocks(folder: pathlib.Path, kind: str, schema: pa.Schema) -> pa.Table | None:
    tables = []
    for block in sorted(folder.glob(f"{kind}-*.parquet")):
        try:
            tables.append(pq.read_table(block).cast(schema))
        except (pa.ArrowInvalid, pa.ArrowKeyError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidDataError(
                str(block), f"is not a readable curve block ({reason})", "Restore or remove the file."
            ) from error
    return pa.concat_tables(tables) if tables else None
