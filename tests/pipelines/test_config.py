from __future__ import annotations

import dataclasses
import pathlib

import pytest

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.guarded_trainer.recipe import guarded
from spikeguard.pipelines.config import PipelineConfig, categorical_columns, read_schema, snapshot_schema
from spikeguard.pipelines.csv_data import CsvData
from spikeguard.schemas import schema_path


def _config(columns: tuple[str, ...]) -> PipelineConfig:
    data = CsvData("/data", "*.csv", columns, 100)
    return PipelineConfig("out", data, "y", "regression", guarded("regression"))


def test_name_is_of_the_problem_and_not_of_the_run() -> None:
    config = _config(("a", "y"))
    other_recipe = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, steps=5), normalize=False)
    assert config.pipeline_name == other_recipe.pipeline_name == _config(("y", "a")).pipeline_name
    assert config.pipeline_name != _config(("a", "b", "y")).pipeline_name
    assert config.pipeline_name != dataclasses.replace(config, task="classification").pipeline_name


def test_categories_are_those_that_the_schema_declares() -> None:
    assert categorical_columns(read_schema(schema_path("flights_delay"))) == ["day_of_week", "month"]


def test_copy_of_a_schema_changes_its_name_with_the_content(tmp_path: pathlib.Path) -> None:
    schema = tmp_path / "schema.pbtxt"
    schema.write_text('feature { name: "a" }')
    first = snapshot_schema(str(schema), str(tmp_path / "out"))
    assert snapshot_schema(str(schema), str(tmp_path / "out")) == first
    schema.write_text('feature { name: "b" }')
    second = snapshot_schema(str(schema), str(tmp_path / "out"))
    assert second != first
    assert [read_schema(path).feature[0].name for path in (first, second)] == ["a", "b"]


def test_error_names_the_schema_that_cannot_be_used(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidArgumentError, match="schema must be a readable file"):
        read_schema(str(tmp_path / "gone.pbtxt"))
    (tmp_path / "bad.pbtxt").write_text("not a proto")
    with pytest.raises(InvalidDataError, match=r"bad.pbtxt: is not a TFDV schema text proto"):
        read_schema(str(tmp_path / "bad.pbtxt"))
