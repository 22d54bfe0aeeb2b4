"""Looks a CSV through before a pipeline starts, so that unusable data cost a second and one clear line."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.labels import MAX_CLASSES
from spikeguard.components.guarded_trainer.recipe import Task

# CsvExampleGen deals rows to train and eval by their hash, two to one: with fewer rows a split may come out empty.
MIN_ROWS = 50


@dataclasses.dataclass(frozen=True)
class CsvData:
    """CSV files that a pipeline can train on."""

    folder: str
    """Absolute path of the folder that holds the files."""
    pattern: str
    """Glob of the files in that folder."""
    columns: tuple[str, ...]
    """Column names, in file order, label included."""
    rows: int
    """Data rows in all files."""


def inspect_csv(path: str | os.PathLike[str], label: str, task: Task) -> CsvData:
    """Checks everything about CSV data that would make a pipeline fail or train nonsense.

    Args:
      path: a CSV file, or a folder whose `*.csv` files have the same header.
      label: name of the label column.
      task: `regression` (numeric labels) or `classification` (2 to 1,000 distinct labels).

    Raises:
      InvalidArgumentError: the path or the label name is wrong.
      InvalidDataError: the files are empty, malformed or too short, or the label cannot be learned from.
    """
    location = pathlib.Path(path)
    files = _files(location)
    columns = _columns(files)
    if label not in columns:
        raise InvalidArgumentError("label", label, f"name a column of {files[0]}", f"It has: {', '.join(columns)}.")
    if len(columns) == 1:
        raise InvalidDataError(
            str(files[0]), f"has no column but the label {label!r}", "Add at least one feature column."
        )
    labels = _LabelCheck(label, task)
    for file in files:
        line = 1
        for values in _label_values(file, columns, label):
            labels.add(values, file, line)
            line += len(values)
    labels.check(str(path))
    folder, pattern = (location, "*.csv") if location.is_dir() else (location.parent, location.name)
    return CsvData(str(folder.resolve()), pattern, columns, labels.rows)


def _files(location: pathlib.Path) -> list[pathlib.Path]:
    if not location.exists():
        raise InvalidArgumentError("data", str(location), "be an existing CSV file or folder", "Check the path.")
    if location.is_file():
        return [location]
    files = sorted(location.glob("*.csv"))
    if not files:
        raise InvalidArgumentError("data", str(location), "hold at least one *.csv file", "Check the folder.")
    return files


def _columns(files: list[pathlib.Path]) -> tuple[str, ...]:
    first: tuple[str, ...] = ()
    for file in files:
        if not file.stat().st_size:
            raise InvalidDataError(str(file), "is empty", "Give a CSV file with a header line and data rows.")
        with _open(file) as reader:
            columns = tuple(reader.schema.names)
        # CsvExampleGen cuts the first line at each comma and knows neither quotes nor byte order marks.
        with open(file, encoding="utf-8", errors="replace") as text:
            if text.readline().strip().split(",") != list(columns):
                raise InvalidDataError(
                    str(file),
                    "has quotes, a byte order mark or a name with a comma in its header line",
                    "Write the names plainly: a,b,c.",
                )
        repeated = [name for name, count in Counter(columns).items() if count > 1]
        if repeated:
            raise InvalidDataError(str(file), f"has the column {repeated[0]!r} more than once", "Rename one of them.")
        if first and columns != first:
            raise InvalidDataError(
                str(file), f"has other columns than {files[0]}", "Give all files the same header line."
            )
        first = columns
    return first


def _open(file: pathlib.Path, columns: tuple[str, ...] = ()) -> pacsv.CSVStreamingReader:
    convert = pacsv.ConvertOptions(strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True)
    # As text, so that every column is checked to be UTF-8 and none is refused for its type.
    convert.column_types = dict.fromkeys(columns, pa.string())
    try:
        return pacsv.open_csv(file, convert_options=convert)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise _malformed(file, error) from error


def _label_values(file: pathlib.Path, columns: tuple[str, ...], label: str) -> Iterator[pa.Array]:
    try:
        with _open(file, columns) as reader:
            for batch in reader:
                yield batch.column(columns.index(label))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _malformed(file, error) from error


def _malformed(file: pathlib.Path, error: Exception) -> InvalidDataError:
    reason = str(error).splitlines()[0]
    if "Empty CSV" in reason:
        return InvalidDataError(str(file), "is empty", "Give a CSV file with a header line and data rows.")
    return InvalidDataError(
        str(file), f"cannot be read as CSV ({reason})", "Give comma-separated UTF-8 with one header line."
    )


class _LabelCheck:
    """Collects what must be known of the label, batch by batch."""

    def __init__(self, label: str, task: Task) -> None:
        self._label = label
        self._task = task
        self._distinct: set[str] = set()
        self._missing = 0
        self._first_missing = ""
        self.rows = 0

    def add(self, values: pa.Array, file: pathlib.Path, first_row: int) -> None:
        """Takes the labels of rows `first_row`, ... of a file (1 is the first below the header)."""
        if values.null_count:
            if not self._missing:
                self._first_missing = f"{file}, row {first_row + pc.index(pc.is_null(values), True).as_py()}"
            self._missing += values.null_count
        if self._task == "regression":
            self._check_numeric(values, file, first_row)
        self.rows += len(values)
        # Beyond the most classes there may be, which further values occur makes no difference.
        if len(self._distinct) <= MAX_CLASSES:
            self._distinct.update(pc.unique(values.drop_null()).to_pylist())

    def _check_numeric(self, values: pa.Array, file: pathlib.Path, first_row: int) -> None:
        try:
            finite = pc.is_finite(pc.cast(pc.utf8_trim_whitespace(values), pa.float64())).fill_null(True)
        except pa.ArrowInvalid:
            finite = pa.array([value is None or _is_finite_number(value) for value in values.to_pylist()])
        position = pc.index(finite, False).as_py()
        if position >= 0:
            raise InvalidDataError(
                f"label {self._label!r}",
                f"is {values[position].as_py()!r}, not a finite number, in {file}, row {first_row + position}",
                "Use --task classification for classes, or remove the row.",
            )

    def check(self, where: str) -> None:
        """Raises InvalidDataError for labels that nothing can be learned from."""
        if self.rows < MIN_ROWS:
            raise InvalidDataError(
                where,
                f"has {self.rows} data rows; at least {MIN_ROWS} are needed to train and evaluate",
                "Give more rows.",
            )
        if self._missing:
            raise InvalidDataError(
                f"label {self._label!r}",
                f"is missing in {self._missing} of {self.rows} rows, first in {self._first_missing}",
                "Remove or fill these rows.",
            )
        if len(self._distinct) == 1:
            only = next(iter(self._distinct))
            raise InvalidDataError(
                f"label {self._label!r}",
                f"is {only!r} in all {self.rows} rows: there is nothing to learn",
                "Check the label column.",
            )
        if self._task == "classification" and len(self._distinct) > MAX_CLASSES:
            raise InvalidDataError(
                f"label {self._label!r}",
                f"has more than {MAX_CLASSES} distinct values",
                "Use --task regression for numbers.",
            )


def _is_finite_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
