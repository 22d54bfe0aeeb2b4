"""Finds the training curves under a path, whatever tool wrote them."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator

from spikeguard.components.curve_readers import csv_log, events, json_log, naming
from spikeguard.components.curve_readers.curves import curves_of
from spikeguard.components.curve_readers.series import RunLog
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.training_curve import CURVE_FOLDER, TrainingCurve

_CSV_SUFFIXES = (".csv", ".tsv")
_LINES_SUFFIXES = (".jsonl", ".ndjson")
_GIVE = "Give a TensorBoard event file, a CSV, JSONL or trainer_state.json file, or a folder of them."


def read_curves(path: str | os.PathLike[str]) -> dict[str, TrainingCurve]:
    """Reads every training curve under a path.

    It reads what a `CurveRecorder` wrote, TensorBoard event files (of Keras, PyTorch, Lightning, Hugging Face, ...), CSV
    with a header (Keras CSVLogger, TensorBoard's download, ...), JSON lines, and Hugging Face's trainer_state.json. Of
    more than 4 million losses it keeps the largest of every 2, 4, 8, ... and notes so in the curve.

    Args:
      path: a log file or a folder. In a folder, runs are the folders below it that hold a recorded curve or event
        files; where there are none, the CSV, JSONL and trainer_state.json files in it.

    Returns:
      Curves by name of the run; the name is "" where there is one without a name of its own. A loss that goes by no
      known name, such as a GAN's `d_loss`, is a curve of its own.

    Raises:
      InvalidDataError: there is nothing at the path that can be read.

    >>> import pathlib, tempfile
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "gan.csv"
    >>> _ = log.write_text("step,d_loss,g_loss\\n1,0.7,0.6\\n2,0.5,0.9\\n")
    >>> {name: curve.loss.tolist() for name, curve in read_curves(log).items()}
    {'d_loss': [0.7, 0.5], 'g_loss': [0.6, 0.9]}
    """
    root = pathlib.Path(path)
    try:
        if not root.exists():
            raise InvalidDataError(str(path), "does not exist", _GIVE)
        curves = _of_folder(root) if root.is_dir() else _of_file(root)
    except OSError as error:
        raise InvalidDataError(
            str(error.filename or path), f"cannot be read ({error.strerror})", "Check the file and its permissions."
        ) from error
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
        raise InvalidDataError(str(path), "holds no training curve", _GIVE)
    return curves


def read_curve(path: str | os.PathLike[str], run: str | None = None) -> TrainingCurve:
    """Reads one training curve.

    Args:
      path: a log file or a folder, as in `read_curves`.
      run: name of the run, where there are several.

    Returns:
      The curve, in the order in which it was written: steps go back where a training was restarted.

    Raises:
      InvalidDataError: nothing can be read, there are several curves and no `run`, or no curve of that name.

    >>> import pathlib, tempfile
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> _ = log.write_text("epoch,loss,val_loss\\n0,0.7,0.8\\n1,0.5,0.6\\n")
    >>> curve = read_curve(log)
    >>> curve.kind, curve.loss.tolist(), curve.validation_loss.tolist()
    ('epoch', [0.7, 0.5], [0.8, 0.6])
    """
    curves = read_curves(path)
    if run is None and len(curves) == 1:
        return next(iter(curves.values()))
    if run in curves:
        return curves[run]
    shown = ", ".join(itertools.islice(curves, 10)) + (", ..." if len(curves) > 10 else "")
    if run is None:
        raise InvalidDataError(
            str(path), f"holds {len(curves)} training curves: {shown}", "Name one of them as the run."
        )
    raise InvalidDataError(str(path), f"holds no training curve {run!r}", f"It holds: {shown}.")


def _of_file(path: pathlib.Path) -> dict[str, TrainingCurve]:
    if not path.stat().st_size:
        raise InvalidDataError(str(path), "is empty", "Give a file that a training has written to.")
    if events.is_event_file(path):
        log = events.read_events([path])
        curves = curves_of(log)
    else:
        log = _table(path)
        curves = curves_of(log)
    if not curves:
        remedy = "Name one loss, train_loss or batch_loss." if log.series else _GIVE
        raise InvalidDataError(str(path), "holds no training loss", remedy)
    is_named = path.suffix.lower() in _CSV_SUFFIXES and csv_log.is_tensorboard_export(path)
    return _named(path.stem, curves) if is_named else curves


def _table(path: pathlib.Path) -> RunLog:
    """Reads a CSV or JSON file, by its suffix or else by its first bytes."""
    with path.open("rb") as file:
        head = file.read(4096)
    if b"\0" in head:
        raise InvalidDataError(str(path), "is a binary file of an unknown kind", _GIVE)
    suffix = path.suffix.lower()
    is_json = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    if suffix in _LINES_SUFFIXES or (is_json and suffix not in _CSV_SUFFIXES and json_log.is_json_lines(path)):
        return json_log.read_json_lines(path)
    if suffix == ".json" or (is_json and suffix not in _CSV_SUFFIXES):
        return json_log.read_json(path)
    return csv_log.read_csv(path)


def _of_folder(root: pathlib.Path) -> dict[str, TrainingCurve]:
    if any(root.glob("steps-*.parquet")):
        return {"": _read_recorded(root)}
    curves: dict[str, TrainingCurve] = {}
    event_files: dict[pathlib.Path, list[pathlib.Path]] = {}
    for folder, names in _walk(root):
        if any((folder / CURVE_FOLDER).glob("steps-*.parquet")):
            curves[_name(folder, root)] = _read_recorded(folder)
        elif names:
            event_files[folder] = events.in_time_order([folder / name for name in names])
    curves |= _of_events(root, event_files)
    return curves or _of_tables(root)


def _read_recorded(folder: pathlib.Path) -> TrainingCurve:
    # Imported here: loading Parquet takes longer than reading a small log.
    from spikeguard.components.recorded_curve import read_recorded

    return read_recorded(folder)


def _walk(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Folders with the event files in them; below a recorded curve are only its own scalars."""
    for folder, below, names in os.walk(root):
        below.sort()
        if any(pathlib.Path(folder, CURVE_FOLDER).glob("steps-*.parquet")):
            below.clear()
        # The profiler's files have no scalars.
        yield pathlib.Path(folder), [n for n in names if "tfevents" in n and not n.endswith(".profile-empty")]


def _of_events(root: pathlib.Path, files: dict[pathlib.Path, list[pathlib.Path]]) -> dict[str, TrainingCurve]:
    # A run that cannot be read is an error even beside others: its curve might be the one that must not be passed.
    logs = {
        folder: events.read_events([path for path in paths if path.stat().st_size] or paths)
        for folder, paths in files.items()
    }
    validation = {folder: log for folder, log in logs.items() if folder != root and naming.is_validation(folder.name)}
    curves: dict[str, TrainingCurve] = {}
    for folder, log in logs.items():
        if folder in validation:
            continue
        is_part = folder.name == "train" and folder != root and folder.parent not in logs
        home = folder.parent if is_part else folder
        beside = next((other for place, other in validation.items() if place.parent == home and other.series), None)
        curves |= _named(_name(home, root), curves_of(log, beside))
    return curves


def _of_tables(root: pathlib.Path) -> dict[str, TrainingCurve]:
    states = [*root.glob(json_log.TRAINER_STATE), *root.glob(f"checkpoint-*/{json_log.TRAINER_STATE}")]
    if states:
        # Each state holds the whole history up to its step.
        return _of_file(max(sorted(states), key=json_log.global_step))
    suffixes = (*_CSV_SUFFIXES, *_LINES_SUFFIXES)
    paths = sorted(path for path in root.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    curves: dict[str, TrainingCurve] = {}
    first_error: InvalidDataError | None = None
    for path in paths:
        try:
            found = _of_file(path)
        except InvalidDataError as error:
            first_error = first_error or error
            continue
        curves |= found if path.stem in found else _named(path.stem, found)
    if not curves and first_error is not None:
        raise first_error
    return curves


def _name(folder: pathlib.Path, root: pathlib.Path) -> str:
    return "" if folder == root else folder.relative_to(root).as_posix()


def _named(run: str, curves: dict[str, TrainingCurve]) -> dict[str, TrainingCurve]:
    return {"/".join(part for part in (run, name) if part): curve for name, curve in curves.items()}
