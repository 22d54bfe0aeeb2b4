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
     "changes": [{"change", "cause", "text", "peak", "left": share of the rise that is left, "figures": {}}],
     "seconds"}
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from spikeguard.components.errors import InvalidDataError

FORMAT = "spikeguard.replay/1"
FOLDER, FILE_NAME, NOTES_NAME = "replay", "replay.json", "notes.json"


def read_replays(run_dir: str | os.PathLike[str]) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """What was replayed of a run, in step order, and sentences on what was not.

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
        notes += _read(root / NOTES_NAME).get("notes", [])
    return tuple(sorted(found, key=lambda one: one["step"])), tuple(notes)


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    content = _read(path)
    if content.get("format") != FORMAT:
        raise InvalidDataError(str(path), f"has format {content.get('format')!r}, not {FORMAT!r}", "Remove it.")
    return content


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
