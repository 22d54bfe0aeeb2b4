"""The picture of a replay: what it shows, and what it makes of values that it was not promised."""

from __future__ import annotations

import re
from typing import Any

import pytest

from spikeguard.components.stability_report.replay_picture import replay_lines, replay_picture

CHANGE = {"change": "rows_removed", "text": "Removing 2 rows", "losses": [1.0, 1.0, 1.2]}
SPIKE: dict[str, Any] = {
    "replay": {
        "is_reproduced": True,
        "reason": "",
        "expected": 1.1,
        "first_step": 412,
        "steps": [410, 411, 412],
        "recorded": [1.0, 1.1, 9.1],
        "losses": [1.0, 1.1, 9.0],
    },
    "causes": [{"cause": "unknown", "replay": None}, {"cause": "outliers", "replay": CHANGE}],
}


def _with(name: str, value: Any) -> dict[str, Any]:
    return {**SPIKE, "replay": {**SPIKE["replay"], name: value}}


def test_three_lines_and_their_peaks_are_drawn() -> None:
    lines = replay_lines(SPIKE)
    assert lines is not None
    assert lines.change == "Removing 2 rows"
    picture = replay_picture(lines)
    assert re.findall(r'<path class="(\w+)" d="M', picture)[-4:] == ["expected", "recorded", "unchanged", "changed"]
    told = "Highest loss of steps 410 to 412: recorded 9.1, replayed 9, with the change 1.2"
    assert f'aria-label="{told}"' in picture
    assert f"<title>{told}</title>" in picture
    # The loss without the change ends at the top of the picture, the loss with it near the bottom.
    ends = {name: float(path.split()[-1]) for name, path in re.findall(r'class="(\w+)" d="([^"]+)"', picture)[-3:]}
    assert ends["recorded"] < ends["unchanged"] < ends["changed"]


def test_spike_without_a_change_has_two_lines() -> None:
    lines = replay_lines({**SPIKE, "causes": []})
    assert lines is not None
    assert lines.changed == ()
    assert 'class="changed"' not in replay_picture(lines)


def test_loss_that_is_not_finite_leaves_a_gap_and_is_told() -> None:
    lines = replay_lines(_with("recorded", [1.0, None, 9.1]))
    assert lines is not None
    picture = replay_picture(lines)
    assert "recorded not finite, replayed 9" in picture
    (path,) = re.findall(r'class="recorded" d="([^"]+)"', picture)
    assert path.count("M") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", None),
        ("steps", "abc"),
        ("steps", [1, 2]),
        ("steps", [3, 2, 1]),
        ("steps", [1, None, 3]),
        ("steps", [1, "<script>", 3]),
        ("steps", [[1], [2], [3]]),
        ("recorded", {"a": 1}),
        ("losses", [True, 1.0, 2.0]),
        ("losses", [1.0] * 100_000),
    ],
)
def test_lists_of_another_shape_are_not_drawn(name: str, value: Any) -> None:
    assert replay_lines(_with(name, value)) is None


@pytest.mark.parametrize("replay", [None, [], "x", 7, {}])
def test_spike_without_a_replay_has_no_picture(replay: Any) -> None:
    assert replay_lines({**SPIKE, "replay": replay}) is None


@pytest.mark.parametrize("large", [1e308, -1e308, float("inf"), float("nan"), 10**400])
def test_loss_beyond_all_bounds_does_not_break_the_picture(large: float) -> None:
    lines = replay_lines(_with("losses", [1.0, 2.0, large]))
    assert lines is not None
    assert lines.unchanged == (1.0, 2.0, None)
    assert not re.search(r"nan|inf", replay_picture(lines).replace("not finite", ""))


@pytest.mark.parametrize("causes", [None, "x", [None], [{"replay": "x"}], [{"replay": {"losses": [1.0]}}]])
def test_causes_of_another_shape_are_not_drawn(causes: Any) -> None:
    lines = replay_lines({**SPIKE, "causes": causes})
    assert lines is not None
    assert lines.changed == ()


def test_large_losses_stand_on_a_logarithmic_scale() -> None:
    lines = replay_lines(_with("recorded", [1.0, 1.0, 5e6]))
    assert lines is not None
    assert "Loss (logarithmic)" in replay_picture(lines)
