"""How often the cause that was put into a training is the one that is named: by form of trouble, data, model and optimizer.

    python -m tests.bench.causes --per-cell 1 --seed 1        # every form on every data set once, model and optimizer drawn
    python -m tests.bench.causes --forms more                 # other forms, that nothing was mended with
    python -m tests.bench.causes --full                       # all of the grid, five seeds

Each run has a twin, the same training with nothing put in. A run counts where a spike arose, or the loss diverged, that came
from what was put in: at its peak the twin's loss is up by less than half as much. Of several such the highest is scored,
and beside it the highest of the validation loss. Each outcome is written as it comes to `causes.jsonl`; with `--resume` those in it are not run again.
With `--keep FOLDER` curves and replays stay, and `--rank-again FOLDER` asks for the causes of all that were kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from spikeguard.components.curve_readers.reading import read_curve
from spikeguard.components.training_curve import TrainingCurve
from tests.bench import RESULTS
from tests.bench.causes_data import DATA_SETS, load
from tests.bench.causes_forms import FORMS, NEEDS_CLASSES
from tests.bench.causes_more_forms import MORE_FORMS
from tests.bench.causes_runs import ALL_FORMS, KINDS, RATES, STEPS, Attributed, Run, attribute, train

_CAUSES = ("outliers", "imbalance", "normalization", "learning_rate", "batch_size", "regularization")
_PAIRS = 6
# Twins per data set.
_TWINS = 4
_RUN_FILE = "run.json"


def runs_of(per_cell: int | None, seed: int, family: Sequence[str], is_guarded: bool = False) -> Iterator[Run]:
    """What to train: each form, pairs of different causes and twins, on each data set.

    Args:
      per_cell: runs per data set and form, model, optimizer and seed drawn among a few, so that twins serve many runs; None
        for the whole grid with five seeds.
      seed: of the draw.
      family: names of the forms.
      is_guarded: whether a SpikeGuard is around the optimizer.
    """
    generator = np.random.default_rng(seed)
    forms: list[tuple[str, ...]] = [*((form,) for form in family)]
    for _ in range(_PAIRS):
        first, second = (family[place] for place in generator.choice(len(family), 2, replace=False))
        if ALL_FORMS[first][0] != ALL_FORMS[second][0]:
            forms.append((first, second))
    for data in DATA_SETS:
        grid = [Run(data, kind, one, (), run, is_guarded) for kind in KINDS for one in RATES for run in range(5)]
        if per_cell is not None:
            places = generator.choice(6, _TWINS * per_cell)
            grid = [dataclasses.replace(grid[5 * place], seed=int(generator.integers(1000))) for place in places]
        yield from grid
        for form in forms:
            if any(name in NEEDS_CLASSES for name in form) and not load(data).classes:
                continue
            chosen = range(len(grid)) if per_cell is None else generator.choice(len(grid), per_cell, replace=False)
            yield from (dataclasses.replace(grid[place], forms=form) for place in chosen)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Sums over runs."""

    runs: int
    spiked: int
    first: int
    among_two: int
    verified: int
    """Of the runs that spiked, those whose first cause is right and verified."""


def scores_of(runs: Sequence[Attributed]) -> Scores:
    """Over the runs with a trouble."""
    spiked = [run for run in runs if run.ranked]
    return Scores(
        len(runs),
        len(spiked),
        sum(run.is_first for run in spiked),
        sum(run.is_among_two for run in spiked),
        sum(run.is_first and run.ranked[0][1] == "verified" for run in spiked),
    )


