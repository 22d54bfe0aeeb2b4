from __future__ import annotations

import pathlib

import pytest

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.pipelines.csv_data import inspect_csv

HEADER = "a,b,y\n"


def _rows(labels: list[object]) -> str:
    return "".join(f"{index},x,{label}\n" for index, label in enumerate(labels))


def _file(folder: pathlib.Path, text: str, name: str = "data.csv") -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


def test_good_file_is_described(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, HEADER + _rows(list(range(60))))
    data = inspect_csv(path, "y", "regression")
    assert (data.folder, data.pattern, data.columns, data.rows) == (str(tmp_path), "data.csv", ("a", "b", "y"), 60)


def test_files_of_a_folder_count_together(tmp_path: pathlib.Path) -> None:
    _file(tmp_path, HEADER + _rows([1] * 30), "one.csv")
    _file(tmp_path, HEADER + _rows(["2.5"] * 30), "two.csv")
    _file(tmp_path, "not data", "notes.txt")
    data = inspect_csv(tmp_path, "y", "regression")
    assert (data.pattern, data.rows) == ("*.csv", 60)


@pytest.mark.parametrize(
    ("text", "label", "task", "message"),
    [
        ("", "y", "regression", "data.csv: is empty. Give a CSV file with a header line and data rows."),
        (HEADER, "y", "regression", "has 0 data rows; at least 50 are needed"),
        (HEADER + _rows([1, 2]), "y", "regression", "has 2 data rows; at least 50 are needed"),
        (HEADER + _rows([1, 2] * 30), "z", "regression", "label must name a column of .*; got 'z'. It has: a, b, y."),
        ("y\n" + "1\n2\n" * 30, "y", "regression", "has no column but the label 'y'"),
        ("a,a,y\n" + _rows([1, 2] * 30), "y", "regression", "has the column 'a' more than once"),
        (
            HEADER + _rows([1, 2] * 30 + [""]),
            "y",
            "regression",
            "label 'y': is missing in 1 of 61 rows, first in .*, row 61",
        ),
        (HEADER + _rows([1] * 60), "y", "regression", "label 'y': is '1' in all 60 rows: there is nothing to learn"),
        (
            HEADER + _rows([1, 2] * 30 + ["late"]),
            "y",
            "regression",
            "label 'y': is 'late', not a finite number, in .*, row 61",
        ),
        (
            HEADER + _rows([1, 2] * 30 + ["inf"]),
            "y",
            "regression",
            "label 'y': is 'inf', not a finite number, in .*, row 61",
        ),
        (HEADER + _rows(["yes"] * 60), "y", "classification", "label 'y': is 'yes' in all 60 rows"),
        (HEADER + _rows(list(range(1001))), "y", "classification", "label 'y': has more than 1000 distinct values"),
        (
            HEADER + _rows([1, 2] * 30) + "1,2,3,4\n",
            "y",
            "regression",
            "cannot be read as CSV .*Expected 3 columns, got 4",
        ),
    ],
)
def test_error_names_what_is_wrong(tmp_path: pathlib.Path, text: str, label: str, task: str, message: str) -> None:
    with pytest.raises((InvalidArgumentError, InvalidDataError), match=message):
        inspect_csv(_file(tmp_path, text), label, task)  # type: ignore[arg-type]


def test_error_names_the_path_when_nothing_is_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"data must be an existing CSV file or folder; got '.*gone.csv'"):
        inspect_csv(tmp_path / "gone.csv", "y", "regression")
    with pytest.raises(InvalidArgumentError, match=r"data must hold at least one \*.csv file"):
        inspect_csv(tmp_path, "y", "regression")


def test_error_names_the_file_when_headers_differ(tmp_path: pathlib.Path) -> None:
    _file(tmp_path, HEADER + _rows([1, 2] * 30), "one.csv")
    _file(tmp_path, "a,c,y\n" + _rows([1, 2] * 30), "two.csv")
    with pytest.raises(InvalidDataError, match=r"two.csv: has other columns than .*one.csv"):
        inspect_csv(tmp_path, "y", "regression")


def test_error_names_the_file_when_it_is_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,y\n" + b"\xff\xfe\x00,1\n" * 60)
    with pytest.raises(InvalidDataError, match=r"data.csv: cannot be read as CSV"):
        inspect_csv(path, "y", "regression")


@pytest.mark.parametrize("header", ['"a","b","y"', '"a, b",y', "\ufeffa,y"], ids=["quotes", "comma", "mark"])
def test_error_names_the_header_when_tfx_would_misread_it(tmp_path: pathlib.Path, header: str) -> None:
    columns = header.count(",") + (", " not in header)
    path = _file(tmp_path, header + "\n" + ",".join(["1"] * columns) + "\n")
    with pytest.raises(InvalidDataError, match="has quotes, a byte order mark or a name with a comma in its header"):
        inspect_csv(path, "y", "regression")


def test_numbers_with_spaces_are_numbers(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, HEADER + _rows([" 1 ", " 2e3"] * 30))
    assert inspect_csv(path, "y", "regression").rows == 60
