from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from spikeguard.components.errors import InvalidArgumentError
from spikeguard.components.guarded_trainer.schedule import GuardedSchedule, warmup_steps_for

SETTINGS: list[dict[str, Any]] = [
    {"decay": "cosine"},
    {"decay": "cosine", "warmup_steps": 7, "floor_share": 0.1},
    {"decay": "exponential", "warmup_steps": 50},
    {"decay": "exponential", "floor_share": 0.5},
    {"decay": "constant", "warmup_steps": 20},
    {"decay": "constant"},
]


def _plain(step: int, steps: int, decay: str, warmup_steps: int = 0, floor_share: float | None = None) -> float:
    """Rate / peak, from the definition."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    t = min(1.0, (step - warmup_steps) / (steps - warmup_steps))
    if decay == "cosine":
        floor = floor_share or 0.0
        return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2
    return 1.0 if decay == "constant" else float((floor_share or 0.01) ** t)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("steps", [101, 3_000_000])
def test_rates_are_those_of_the_definition(settings: dict[str, Any], steps: int) -> None:
    schedule = GuardedSchedule(0.3, steps, **settings)
    rate = tf.function(lambda step: schedule(step), input_signature=[tf.TensorSpec([], tf.int64)])
    at = [*range(60), steps // 2, steps - 2, steps - 1, steps, steps + 1, 10 * steps]
    rates = np.array([rate(tf.constant(step, tf.int64)).numpy() for step in at])
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, [0.3 * _plain(step, steps, **settings) for step in at], rtol=1e-6, atol=3e-9)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_no_step_of_the_run_is_lost_to_a_rate_of_zero(settings: dict[str, Any]) -> None:
    schedule = GuardedSchedule(1.0, 100, **settings)
    rates = np.array([float(schedule(step)) for step in range(102)])
    assert rates[:100].min() > 0
    assert rates.max() == rates[settings.get("warmup_steps", 0)] == 1.0
    assert rates[100] == rates[101] == pytest.approx(schedule.floor_share)


def test_schedule_survives_serialization() -> None:
    optimizer = keras.optimizers.Adam(GuardedSchedule(0.3, 100, 5, "exponential", 0.2))
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy._learning_rate.get_config() == optimizer._learning_rate.get_config()
    assert float(copy._learning_rate(60)) == float(optimizer._learning_rate(60))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_optimizer_uses_the_rate_of_its_step(jit_compile: bool) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    schedule = GuardedSchedule(0.5, 6, warmup_steps=2)
    # The gradient of mean absolute error is -1 throughout: the weight is the sum of the rates.
    model.compile(keras.optimizers.SGD(schedule), "mae", jit_compile=jit_compile)
    model.fit(np.ones((6, 1)), np.full((6, 1), 100.0), batch_size=1, verbose=0)
    assert model.get_weights()[0].item() == pytest.approx(sum(float(schedule(step)) for step in range(6)), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak": 0.0}, "peak must be above 0 and finite; got 0.0"),
        ({"peak": np.inf}, "peak must be above 0 and finite; got inf"),
        ({"steps": 0}, "steps must be an integer of at least 1; got 0"),
        ({"steps": 10.0}, "steps must be an integer of at least 1; got 10.0"),
        ({"warmup_steps": -1}, "warmup_steps must be an integer from 0 to 9, below steps; got -1"),
        ({"warmup_steps": 10}, "warmup_steps must be an integer from 0 to 9, below steps; got 10"),
        ({"decay": "linear"}, "decay must be one of cosine, exponential, constant; got 'linear'"),
        ({"floor_share": 1.5}, "floor_share must lie between 0 and 1; got 1.5"),
        ({"floor_share": math.nan}, "floor_share must lie between 0 and 1; got nan"),
        ({"decay": "exponential", "floor_share": 0.0}, "floor_share must be above 0 for exponential decay; got 0.0"),
        ({"decay": "constant", "floor_share": 0.5}, "floor_share must be 1 or None for a constant rate; got 0.5"),
    ],
)
def test_error_names_the_setting_when_it_is_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        GuardedSchedule(**{"peak": 1.0, "steps": 10, **settings})


def test_warmup_is_the_untuned_one_and_at_most_a_twentieth() -> None:
    assert warmup_steps_for(10**6) == 2000
    assert warmup_steps_for(10**6, beta_2=0.99) == 200
    assert warmup_steps_for(40_000) == 2000
    assert warmup_steps_for(39_000) == 1950
    assert warmup_steps_for(19) == 0
    assert warmup_steps_for(1) == 0


def test_error_names_the_argument_when_the_warmup_cannot_be_told() -> None:
    with pytest.raises(InvalidArgumentError, match="steps must be an integer of at least 1; got 0"):
        warmup_steps_for(0)
    with pytest.raises(InvalidArgumentError, match=r"beta_2 must lie in \[0, 1\); got 1.0"):
        warmup_steps_for(10, beta_2=1.0)
