"""What a guard adds to training: stability and validation error by arm, over data sets, learning rates and seeds.

A subset, for instance while tuning, in about a minute:

    python -m tests.bench.guard --data diabetes,digits --arms recipe,spikeguard --rates 1e-3,1 --seeds 2

On `diabetes_gaps` three rows have a feature that is not a number. On a CPU, whose rectifiers make 0 of NaN, the networks that
train on them die to a calm constant, elsewhere to NaN: errors are compared with those of `diabetes`, to be in the plan, too:

    python -m tests.bench.guard --data diabetes_gaps,diabetes --processes 1

Arms that do not change need not run again: `--reuse bench_results/guard.json` takes their runs from there.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from spikeguard.components.guarded_trainer.schedule import GuardedSchedule
from tests.bench import RESULTS, guard_report
from tests.bench.guard_data import DATA_SETS, TWINS_ONLY, load, prepare
from tests.bench.guard_runs import ARMS, Run, Training, arm_named, build, loss_of, run_all

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which runs to make."""

    data: tuple[str, ...] = tuple(DATA_SETS)
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    rates: tuple[float, ...] = RATES
    seeds: int = 5
    steps: int | None = None
    """Steps per run. None: what the data set is given."""
    processes: int = 2

    def units(self) -> list[tuple[str, str]]:
        """Data set and arm of each unit of work."""
        return [
            (data, arm)
            for data in self.data
            for arm in self.arms
            if (arm in guard_report.REFERENCES or data not in TWINS_ONLY)
            and (arm_named(arm).has_classification or load(data).task == "regression")
        ]

    def has(self, run: Run) -> bool:
        """Whether a run made elsewhere is one that this plan would compare with."""
        return (
            run.data in self.data
            and run.rate in self.rates
            and run.seed < self.seeds
            and run.steps == (self.steps or load(run.data).steps)
        )


def measure(plan: Plan) -> list[Run]:
    """All runs of the plan, in its order."""
    prepare()
    units = plan.units()
    options = (plan.rates, plan.seeds, plan.steps)
    if plan.processes <= 1:
        return [run for data, arm in units for run in run_all(data, arm, *options)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(plan.processes, context, initializer=_use_one_core) as pool:
        futures = [pool.submit(run_all, data, arm, *options) for data, arm in units]
        for future in concurrent.futures.as_completed(futures):
            runs = future.result()
            print(
                f"{runs[0].data} {runs[0].arm}: {len(runs)} runs, {sum(run.seconds for run in runs):.0f} s", flush=True
            )
        return [run for future in futures for run in future.result()]


def _use_one_core() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def report(runs: Sequence[Run], folder: pathlib.Path, name: str, seconds: float) -> None:
    """Prints the tables; writes them as Markdown, and every run and the summaries as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=220)
    for table in guard_report.rich_tables(runs):
        console.print(table)
    (folder / f"{name}.md").write_text(guard_report.markdown(runs))
    content = {
        "summary": [dataclasses.asdict(one) for one in guard_report.summarize(runs)],
        "references": [dataclasses.asdict(one) for one in guard_report.references(runs).values()],
        "runs": [dataclasses.asdict(run) for run in runs],
        "seconds": seconds,
        "load": os.getloadavg(),
    }
    # JSON has no infinity: an error that was not finite reads "inf".
    (folder / f"{name}.json").write_text(json.dumps(_without_infinity(content), allow_nan=False, indent=1) + "\n")


def read_runs(path: pathlib.Path) -> list[Run]:
    """The runs of an earlier report."""
    return [Run(**{**row, "reasons": tuple(row["reasons"])}) for row in json.loads(path.read_text())["runs"]]


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(item) for item in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def main(argv: Sequence[str] | None = None) -> list[Run]:
    """Runs a plan from the command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(plan.data))
    parser.add_argument(
        "--arms", default=",".join(plan.arms), help="keras and recipe are what errors are compared with"
    )
    parser.add_argument("--rates", default=",".join(f"{rate:g}" for rate in plan.rates))
    parser.add_argument("--seeds", type=int, default=plan.seeds)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--processes", type=int, default=plan.processes)
    parser.add_argument("--reuse", type=pathlib.Path, help="guard.json to take the other arms' runs from")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "guard.json", help="the .md goes beside it")
    given = parser.parse_args(argv)
    for name, choices in (("data", plan.data), ("arms", plan.arms)):
        if unknown := sorted(set(getattr(given, name).split(",")) - set(choices)):
            parser.error(f"--{name} must name some of {', '.join(choices)}; got {', '.join(unknown)}.")
    plan = Plan(
        data=tuple(given.data.split(",")),
        arms=tuple(given.arms.split(",")),
        rates=tuple(float(rate) for rate in given.rates.split(",")),
        seeds=given.seeds,
        steps=given.steps,
        processes=given.processes,
    )
    if plan.processes <= 1:
        _use_one_core()
    earlier = read_runs(given.reuse) if given.reuse else []
    started = time.monotonic()
    runs = [*(run for run in earlier if run.arm not in plan.arms and plan.has(run)), *measure(plan)]
    report(runs, given.output.parent, given.output.stem, time.monotonic() - started)
    return runs


