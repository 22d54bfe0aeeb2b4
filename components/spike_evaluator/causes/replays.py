"""Reads what replays left in a ModelRun folder.

`replay/<step>/replay.json`, format `spikeguard.replay/1`:

    {"format": "spikeguard.replay/1",
     "first_step", "step": the first high step, and the highest, which the replay ends with; "state_step": steps done when the state was kept,
     "is_reproduced": whether the replay without any change had the same spike,
     "reason": why there is no result, "" where there is one,
     "expected", "peak": losses expected and replayed at the peak,
     "batch_effect", "weight_effect": shares of the rise that the batch has with earlier weights, and other batches with these weights,
     "culprit_step": the step whose batch the figures are of,
     "figures": {name: number}, "features": [{...}], "rows": [{"example_id", "loss", "feature", "value", "lower", "upper"}],
     "changes": [{"change", "cause", "text", "peak", "left": share of the rise that is left, "figures": {}, "losses": with the change}],
     "steps", "recorded", "losses": the replayed steps and their losses in the training and in the replay without any change,
     "seconds"}

Lists of losses are as long as `steps`, at most `MOST_STEPS`, with null where a loss was not finite.

`replay/notes.json` says what was not replayed:

    {"notes": [sentence, ...],
     "left_out": [{"first_step", "step", "reason"}], the high steps that were seen and not replayed}
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.spike_evaluator.detection import Spike

FORMAT = "spikeguard.replay/1"
FOLDER, FILE_NAME, NOTES_NAME = "replay", "replay.json", "notes.json"
# Steps of one replay.
MOST_STEPS = 96
_DIGITS = 6


def read_replays(run_dir: str | os.PathLike[str]) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """What was replayed of a run, in step order, and sentences on what was not.

    High steps that were left out are among the former, with `first_step`, `step` and `reason` alone.

    Args:
      run_dir: a ModelRun's folder.

    A result that is damaged is among the latter: a run is judged without it.

    >>> read_replays("/nowhere")
    ((), ())
    """
    root = pathlib.Path(run_dir) / FOLDER
    found, notes = [], []
    for path in sorted(root.glob(f"*/{FILE_NAME}")):
        try:
            found.append(_read_result(path))
        except InvalidDataError as error:
            notes.append(str(error))
    if (root / NOTES_NAME).exists():
        left_out = _read(root / NOTES_NAME)
        notes += left_out.get("notes", [])
        found += [one for one in left_out.get("left_out", []) if {"first_step", "step", "reason"} <= one.keys()]
    return tuple(sorted(found, key=lambda one: one["step"])), tuple(notes)


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    content = _read(path)
    if content.get("format") != FORMAT:
        raise InvalidDataError(str(path), f"has format {content.get('format')!r}, not {FORMAT!r}", "Remove it.")
    return content


def belongs_to(spike: Spike, first: int, last: int) -> bool:
    """Whether high steps from `first` to `last` are a spike's own, or so near that they may be.

    >>> belongs_to(Spike(20, 22, 24, 9.0, 1.0, 50.0, recovered=True), 16, 18)
    True
    """
    return spike.start_step - 2 <= last and first <= spike.end_step + 1


def curves_of(replay: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a spike's replay looked like, or why there is none, as JSON; None where the spike was not seen in the training.

    Args:
      replay: of the spike, one of `read_replays`.

    Returns:
      `is_reproduced`, `reason`, `expected`, `first_step`, `steps`, `recorded` and `losses`; the lists are empty where
      nothing was replayed.

    >>> curves_of({"first_step": 7, "step": 8, "reason": "the time for replays was over"})["losses"]
    []
    """
    if replay is None:
        return None
    steps = list(replay.get("steps") or ())[:MOST_STEPS]
    recorded, losses = (short_losses(replay.get(name)) for name in ("recorded", "losses"))
    if not len(steps) == len(recorded) == len(losses):
        steps, recorded, losses = [], [], []
    return {
        "is_reproduced": bool(replay.get("is_reproduced", False)),
        "reason": replay.get("reason", ""),
        "expected": replay.get("expected"),
        "first_step": replay["first_step"],
        "steps": steps,
        "recorded": recorded,
        "losses": losses,
    }


def short_losses(losses: Sequence[float | None] | None) -> list[float | None]:
    """The losses of a replay as a page needs them.

    >>> short_losses([1 / 3, None, float("inf")])
    [0.333333, None, None]
    """
    return [
        float(f"{loss:.{_DIGITS}g}") if loss is not None and math.isfinite(loss) else None
        for loss in (losses or ())[:MOST_STEPS]
    ]


def read_tables(folders: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """The JSON tables at the roots of artifacts of data components, by the name of their file.

    Args:
      folders: the artifacts' `uri`s; those without tables are passed over.
    """
    paths = [path for folder in folders for path in sorted(pathlib.Path(folder).glob("*.json"))]
    return {path.name: _read(path) for path in paths}


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidDataError(str(path), f"cannot be read ({error})", "Remove it.") from error
    return content
