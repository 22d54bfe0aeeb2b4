"""The command line: what it refuses, before anything heavy is loaded or anything is written."""

from __future__ import annotations

import os
import pathlib

import pytest

import local_runner


@pytest.fixture
def csv(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "1,2\n3,4\n" * 30)
    return str(path)


def _refused(args: list[str], capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> str:
    """The one line of a refusal; checks that it is one, that the status is 2 and that nothing was written."""
    output = tmp_path / "out"
    assert local_runner.main([*args, "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not output.exists()
    return captured.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--task", "weather"], "task must be one of delay, cancelled for the flights; got 'weather'"),
        (["--months", "13"], "months must be months from 1 to 12"),
        (["--label", "y"], "label must come with --data; got 'y'"),
        (["--schema", "s.pbtxt"], "schema must come with --data"),
        (["--recipe", "spiky"], "'spiky' is not one of 'guarded', 'naive'"),
        (["--balance", "classes"], "'classes' is not one of 'none', 'weights', 'batches'"),
        (["--balance", "weights"], "balance must be none for a regression, which has no classes; got 'weights'"),
        (["--steps", "0"], "0 is not in the range x>=1"),
        (["--steps", "many"], "'many' is not a valid integer"),
        (["--speed", "3"], "No such option"),
        (["--beam-arg", "direct_num_workers=2"], "beam-arg must start with --"),
        (["--data", "gone.csv", "--label", "y", "--task", "regression"], "data must be an existing CSV file or folder"),
    ],
)
def test_one_line_names_the_flag(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    assert message in _refused(args, capsys, tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--task", "regression"], "label must be given with --data"),
        (["--label", "y"], "task must be one of regression, classification with --data"),
        (["--label", "y", "--task", "delay"], "task must be one of regression, classification with --data"),
        (["--label", "y", "--task", "regression", "--months", "1"], "months must come without --data"),
        (["--label", "price", "--task", "regression"], "label must name a column of"),
        (["--label", "y", "--task", "regression", "--schema", "gone.pbtxt"], "schema must be a readable file"),
    ],
)
def test_one_line_names_the_flag_beside_data(
    args: list[str], message: str, csv: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    assert message in _refused(["--data", csv, *args], capsys, tmp_path)


def test_schema_that_is_none_is_refused(csv: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    args = ["--data", csv, "--label", "y", "--task", "regression", "--schema", csv]
    assert "is not a TFDV schema text proto" in _refused(args, capsys, tmp_path)


def test_schema_without_the_label_is_refused(
    csv: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    schema = tmp_path / "schema.pbtxt"
    schema.write_text('feature { name: "a" type: INT }')
    args = ["--data", csv, "--label", "y", "--task", "regression", "--schema", str(schema)]
    assert "must declare the label 'y'" in _refused(args, capsys, tmp_path)


def test_output_below_a_file_is_refused(csv: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--data", csv, "--label", "y", "--task", "regression", "--output", os.path.join(csv, "out")]
    assert local_runner.main(args) == 2
    assert "output must be a folder that can be written (Not a directory)" in capsys.readouterr().err


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert local_runner.main(["--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "data",
        "label",
        "task",
        "schema",
        "months",
        "recipe",
        "balance",
        "output",
        "steps",
        "beam-arg",
        "no-cache",
    ):
        assert f"--{flag}" in text


def test_summary_has_room_for_its_longest_label() -> None:
    lines = local_runner._aligned([("data", "as the schema says"), ("normalization", "folder")])
    assert lines == ["         data  as the schema says", "normalization  folder"]
