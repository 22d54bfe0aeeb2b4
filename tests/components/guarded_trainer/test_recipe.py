from __future__ import annotations

from typing import Any

import pytest

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.recipe import Recipe, Task, guarded, naive


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("make", [guarded, naive])
def test_recipe_survives_json_and_fits_its_task(make: Any, task: Task) -> None:
    recipe = make(task)
    assert Recipe.from_json(recipe.to_json()) == recipe
    recipe.check_task(task)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("loss", "hubert", "be one of huber, squared_error, crossentropy"),
        ("schedule", "step", "be one of cosine, exponential, constant"),
        ("steps", 0, "be an integer of at least 1"),
        ("batch_size", 2.5, "be an integer of at least 1, or None"),
        ("learning_rate", float("nan"), "be above 0 and finite"),
        ("huber_delta", -1.0, "be above 0 and finite, or None"),
        ("warmup_steps", 1000, "be an integer from 0 to 999, below steps, or None"),
        ("label_smoothing", 1.0, "be at least 0 and below 1"),
        ("label_smoothing", 0.1, "be 0 for the loss 'huber'"),
        ("class_weights", (1.0, -1.0), "be from 0 to 1e\\+30 and not all 0"),
        ("dropout", -0.1, "be at least 0 and below 1"),
        ("l2", float("inf"), "be at least 0 and finite"),
        ("block_steps", True, "be an integer of at least 1"),
        ("hidden_units", (8, 0), "hold integers of at least 1"),
        ("seed", -1, "be an integer of at least 0"),
    ],
)
def test_error_names_the_field_when_it_is_out_of_range(field: str, value: Any, rule: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} must {rule}"):
        Recipe(**{field: value})


def test_error_names_the_unknown_field() -> None:
    with pytest.raises(InvalidArgumentError, match=r"recipe must hold known fields only; got \['momentum'\]"):
        Recipe.from_json('{"momentum": 0.9}')


def test_error_names_the_loss_when_it_does_not_fit_the_task() -> None:
    with pytest.raises(
        InvalidArgumentError,
        match="loss must be one of crossentropy, generalized_crossentropy for classification; got 'huber'",
    ):
        Recipe().check_task("classification")
    with pytest.raises(InvalidArgumentError, match="task must be one of regression, classification"):
        Recipe().check_task("ranking")  # type: ignore[arg-type]


def test_class_weights_are_refused_for_a_regression() -> None:
    with pytest.raises(InvalidArgumentError, match="class_weights must be None for regression"):
        Recipe(class_weights=(1.0, 2.0)).check_task("regression")