@pytest.mark.bench
def test_guard() -> None:
    assert main([])


@pytest.mark.e2e
def test_smoke_of_the_guard_bench(tmp_path: pathlib.Path) -> None:
    plan = Plan(data=("diabetes",), rates=(1e-3, 1.0), seeds=1, steps=60, processes=1)
    runs = measure(plan)
    assert [(run.arm, run.rate) for run in runs] == [(arm, rate) for arm in plan.arms for rate in plan.rates]
    assert {run.steps for run in runs} == {60}
    report(runs, tmp_path, "guard", seconds=1.0)
    assert read_runs(tmp_path / "guard.json") == runs
    content = json.loads((tmp_path / "guard.json").read_text())
    assert [(row["arm"], row["data"]) for row in content["summary"]] == [
        (arm, scope) for scope in ("all", "diabetes") for arm in plan.arms
    ]
    assert (tmp_path / "guard.md").read_text().count("| spikeguard |") == 3


@pytest.mark.e2e
def test_guard_outlives_features_that_are_not_numbers(tmp_path: pathlib.Path) -> None:
    plan = Plan(("diabetes_gaps", "diabetes"), ("recipe", "spikeguard"), rates=(1e-2,), seeds=1, steps=60, processes=1)
    runs = measure(plan)
    spoiled, guarded, clean, _ = runs
    assert [(run.data, run.arm) for run in runs] == [(data, arm) for data in plan.data for arm in plan.arms]
    assert spoiled.error is not None
    assert clean.error is not None
    assert guarded.error is not None
    # TensorFlow's rectifiers make 0 of NaN on a CPU: unguarded, the network dies and predicts a constant.
    assert guarded.error < 0.9 * spoiled.error
    # 60 steps are a bit more than three epochs, and each epoch meets the three rows, unless in a short last batch.
    assert 3 <= guarded.interventions["skip"] <= 12
    assert spoiled.interventions["skip"] == 0
    report(runs, tmp_path, "guard", seconds=1.0)
    # What no unguarded network outlives is compared with the unspoiled data, and skipping it is no harm to a healthy run.
    assert [run.gaps > 0 for run in runs] == [True, True, False, False]
    found = guard_report.references(runs)
    assert {data: (one.of, one.best_error) for data, one in found.items()} == dict.fromkeys(
        plan.data, ("diabetes", clean.error)
    )
    by_arm = {one.arm: one for one in guard_report.summarize(runs) if one.data == "diabetes_gaps"}
    assert by_arm["spikeguard"].all_median == guarded.error / clean.error
    assert by_arm["spikeguard"].intervened is None
    assert guard_report.references(runs[:2]) == {}
    lost = guard_report.summarize([dataclasses.replace(spoiled, error=None), guarded])
    assert [one.finite for one in lost] == [0.0, 1.0] * 2


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["olmo_skip_step", "spikeguard"])
def test_run_reproduces_bit_for_bit_when_variables_are_reset(name: str) -> None:
    data, arm = load("diabetes"), arm_named(name)
    training = Training(data, arm, steps=60)
    first = training.losses(seed=1, rate=1e-2)
    training.losses(seed=0, rate=1.0)
    for again in (training, Training(data, arm, steps=60)):
        np.testing.assert_array_equal(again.losses(seed=1, rate=1e-2), first)


@pytest.mark.e2e
def test_losses_are_those_of_keras_own_train_step() -> None:
    data, arm, steps = load("digits"), arm_named("recipe"), 60
    losses, _ = Training(data, arm, steps).losses(seed=3, rate=1e-2)
    schedule = GuardedSchedule(1e-2, steps, warmup_steps=3)
    model = build(data, seed=3)
    model.compile(keras.optimizers.Adam(schedule), loss_of(data, arm))
    for batch, expected in zip(data.batches(3, steps), losses, strict=True):
        model.reset_metrics()  # Or Keras returns the mean over all batches so far.
        loss = model.train_on_batch(data.train_x[batch], data.train_y[batch])
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


if __name__ == "__main__":
    main()