def report(runs: Sequence[Attributed], seconds: float) -> str:
    """All tables as Markdown."""
    spoiled, twins = [run for run in runs if run.forms], [run for run in runs if not run.forms]
    single = [run for run in spoiled if len(run.forms) == 1]
    lines = [
        f"{len(runs)} runs of {STEPS} steps in {seconds:.0f} s, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        "| | runs | with a spike | top 1 | top 2 | right and verified |",
        "|---|---|---|---|---|---|",
        _line("one trouble", single),
        _line("two troubles", [run for run in spoiled if len(run.forms) == 2]),
    ]
    for group, of in (("form", lambda run: run.forms[0]), ("data", lambda run: run.data)):
        lines += [
            "",
            f"| {group} | runs | with a spike | top 1 | top 2 | right and verified |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            _line(name, [run for run in single if of(run) == name]) for name in sorted({of(run) for run in single})
        ]
    for group in ("model", "optimizer"):
        names = sorted({getattr(run, group) for run in single})
        lines += [_line(name, [run for run in single if getattr(run, group) == name]) for name in names]
    lines += ["", "First cause named (columns) by true cause (rows), one trouble:", ""]
    heads = (*_CAUSES, "numerics", "unknown")
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for cause in _CAUSES:
        named = [run.ranked[0][0] for run in single if run.causes == (cause,) and run.ranked]
        lines.append(f"| {cause} | " + " | ".join(str(named.count(head)) for head in heads) + " |")
    false = sum(bool(run.verified) for run in twins)
    likely = sum(bool(run.ranked) and run.ranked[0][0] != "unknown" for run in twins)
    wrong = sum(bool(set(run.verified) - set(run.causes)) for run in single)
    times = 100 * np.array([run.replay_seconds / run.fit_seconds for run in runs if run.replay_seconds] or [0.0])
    lines += [
        "",
        f"Twins: {len(twins)}, {sum(bool(run.ranked) for run in twins)} with a spike, {likely} with a cause named, {false} with a"
        f" verified cause; {sum(run.own_outliers for run in twins)} spikes more had outliers verified that the data have"
        " by themselves.",
        f"Validation losses with a spike that came from one trouble: {_validation_line(single)} Of twins:"
        f" {sum(bool(run.validation_ranked) for run in twins)}.",
        f"Runs with one trouble and another cause verified for a spike that came from it: {wrong} of {len(single)}.",
        f"Replays took {np.median(times):.0f} % of the training's time in the median of the runs that had one"
        f" ({np.quantile(times, 0.1):.0f} to {np.quantile(times, 0.9):.0f} % in the middle eight tenths).",
    ]
    return "\n".join(lines) + "\n"


def _validation_line(runs: Sequence[Attributed]) -> str:
    """How many were right, and by cause."""
    spiked = [run for run in runs if run.validation_ranked]
    parts = [
        f"{cause} {sum(run.is_first_of_validation for run in own)} of {len(own)}"
        for cause in _CAUSES
        if (own := [run for run in spiked if run.causes == (cause,)])
    ]
    return f"{len(spiked)}, of which {sum(run.is_first_of_validation for run in spiked)} top 1 ({', '.join(parts)})."


def _line(name: str, runs: Sequence[Attributed]) -> str:
    scores = scores_of(runs)
    of = [
        f"{count} ({count / scores.spiked:.0%})" if scores.spiked else "0"
        for count in (scores.first, scores.among_two, scores.verified)
    ]
    return f"| {name} | {scores.runs} | {scores.spiked} | {' | '.join(of)} |"


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-cell", type=int, default=1)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", choices=("bench", "more", "all"), default="bench")
    parser.add_argument("--guarded", action="store_true", help="A SpikeGuard around the optimizer.")
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="Stop after the run that passes this.")
    parser.add_argument("--resume", action="store_true", help="Do not run again what causes.jsonl has.")
    parser.add_argument("--keep", type=pathlib.Path, help="Folder for the curves and replays of all runs.")
    parser.add_argument("--rank-again", type=pathlib.Path, help="Such a folder: nothing is trained.")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.rank_again:
        runs = [_ranked_again(path) for path in sorted(options.rank_again.glob(f"*/{_RUN_FILE}"))]
        planned = len(runs)
    else:
        family = list({"bench": FORMS, "more": MORE_FORMS, "all": ALL_FORMS}[options.forms])
        wanted = list(runs_of(None if options.full else options.per_cell, options.seed, family, options.guarded))
        planned, runs = len(wanted), _all_of(wanted, options)
    text = report(runs, time.monotonic() - started)
    text = f"{len(runs)} of {planned} planned runs.\n\n{text}"
    (options.out / "causes.json").write_text(json.dumps([dataclasses.asdict(run) for run in runs], indent=1))
    (options.out / "causes.md").write_text(text)
    Console(soft_wrap=True, highlight=False, markup=False).print(text)
    return text


