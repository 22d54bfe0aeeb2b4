from __future__ import annotations

import pathlib

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.pipelines import flights
from spikeguard.schemas import schema_path


def test_january_is_whole_and_joined(tmp_path: pathlib.Path) -> None:
    path = flights.write_csv("delay", [1], tmp_path)
    frame = pd.read_csv(path)
    assert len(frame) == 26_398
    assert frame["arr_delay"].agg(["min", "max"]).tolist() == [-70.0, 1272.0]
    assert frame["temp"].notna().mean() > 0.99
    # The very first flight of the year: UA 1545, EWR to IAH, 05:15, a plane of 1999.
    first = frame.iloc[0]
    assert (first.sched_dep_minute, first.carrier, first.dest, first.plane_year) == (315, "UA", "IAH", 1999)
    assert first.day_of_week == 2


def test_cancelled_flights_are_kept_for_their_task(tmp_path: pathlib.Path) -> None:
    frame = pd.read_csv(flights.write_csv("cancelled", [1], tmp_path))
    assert (len(frame), frame["cancelled"].sum()) == (27_004, 521)


def test_file_is_not_written_twice(tmp_path: pathlib.Path) -> None:
    first = flights.write_csv("delay", [2], tmp_path)
    stamp = first.stat().st_mtime_ns
    assert flights.write_csv("delay", [2], tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in first.parent.iterdir()] == ["flights.csv"]


@pytest.mark.parametrize("task", ["delay", "cancelled"])
def test_schema_knows_every_column_and_finds_what_is_odd(tmp_path: pathlib.Path, task: str) -> None:
    path = flights.write_csv(task, [1], tmp_path)
    schema = tfdv.load_schema_text(schema_path(f"flights_{task}"))
    columns = pd.read_csv(path, nrows=1).columns
    assert {feature.name for feature in schema.feature} == set(columns)


@pytest.mark.parametrize(("text", "months"), [("1", (1,)), ("1-12", tuple(range(1, 13))), ("7,2-3,3", (2, 3, 7))])
def test_months_are_parsed(text: str, months: tuple[int, ...]) -> None:
    assert flights.parse_months(text) == months


@pytest.mark.parametrize("text", ["", "0", "13", "3-1", "jan", "1-", "1-13", "-1"])
def test_error_names_the_months_when_they_are_none(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="months must be months from 1 to 12"):
        flights.parse_months(text)
