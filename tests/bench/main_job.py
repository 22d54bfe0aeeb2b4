"""Wall time of the main job over the same pipeline of bare TFX components, interleaved in one run."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import pytest
from rich.console import Console
from rich.table import Table

from spikeguard.pipelines import flights
from spikeguard.schemas import schema_path
from tests.bench import RESULTS

ROOT = pathlib.Path(__file__).parent.parent.parent


def _seconds(command: list[str], folder: pathlib.Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return time.monotonic() - started


def measure(csv_folder: pathlib.Path, folder: pathlib.Path, repeats: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each run, from the command to its end, imports included."""
    schema, seconds = schema_path("flights_delay"), {"spikeguard": [], "bare TFX": []}
    (csv,) = csv_folder.glob("*.csv")
    for repeat in range(repeats):
        ours, theirs = folder / f"ours-{repeat}", folder / f"theirs-{repeat}"
        data = ["--data", str(csv), "--label", "arr_delay", "--task", "regression", "--schema", schema]
        options = [*data, "--steps", str(steps), "--output", str(ours)]
        seconds["spikeguard"].append(_seconds([str(ROOT / "local_runner.py"), *options], folder))
        bare = [str(ROOT / "tests/bench/bare_tfx.py"), str(csv_folder), schema, str(theirs), str(steps)]
        seconds["bare TFX"].append(_seconds(bare, folder))
        assert list(ours.glob("pushed/*/*"))
        assert list(theirs.glob("pushed/*"))
    return seconds


def report(seconds: dict[str, list[float]], steps: int) -> float:
    """Prints the table, writes the JSON and returns the ratio of the medians."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["spikeguard"] / medians["bare TFX"]
    table = Table("pipeline", "median s", "min s", "max s", title=f"main job, {steps} steps")
    for name, values in seconds.items():
        table.add_row(name, f"{medians[name]:.1f}", f"{min(values):.1f}", f"{max(values):.1f}")
    table.add_row("ratio", f"{ratio:.2f}", "", "")
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {"seconds": seconds, "ratio": ratio, "steps": steps, "load": os.getloadavg()}
    (RESULTS / "main_job.json").write_text(json.dumps(content, indent=1) + "\n")
    return ratio


@pytest.mark.bench
def test_main_job(tmp_path: pathlib.Path) -> None:
    csv = flights.write_csv("delay", [1], tmp_path)
    assert report(measure(csv.parent, tmp_path, repeats=3, steps=1000), steps=1000) > 0


@pytest.mark.e2e
def test_smoke_of_the_main_job_bench(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "RESULTS", tmp_path / "results")
    lines = flights.write_csv("delay", [1], tmp_path).read_text().splitlines(keepends=True)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "few.csv").write_text("".join(lines[:2000]))
    assert report(measure(tmp_path / "few", tmp_path, repeats=1, steps=60), steps=60) > 0
    assert (tmp_path / "results" / "main_job.json").exists()
