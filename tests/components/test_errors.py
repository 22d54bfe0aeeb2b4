from __future__ import annotations

import pickle

import pytest

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError, PipelineFailedError, SpikeguardError

ERRORS = [
    (
        InvalidArgumentError("steps", -5, "be at least 1", "Give --steps 1000."),
        "steps must be at least 1; got -5. Give --steps 1000.",
    ),
    (InvalidDataError("a.csv", "is empty", "Give rows."), "a.csv: is empty. Give rows."),
    (
        PipelineFailedError("Transform", "KeyError: 'x'", "/out/run.log"),
        "Transform failed: KeyError: 'x'. The whole log is in /out/run.log.",
    ),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_error_keeps_text_and_attributes_when_pickled(error: SpikeguardError, text: str) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert str(error) == str(copy) == text
    assert vars(copy) == vars(error)
