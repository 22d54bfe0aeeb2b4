from __future__ import annotations

import pathlib
from typing import Any

from tfx.types import standard_artifacts

from spikeguard.components.guarded_trainer.executor import _state_dir


def _inputs(uri: str) -> dict[str, list[Any]]:
    examples = standard_artifacts.Examples()
    examples.uri = uri
    return {"examples": [examples]}


def test_second_attempt_finds_the_state_of_the_first() -> None:
    properties = {"label": "y", "recipe": "{}"}
    first = _state_dir("/root/GuardedTrainer/model_run/7", _inputs("/root/Transform/5"), properties)
    assert pathlib.Path(first).parent == pathlib.Path("/root/GuardedTrainer/.training")
    assert first == _state_dir("/root/GuardedTrainer/model_run/9", _inputs("/root/Transform/5"), properties)
    other_data = _state_dir("/root/GuardedTrainer/model_run/9", _inputs("/root/Transform/6"), properties)
    other_recipe = _state_dir(
        "/root/GuardedTrainer/model_run/9", _inputs("/root/Transform/5"), {**properties, "recipe": '{"steps": 5}'}
    )
    assert len({first, other_data, other_recipe}) == 3
