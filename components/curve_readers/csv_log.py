"""Reads CSV logs: Keras CSVLogger, TensorBoard's and other tools' exports, and what people print by hand."""

from __future__ import annotations

import csv
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from spikeguard.components.curve_readers import naming
from spikeguard.components.curve_readers.series import RunLog
from spikeguard.components.curve_readers.table import CHUNK_ROWS, BadCells, Column, TableBuilder, to_number
from spikeguard.components.errors import InvalidDataError

_TENSORBOARD_HEADER = ["wall time", "step", "value"]
_BLOCK_BYTES, _SMALL_BYTES = 8 << 20, 1 << 20


def is_tensorboard_export(path: pathlib.Path) -> bool:
    """Whether the file has the header of TensorBoard's own CSV download."""
    return [naming.canonical(name) for name in _header(path)[0]] == _TENSORBOARD_HEADER


def read_csv(path: pathlib.Path) -> RunLog:
    """Reads a CSV log.

    Args:
      path: a file with a header line; delimited by commas, semicolons or tabs; `#` begins a comment line.

    Returns:
      The columns that a curve may need. An empty cell, or NA, is no value; nan and inf are values.

    Raises:
      InvalidDataError: there is no header, no wanted column, or text in more than 1 % of the rows.
    """
    header, delimiter, skipped = _header(path)
    if [naming.canonical(name) for name in header] == _TENSORBOARD_HEADER:
        header[2] = "loss"
    wanted = {place: name for place, name in enumerate(header) if naming.is_wanted(name)}
    # Of columns of the same name the first counts.
    wanted = {place: name for place, name in wanted.items() if header.index(name) == place}
    if not any(not naming.is_step(name) and naming.companion_of(name) is None for name in wanted.values()) and not any(
        naming.companion_of(name) == "total_loss" for name in wanted.values()
    ):
        shown = ", ".join(header[:6])
        raise InvalidDataError(
            str(path), f"has no loss column (its header is: {shown[:120]})", "Name one loss, train_loss or val_loss."
        )
    # Loading Arrow takes longer than reading a small file without it.
    plain = _read_plain(path, header, wanted, delimiter, skipped) if path.stat().st_size > _SMALL_BYTES else None
    return plain or _read_odd(path, header, wanted, delimiter, skipped)


def _header(path: pathlib.Path) -> tuple[list[str], str, int]:
    """The names in the header, the delimiter, and the number of lines up to and with the header."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, line in enumerate(itertools.islice(file, 10_000), start=1):
            text = line[:100_000]
            if text.strip() and not text.startswith("#"):
                delimiter = max(",;\t", key=text.count)
                return [name.strip() for name in next(csv.reader([text], delimiter=delimiter))], delimiter, number
    raise InvalidDataError(str(path), "holds no header line", "Give a CSV file with a line of column names.")


def _read_plain(
    path: pathlib.Path, header: list[str], wanted: dict[int, str], delimiter: str, skipped: int
) -> RunLog | None:
    """Reads with Arrow, which is fast; None where the file is not a plain table of numbers."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    names = [str(place) for place in range(len(header))]
    table = TableBuilder()
    try:
        reader = pa_csv.open_csv(
            path,
            pa_csv.ReadOptions(skip_rows=skipped, column_names=names, block_size=_BLOCK_BYTES),
            pa_csv.ParseOptions(delimiter=delimiter),
            pa_csv.ConvertOptions(
                include_columns=[str(place) for place in wanted],
                column_types={str(place): pa.float64() for place in wanted},
                null_values=["", "NA", "na", "N/A", "n/a", "NULL", "null", "None", "none", "-"],
            ),
        )
        for batch in reader:
            table.add({name: _to_numpy(column) for name, column in zip(wanted.values(), batch.columns, strict=True)})
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    return table.build()


def _to_numpy(column: Any) -> Column:
    """The values of an Arrow array of doubles and where there are any; its own conversion would import pandas."""
    mask, values = column.buffers()
    rows = slice(column.offset, column.offset + len(column))
    present = np.ones(rows.stop, bool)
    if mask is not None:
        present = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=rows.stop).astype(bool)
    return np.frombuffer(values, np.float64, count=rows.stop)[rows], present[rows]


def _read_odd(path: pathlib.Path, header: list[str], wanted: dict[int, str], delimiter: str, skipped: int) -> RunLog:
    """Reads line by line: comments, rows of other lengths, a header that comes again, text."""
    table, bad = TableBuilder(), BadCells(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for _ in range(skipped):
            next(file)
        lines = _numbers(csv.reader(file, delimiter=delimiter), header, wanted, bad, skipped)
        try:
            while rows := list(itertools.islice(lines, CHUNK_ROWS)):
                table.add_rows(rows)
        except csv.Error as error:
            raise InvalidDataError(str(path), f"is not readable as CSV ({error})", "Give another file.") from error
    return table.build(bad.check(table.rows + bad.count))


def _numbers(
    reader: Iterator[list[str]], header: list[str], wanted: dict[int, str], bad: BadCells, skipped: int
) -> Iterator[dict[str, float | None]]:
    required = {place for place, name in wanted.items() if naming.companion_of(name) in (None, "epoch", "total_loss")}
    for line, cells in enumerate(reader, start=skipped + 1):
        if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
            continue
        if [cell.strip() for cell in cells] == header:  # A training that went on in the same file.
            continue
        row: dict[str, float | None] = {}
        for place, name in wanted.items():
            try:
                row[name] = to_number(cells[place]) if place < len(cells) else None
            except ValueError:
                if place in required:
                    bad.add(line, name, cells[place])
                    break
        else:
            yield row
