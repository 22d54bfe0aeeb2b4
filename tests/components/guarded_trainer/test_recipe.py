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
        ("schedule", "step", "be one of warmup_cosine, constant"),
        ("steps", 0, "be an integer of at least 1"),
        ("batch_size", 2.5, "be an integer of at least 1, or None"),
        ("learning_rate", float("nan"), "be above 0"),
        ("huber_delta", -1.0, "be above 0, or None"),
        ("warmup_share", 0.6, "lie between 0 and 0.5"),
        ("hidden_units", (8, 0), "hold integers of at least 1"),
        ("seed", -1, "be at least 0"),
    ],
)
def test_error_names_the_field_when_it_is_out_of_range(field: str, value: Any, rule: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} must {rule}"):
        Recipe(**{field: value})


def test_error_names_the_unknown_field() -> None:
    with pytest.raises(InvalidArgumentError, match=r"recipe must hold known fields only; got \['momentum'\]"):
        Recipe.from_json('{"momentum": 0.9}')


def test_error_names_the_loss_when_it_does_not_fit_the_task() -> None:
    with pytest.raises(InvalidArgumentError, match="loss must be one of crossentropy for classification; got 'huber'"):
        Recipe().check_task("classification")
    with pytest.raises(InvalidArgumentError, match="task must be one of regression, classification"):
        Recipe().check_task("ranking")  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "batch_size"), [(10**6, 256), (2560, 256), (2559, 128), (380, 32), (50, 4), (3, 1)])
def test_small_splits_get_small_batches(rows: int, batch_size: int) -> None:
    assert Recipe().resolved(rows, 1.0).batch_size == batch_size


def test_resolving_keeps_what_was_chosen() -> None:
    chosen = Recipe(batch_size=7, huber_delta=3.0)
    assert chosen.resolved(10**6, 1.0) == chosen
    assert Recipe(loss="squared_error").resolved(100, 1.0).huber_delta is None
