"""How long a report takes to make and to open, and how large it is, for ordinary and for very large runs.

python -m tests.bench.report --cases 1000x20,1000000x2000 --rounds 5
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.causes.replays import MOST_STEPS
from spikeguard.components.stability_report.collecting import content_of_log
from spikeguard.components.stability_report.content import ReportContent
from spikeguard.components.stability_report.rendering import LARGEST_PAGE_BYTES, render
from spikeguard.components.training_curve import TrainingCurve
from tests.bench import RESULTS
from tests.browser import open_browser, opened
from tests.components.stability_report.runs import cause, outliers, proofs, replay

_GOAL_SECONDS = 3.0
# One spike in so many steps.
_SPACING = 2_000


def large_content(steps: int, features: int) -> ReportContent:
    """What a run of so many steps and features has to tell, with much to tell of each.

    Args:
      steps: at least 1,000.
      features: each has outliers, proofs, statistics of three splits and anomalies of two validators.
    """
    rng = np.random.default_rng(0)
    loss = 1 + 3 * np.exp(-np.arange(steps) / (steps / 10)) + 0.05 * rng.normal(size=steps)
    loss[_SPACING // 2 :: _SPACING] += 3.0
    norm = 0.1 + loss * rng.uniform(0.9, 1.1, steps)
    rate = np.linspace(1e-3, 1e-5, steps)
    curve = TrainingCurve.from_columns(
        loss=loss, gradient_norm=norm, learning_rate=rate, epoch=np.arange(steps) * 20 // steps
    )
    content = content_of_log(result.evaluate(curve), f"{steps:,} steps, {features:,} features")
    evaluation = content.evaluation or {}
    spikes = [{**spike, **_replayed(spike["peak_step"], rng)} for spike in evaluation["spikes"]]
    names = [f"a_feature_with_an_ordinary_name_{number}" for number in range(features)]
    anomalies = [
        {
            "source": source,
            "feature": name,
            "severity": "WARNING",
            "summary": "Outliers",
            "text": "1,234 of 336,776 rows lie outside of the fences of the train split, -12.5 to 301.25.",
            "split": "eval, train",
        }
        for name in names
        for source in ("ExampleValidator", "OutlierDetector")
    ]
    figures = {"rows": 336_776, "missing_share": 0.0245, "mean": 6.895, "sd": 44.63, "min": -86.0, "median": -5.0}
    return dataclasses.replace(
        content,
        evaluation={**evaluation, "spikes": spikes},
        anomalies=tuple(anomalies[:3000]),
        outliers=({**outliers(names), "source": "OutlierDetector"},),
        normalization=({**proofs(names), "source": "NormalizationValidator"},),
        statistics=tuple(
            {"source": "StatisticsGen", "split": split, "feature": name, "kind": "float", **figures, "unusual": []}
            for name in names
            for split in ("train", "eval", "test")
        )[:3000],
    )


def _replayed(step: int, rng: np.random.Generator) -> dict[str, Any]:
    """Causes and replay of the spike at a step, which has as many steps as a replay may have."""
    recorded, losses, changed = rng.uniform(1.0, 4.0, (3, MOST_STEPS)).round(5).tolist()
    steps = list(range(step - MOST_STEPS + 1, step + 1))
    found = cause()
    return {
        "causes": [{**found, "replay": {**found["replay"], "losses": changed}}],
        "replay": {**replay(step=step), "steps": steps, "recorded": recorded, "losses": losses},
    }


@dataclasses.dataclass(frozen=True)
class Measured:
    """One case."""

    case: str
    megabytes: float
    render_seconds: list[float]
    open_seconds: list[float]
    """Until the page is drawn and answers; empty where there is no browser."""


def measure(case: str, rounds: int, has_browser: bool) -> Measured:
    """Makes and opens the page of one case, `<steps>x<features>`, several times."""
    steps, features = map(int, case.split("x"))
    content = large_content(steps, features)
    rendered, openings, page = [], [], ""
    for _ in range(rounds):
        began = time.perf_counter()
        page = render(content)
        rendered.append(time.perf_counter() - began)
    if has_browser:
        with open_browser() as browser:
            for _ in range(rounds):
                began = time.perf_counter()
                with opened(browser, page) as (window, complaints):
                    window.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                    openings.append(time.perf_counter() - began)
                    assert window.locator("#chart canvas").count() == 3
                assert complaints == []
    return Measured(case, len(page.encode()) / 1e6, rendered, openings)


_HEADER = ("steps x features", "MB", "render s (min to max)", "open s (min to max)")


def _cell(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})" if seconds else ""


def report(measured: Sequence[Measured], rounds: int, folder: pathlib.Path) -> None:
    """Prints the table and writes it as Markdown and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    title = f"Reports: medians of {rounds} rounds, {os.cpu_count()} cores, load {load:.1f}"
    rows = [(one.case, f"{one.megabytes:.2f}", _cell(one.render_seconds), _cell(one.open_seconds)) for one in measured]
    table = Table(*_HEADER, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    lines = ["| " + " | ".join(row) + " |" for row in (_HEADER, ["---"] * len(_HEADER), *rows)]
    note = f"The goals are {LARGEST_PAGE_BYTES / 1e6:g} MB and {_GOAL_SECONDS:g} s to open; a browser's start is not counted."
    (folder / "report.md").write_text(f"# {title}\n\n" + "\n".join(lines) + f"\n\n{note}\n")
    content = {"measured": [dataclasses.asdict(one) for one in measured], "rounds": rounds, "load": load}
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> list[Measured]:
    """Measures and reports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="1000x20,1000000x2000", help="steps x features, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-browser", action="store_true", help="do not open the pages")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {given.rounds}.")
    measured = [measure(case, given.rounds, not given.no_browser) for case in given.cases.split(",")]
    report(measured, given.rounds, given.output)
    return measured


@pytest.mark.bench
def test_reports() -> None:
    assert all(one.megabytes < LARGEST_PAGE_BYTES / 1e6 for one in main([]))


def test_smoke_of_the_report_bench(tmp_path: pathlib.Path) -> None:
    (measured,) = main(["--cases", "1000x3", "--rounds", "2", "--no-browser", "--output", str(tmp_path)])
    assert len(measured.render_seconds) == 2
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["measured"][0]["case"] == "1000x3"
    assert "| 1000x3 | " in (tmp_path / "report.md").read_text()


if __name__ == "__main__":
    main()
