"""Reads JSON logs: one object per line, Hugging Face trainer_state.json, a Keras History, a list of objects."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from spikeguard.components.curve_readers import naming
from spikeguard.components.curve_readers.series import RunLog
from spikeguard.components.curve_readers.table import CHUNK_ROWS, BadCells, TableBuilder, to_number
from spikeguard.components.errors import InvalidDataError

TRAINER_STATE = "trainer_state.json"


def read_json_lines(path: pathlib.Path) -> RunLog:
    """Reads a log with one JSON object per line.

    Args:
      path: the file. Objects in an object count as `outer/inner`.

    Returns:
      The columns that a curve may need; null and absent mean that there is no value.

    Raises:
      InvalidDataError: more than 1 % of the lines are not objects, or hold text where a number belongs.
    """
    table, bad = TableBuilder(), BadCells(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        rows = _rows(_objects(file, bad), bad)
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            table.add_rows(chunk)
    return table.build(bad.check(table.rows + bad.count))


def read_json(path: pathlib.Path) -> RunLog:
    """Reads a file that is one JSON value: a trainer state, a history of columns, or a list of objects.

    Args:
      path: the file.

    Raises:
      InvalidDataError: it is not JSON, or of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(
            str(path), f"is not readable as JSON ({error})", "Give a whole file, or one object per line."
        ) from error
    table, bad = TableBuilder(), BadCells(path)
    notes: tuple[str, ...] = ()
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        content = content["log_history"]
        notes = (
            "Hugging Face logs the mean loss of the steps since the entry before: a spike of one step is smaller.",
        )
    elif isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        columns = content if naming.epoch_column(content) else {"epoch": itertools.count(), **content}
        lengths = max(len(column) for column in content.values())
        rows = itertools.islice(itertools.zip_longest(*columns.values()), lengths)
        content = [dict(zip(columns, row, strict=True)) for row in rows]
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise InvalidDataError(str(path), "is not a log: neither objects nor columns", "Give another file.")
    table.add_rows(list(_rows(((line, item) for line, item in enumerate(content, start=1)), bad)))
    return table.build(bad.check(table.rows + bad.count) + notes)


def is_json_lines(path: pathlib.Path) -> bool:
    """Whether the first line is a whole object of numbers, one row of a log."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(1 << 20)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and not any(isinstance(value, list) for value in first.values())


def global_step(path: pathlib.Path) -> float:
    """The step at which a trainer state was written; -1 where the file does not say it."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8", errors="replace"))["global_step"])
    except (ValueError, KeyError, TypeError):
        return -1.0


def _objects(lines: Iterator[str], bad: BadCells) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            bad.add(number, "its content", line.strip())


def _rows(objects: Iterator[tuple[int, Any]], bad: BadCells) -> Iterator[dict[str, float | None]]:
    for line, item in objects:
        if not isinstance(item, dict):
            bad.add(line, "its content", item)
            continue
        row: dict[str, float | None] = {}
        for name, cell in _flat(item).items():
            if not naming.is_wanted(name):
                continue
            try:
                row[name] = to_number(cell)
            except ValueError:
                if naming.companion_of(name) in (None, "epoch", "total_loss"):
                    bad.add(line, name, cell)
                    break
        else:
            if row:
                yield row


def _flat(item: Mapping[str, Any]) -> Mapping[str, Any]:
    if dict not in map(type, item.values()):
        return item
    flat: dict[str, Any] = {}
    for name, value in item.items():
        flat |= {f"{name}/{inner}": cell for inner, cell in value.items()} if isinstance(value, dict) else {name: value}
    return flat
