"""Advice applied to a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from spikeguard.components.guarded_trainer.recipe import Task, naive
from spikeguard.components.spike_evaluator.advice import Advice
from spikeguard.pipelines.advised import advised
from spikeguard.pipelines.config import PipelineConfig
from spikeguard.pipelines.csv_data import CsvData


def _config(task: Task) -> PipelineConfig:
    return PipelineConfig("out", CsvData("in", "*.csv", ("a", "b"), 10), "b", task, naive(task), normalize=False)


def _change(recipe: dict[str, Any], pipeline: dict[str, Any]) -> Advice:
    return Advice("outliers", "Do it.", recipe, pipeline, (), 1, 1, (7,))


def test_recipe_and_pipeline_are_changed() -> None:
    changes = [
        _change({"loss": "huber", "is_guarded": True}, {"normalize": True}),
        _change({"learning_rate": 0.01}, {}),
    ]
    config, left = advised(_config("regression"), changes)
    assert (config.recipe.loss, config.recipe.is_guarded, config.recipe.learning_rate) == ("huber", True, 0.01)
    assert config.normalize
    assert left == ()


def test_loss_of_the_other_task_is_passed_over() -> None:
    config, left = advised(_config("classification"), [_change({"loss": "huber"}, {})])
    assert (config.recipe.loss, left) == ("crossentropy", ())


@pytest.mark.parametrize(
    ("recipe", "pipeline", "text"),
    [
        ({"unheard_of": 1}, {}, "unheard_of=1 is no setting of this recipe"),
        ({}, {"unheard_of": 1}, "unheard_of=1 is no setting of this pipeline"),
        ({"learning_rate": -1.0}, {}, "learning_rate must be above 0 and finite; got -1.0."),
    ],
)
def test_what_does_not_fit_is_said(recipe: dict[str, Any], pipeline: dict[str, Any], text: str) -> None:
    config, left = advised(_config("regression"), [_change(recipe, pipeline)])
    assert left == (text,)
    assert config == _config("regression")