def _all_of(wanted: Sequence[Run], options: Any) -> list[Attributed]:
    """Runs what is not in the file yet, in any order, so that a run that is stopped has something of everything."""
    path, started = options.out / "causes.jsonl", time.monotonic()
    if not options.resume:
        path.unlink(missing_ok=True)
    done = {_key(run): run for run in _read_outcomes(path)}

    def do(run: Run) -> None:
        if _key(run) in done:
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep / _name(run) if options.keep else pathlib.Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            found = train(run, folder, _twin_of(run, options.out))
            if not run.forms:
                curve = read_curve(folder)
                columns = {
                    name: getattr(curve, name) for name in ("step", "loss", "validation_step", "validation_loss")
                }
                np.savez(_twin_path(run, options.out), **columns)
            if options.keep:
                content = {**dataclasses.asdict(run), "fit_seconds": found.fit_seconds}
                (folder / _RUN_FILE).write_text(json.dumps(content))
        done[_key(run)] = found
        with path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(found)) + "\n")

    for place in np.random.default_rng(options.seed).permutation(len(wanted)):
        do(dataclasses.replace(wanted[place], forms=()))
        do(wanted[place])
        if time.monotonic() - started > options.most_seconds:
            break
    return [done[key] for run in wanted if (key := _key(run)) in done]


def _name(run: Run) -> str:
    return "-".join(map(str, _key(run)))


def _twin_path(run: Run, folder: pathlib.Path) -> pathlib.Path:
    return folder / f"{_name(dataclasses.replace(run, forms=()))}.npz"


def _twin_of(run: Run, folder: pathlib.Path) -> TrainingCurve | None:
    """Losses of the run's twin; None for a twin."""
    if not run.forms:
        return None
    with np.load(_twin_path(run, folder)) as columns:
        return TrainingCurve.from_columns(**columns)


def _ranked_again(path: pathlib.Path) -> Attributed:
    content = json.loads(path.read_text())
    seconds = content.pop("fit_seconds")
    run = _tuples(Run, content)
    twin = path.parent.parent / _name(dataclasses.replace(run, forms=()))
    found = attribute(run, path.parent, read_curve(twin) if run.forms else None)
    return dataclasses.replace(found, fit_seconds=seconds)


def _key(run: Run) -> tuple[Any, ...]:
    return run.data, run.model, run.optimizer, "+".join(run.forms) or "twin", run.seed, int(run.is_guarded)


def _read_outcomes(path: pathlib.Path) -> list[Attributed]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [_tuples(Attributed, json.loads(line)) for line in lines]


def _tuples(kind: Any, content: dict[str, Any]) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    if "ranked" in values:
        values["ranked"] = tuple(tuple(one) for one in values["ranked"])
    return kind(**values)


@pytest.mark.bench
def test_causes_bench() -> None:
    assert "one trouble" in main(["--per-cell", "1"])


def test_smoke_run_of_the_bench_names_a_jump(tmp_path: pathlib.Path) -> None:
    runs = [Run("synthetic", "dense", "sgd", ("rate_jump",), seed) for seed in (2, 3)]
    # As if the twin had been calm.
    calm = TrainingCurve.from_columns(loss=np.zeros(180), validation_step=range(1, 181), validation_loss=np.zeros(180))
    found = [train(run, tmp_path / str(run.seed), calm, steps=180) for run in runs]
    # Whether a jump of the rate raises the loss depends on the platform's rounding, too.
    run = next(run for run in found if run.spikes)
    assert run.is_among_two
    again = attribute(
        Run(*(getattr(run, field.name) for field in dataclasses.fields(Run))), tmp_path / str(run.seed), calm
    )
    assert again.ranked == run.ranked
    text = report([run, dataclasses.replace(run, forms=(), causes=())], 1.0)
    assert "| rate_jump | 1 | 1 |" in text
    assert "Twins: 1, 1 with a spike" in text


if __name__ == "__main__":
    main()
