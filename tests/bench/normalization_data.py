"""Real tables at several sizes, raw or spoiled by a scaler before the split, written as tf.Examples."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

from spikeguard.pipelines import flights

Column = npt.NDArray[Any]
DATA_SETS = ("flights", "diabetes", "wine", "digits", "breast_cancer")
# Ending of a data set's name whose columns are to be one vector: a transform graph of a column costs a tenth of one of ten.
AS_VECTOR = "_vector"
# Part of the rows that is trained on, as CsvExampleGen deals them.
_TRAIN_SHARE = 2 / 3


@dataclasses.dataclass(frozen=True)
class Table:
    """One data set, split."""

    name: str
    columns: Mapping[str, Column]
    """Numbers of shape (n,) or (n, d), NaN for missing; texts as objects."""
    is_train: npt.NDArray[np.bool_]

    @property
    def numbers(self) -> list[str]:
        """Names of the numeric columns."""
        return [name for name, column in self.columns.items() if column.dtype != object]

    def replaced(self, scale: Callable[[Column, npt.NDArray[np.bool_]], Column]) -> Table:
        """With each numeric column, as (n, d), replaced by what `scale` makes of it and of which rows train."""
        changed = {
            name: scale(_wide(self.columns[name]), self.is_train).reshape(self.columns[name].shape).astype(np.float32)
            for name in self.numbers
        }
        return dataclasses.replace(self, columns={**self.columns, **changed})


def _wide(column: Column) -> Column:
    return column.reshape(len(column), -1).astype(np.float64)


def table(name: str, rows: int, seed: int = 0) -> Table:
    """A data set of so many rows: a sample, or for the small ones more rows than there are, drawn again with 1 % noise."""
    columns, random = _source(name), np.random.default_rng(seed)
    size = len(next(iter(columns.values())))
    chosen = random.permutation(size)[:rows] if rows <= size else random.integers(0, size, rows)
    drawn = {key: column[chosen] for key, column in columns.items()}
    if rows > size:
        for key, column in drawn.items():
            if column.dtype == np.float32:
                drawn[key] = (column + 0.01 * np.nanstd(column) * random.normal(size=column.shape)).astype(np.float32)
    return Table(name, drawn, random.random(rows) < _TRAIN_SHARE)


@functools.cache
def _source(name: str) -> dict[str, Column]:
    if name.endswith(AS_VECTOR):
        return {"measures": np.stack(list(_source(name.removesuffix(AS_VECTOR)).values()), axis=1)}
    if name == "digits":
        return {"pixels": load_digits().data.astype(np.float32)}
    if name == "breast_cancer":
        return {"measures": load_breast_cancer().data.astype(np.float32)}
    if name == "flights":
        frame = flights._flights(set(range(1, 13)))
        numbers = ["month", "sched_dep_minute", "sched_arr_minute", "distance", *flights._WEATHER, "plane_year"]
        columns = {key: frame[key].to_numpy(dtype=np.float32, na_value=np.nan) for key in numbers}
        return {**columns, "carrier": frame["carrier"].to_numpy(dtype=object)}
    frame = load_diabetes(as_frame=True, scaled=False).frame if name == "diabetes" else load_wine(as_frame=True).frame
    return {key: frame[key].to_numpy(dtype=np.float32) for key in frame if key != "target"}


def schema(data: Table) -> schema_pb2.Schema:
    """As curated schemas are: fixed shapes where no value is missing, none elsewhere."""
    result = schema_pb2.Schema()
    for name, column in data.columns.items():
        feature = result.feature.add(name=name, type=schema_pb2.BYTES if column.dtype == object else schema_pb2.FLOAT)
        if column.dtype == object or not np.isnan(column).any():
            feature.presence.min_fraction = 1.0
            for size in column.shape[1:] or (1,):
                feature.shape.dim.add(size=size)
    return result


def write(data: Table, folder: pathlib.Path) -> dict[str, list[str]]:
    """Writes the splits; their files by split."""
    encoder, files = RecordBatchToExamplesEncoder(), {}
    for split, is_in in (("train", data.is_train), ("eval", ~data.is_train)):
        path = folder / f"Split-{split}" / "rows-00000-of-00001.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        batch = pa.RecordBatch.from_pydict({name: _lists(column[is_in]) for name, column in data.columns.items()})
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=1)) as writer:
            for serialized in encoder.encode(batch):
                writer.write(serialized)
        files[split] = [str(path)]
    return files


def _lists(column: Column) -> pa.Array:
    if column.dtype == object:
        return pa.array([[text.encode()] for text in column], pa.list_(pa.binary()))
    wide = column.reshape(len(column), -1)
    is_known = ~np.isnan(wide)
    offsets = np.concatenate([[0], np.cumsum(is_known.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(wide[is_known].astype(np.float32)))
