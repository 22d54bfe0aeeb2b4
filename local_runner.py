"""Runs the default spikeguard pipeline on this machine: data in, a judged model out.

    python3 -m uv run local_runner.py                      # flights of January, guarded recipe
    python3 -m uv run local_runner.py --recipe naive       # what makes a curve spike; its push is blocked
    python3 -m uv run local_runner.py --data my.csv --label price --task regression

Exit status: 0 pushed, 3 not pushed, 2 wrong usage or unusable data, 1 failure.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Console

from spikeguard.components.errors import InvalidArgumentError, PipelineFailedError, SpikeguardError

if TYPE_CHECKING:
    from spikeguard.components.guarded_trainer.recipe import Balance, Task
    from spikeguard.components.outlier_detector.config import Treatment
    from spikeguard.pipelines.config import PipelineConfig
    from spikeguard.pipelines.run_result import RunResult

PUSHED, FAILED, WRONG_USAGE, NOT_PUSHED = 0, 1, 2, 3

FLIGHTS_TASKS: dict[str, Task] = {"delay": "regression", "cancelled": "classification"}
DATA_TASKS = ("regression", "classification")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data", type=click.Path(), help="A CSV file, or a folder of CSV files. Default: New York's flights of 2013."
)
@click.option("--label", help="Label column of --data.")
@click.option("--task", help="delay or cancelled (flights); regression or classification (--data). Default: delay.")
@click.option("--schema", type=click.Path(), help="TFDV schema text proto of --data. Default: inferred.")
@click.option("--months", help="Months of flights, such as 1, 1-3 or 1-12. Default: 1.")
@click.option(
    "--recipe", type=click.Choice(["guarded", "naive"]), default="guarded", show_default=True, help="How to train."
)
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "batches"]),
    default="none",
    show_default=True,
    help="What evens out the classes: weights of their losses, or batches of constant composition.",
)
@click.option(
    "--output", type=click.Path(), default="spikeguard_output", show_default=True, help="Folder for all results."
)
@click.option(
    "--outliers",
    type=click.Choice(["none", "flag", "drop", "downweight", "winsorize"]),
    default="flag",
    show_default=True,
    help="What becomes of outliers of train.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps. Default: 1000.")
@click.option(
    "--beam-arg",
    "beam_args",
    multiple=True,
    metavar="ARG",
    help="Beam pipeline argument, such as --beam-arg=--direct_num_workers=2. Repeatable.",
)
@click.option(
    "--apply-advice",
    is_flag=True,
    help="Where the curve has spikes, run again with what is advised against their causes, and show both curves.",
)
@click.option("--no-cache", is_flag=True, help="Run every step again.")
def command(
    data: str | None,
    label: str | None,
    task: str | None,
    schema: str | None,
    months: str | None,
    recipe: str,
    balance: str,
    output: str,
    outliers: str,
    steps: int | None,
    beam_args: tuple[str, ...],
    apply_advice: bool,
    no_cache: bool,
) -> int:
    """Trains on CSV data with TFX, judges the true loss curve, and pushes the model only when the curve is stable.

    Exit status: 0 pushed, 3 not pushed, 2 wrong usage or unusable data, 1 failure.
    """
    wrong = [arg for arg in beam_args if not arg.startswith("--")]
    if wrong:
        raise InvalidArgumentError("beam-arg", wrong[0], "start with --", "Write --beam-arg=--name=value.")
    if balance != "none" and FLIGHTS_TASKS.get(task or "delay", task) == "regression":
        raise InvalidArgumentError("balance", balance, "be none for a regression, which has no classes")
    if data is None:
        config = _flights_config(label, task or "delay", schema, months, recipe, output)
    else:
        config = _data_config(data, label, task, schema, months, recipe, output)
    config = _with_options(config, steps, outliers, balance, beam_args, no_cache)
    return run_with_advice(config) if apply_advice else run(config)


def _flights_config(
    label: str | None, task: str, schema: str | None, months: str | None, recipe: str, output: str
) -> PipelineConfig:
    from spikeguard.pipelines import flights

    if task not in FLIGHTS_TASKS:
        raise InvalidArgumentError(
            "task", task, f"be one of {', '.join(FLIGHTS_TASKS)} for the flights", "Give --data for other data."
        )
    for name, value in (("label", label), ("schema", schema)):
        if value is not None:
            raise InvalidArgumentError(name, value, "come with --data", "The flights have their own.")
    chosen = flights.parse_months(months or "1")
    _check_output(output)
    csv = flights.write_csv(task, chosen, os.path.join(output, "data"))
    from spikeguard.schemas import schema_path

    return _config(
        str(csv), flights.LABEL_OF_TASK[task], FLIGHTS_TASKS[task], schema_path(f"flights_{task}"), recipe, output
    )


def _data_config(
    data: str, label: str | None, task: str | None, schema: str | None, months: str | None, recipe: str, output: str
) -> PipelineConfig:
    if label is None:
        raise InvalidArgumentError("label", None, "be given with --data", "Give --label NAME, the column to predict.")
    if task not in DATA_TASKS:
        raise InvalidArgumentError("task", task, f"be one of {', '.join(DATA_TASKS)} with --data", "Give --task.")
    if months is not None:
        raise InvalidArgumentError("months", months, "come without --data", "It chooses among the flights.")
    config = _config(data, label, cast("Task", task), schema, recipe, output)
    _check_output(output)
    return config


def _config(data: str, label: str, task: Task, schema: str | None, recipe: str, output: str) -> PipelineConfig:
    from spikeguard.components.guarded_trainer import recipe as recipes
    from spikeguard.pipelines.config import PipelineConfig, read_schema
    from spikeguard.pipelines.csv_data import inspect_csv

    if schema is not None and label not in {feature.name for feature in read_schema(schema).feature}:
        raise InvalidArgumentError("schema", schema, f"declare the label {label!r}", "Add it as a feature.")
    return PipelineConfig(
        output=output,
        data=inspect_csv(data, label, task),
        label=label,
        task=task,
        recipe=getattr(recipes, recipe)(task),
        normalize=recipe == "guarded",
        schema_path=schema and os.path.abspath(schema),
    )


def _check_output(output: str) -> None:
    try:
        os.makedirs(output, exist_ok=True)
        probe = os.path.join(output, ".writable")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise InvalidArgumentError(
            "output", output, f"be a folder that can be written ({error.strerror})", "Choose another --output."
        ) from error


def _with_options(
    config: PipelineConfig, steps: int | None, outliers: str, balance: str, beam_args: tuple[str, ...], no_cache: bool
) -> PipelineConfig:
    from spikeguard.pipelines.config import beam_args_with

    recipe = dataclasses.replace(config.recipe, steps=steps) if steps else config.recipe
    recipe = dataclasses.replace(recipe, balance=cast("Balance", balance))
    return dataclasses.replace(
        config,
        recipe=recipe,
        outliers=None if outliers == "none" else cast("Treatment", outliers),
        beam_args=beam_args_with(beam_args),
        is_cached=not no_cache,
    )


def run(config: PipelineConfig) -> int:
    """Runs the pipeline, prints the summary and returns the exit status."""
    from spikeguard.pipelines.local_run import run_locally

    result = run_locally(config)
    _print_summary(config, result)
    return PUSHED if result.pushed_to else NOT_PUSHED


def run_with_advice(config: PipelineConfig) -> int:
    """Runs the pipeline, and where its curve has spikes once more with the advice against their causes.

    Prints both summaries, the changes and both curves; returns the exit status of the last run.
    """
    from spikeguard.components.spike_evaluator.advice import advise
    from spikeguard.pipelines.advised import advised
    from spikeguard.pipelines.local_run import run_locally

    before = run_locally(config)
    _print_summary(config, before)
    changes = advise(before.evaluation) if before.evaluation is not None else ()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not changes:
        reason = "nothing was trained" if before.evaluation is None else "the curve has no spikes"
        console.print(f"\nNothing is advised: {reason}.")
        return PUSHED if before.pushed_to else NOT_PUSHED
    config, left = advised(config, changes)
    console.print("\nAdvised, and applied in a second run:")
    for number, change in enumerate(changes, 1):
        spikes = f" ({change.cause.replace('_', ' ')}: {change.spikes} of the spikes, {change.verified} verified)"
        console.print(f"  {number}. {change.text}{spikes if change.spikes else ''}")
    for sentence in left:
        console.print(f"  not applied: {sentence}")
    after = run_locally(config)
    _print_summary(config, after)
    if after.evaluation is None:
        return NOT_PUSHED
    for name, result in (("before", before), ("after", after)):
        console.print(f"\n{name}:\n{_drawn(result)}")
    count = len(after.evaluation["spikes"])
    steps = ", ".join(str(spike["peak_step"]) for spike in after.evaluation["spikes"][:10])
    console.print(f"\nSpikes left: {count}, at step {steps}." if count else "\nThe spikes are gone.")
    return PUSHED if after.pushed_to else NOT_PUSHED


def _drawn(result: RunResult) -> str:
    from spikeguard.components.curve_readers.reading import read_curve
    from spikeguard.components.spike_evaluator.plot import terminal_plot
    from spikeguard.components.spike_evaluator.result import evaluate

    return terminal_plot(evaluate(read_curve(result.artifacts["curve"])), 86)


def _print_summary(config: PipelineConfig, result: RunResult) -> None:
    rows = [
        *_curve_rows(config, result),
        ("data", "; ".join(result.anomalies) or "as the schema says"),
        *((("classes", result.classes),) if result.classes else ()),
        ("outliers", result.outliers or "not looked for"),
        ("scaling", _scaling_text(result.normalization)),
        ("pushed", result.pushed_to or f"no: {result.blocked_by}"),
        *result.artifacts.items(),
        ("log", os.path.join(os.path.abspath(config.output), "run.log")),
    ]
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print()
    for line in _aligned(rows):
        console.print(line)


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:>{width}}  {text}" for name, text in rows]


def _curve_rows(config: PipelineConfig, result: RunResult) -> list[tuple[str, str]]:
    evaluation = result.evaluation
    if evaluation is None:
        return [("verdict", "nothing was trained")]
    spikes = evaluation["spikes"]
    highest = max(spikes, key=lambda spike: spike["height"], default=None)
    causes = _cause_of(highest or evaluation["course"])
    spikes_text = str(len(spikes))
    if highest:
        spikes_text += f", the highest at step {highest['peak_step']}: loss {highest['loss_at_peak']:.4g} where {highest['expected_loss']:.4g} was expected"
    points = evaluation["curve"]["points"] if evaluation["curve"] else 0
    return [
        ("verdict", f"{evaluation['verdict']} over {points} steps"),
        ("spikes", spikes_text),
        *(("cause", line) for line in causes),
        ("guard", f"intervened in {result.interventions} steps" if config.recipe.is_guarded else "off"),
        *(("recipe", warning) for warning in result.warnings),
    ]


def _scaling_text(normalization: dict[str, Any]) -> str:
    """What NormalizationValidator found, in one line: its verdict, and the features that it warns of."""
    warned = [
        feature["name"]
        for feature in normalization["features"]
        if any(check["severity"] == "WARNING" for check in feature["checks"])
    ]
    text = {
        "proven": "every constant that is fitted comes from the train split alone",
        "undecidable": "no constant is known to come from other rows than the train split's",
        "refuted": "not sound",
        "failed": "could not be validated",
    }[normalization["verdict"]]
    return text + (f"; warnings for {', '.join(warned)}" if warned else "")


def _cause_of(spike: dict[str, Any] | None) -> list[str]:
    """The first cause of a spike in a line; none where none was sought."""
    first = spike["causes"][0] if spike and spike["causes"] else None
    return [f"{first['status']}: {first['cause'].replace('_', ' ')}, {first['text']}"] if first else []


def main(args: list[str] | None = None) -> int:
    """Parses the flags and runs; every error that a person can mend is one line on standard error.

    Args:
      args: the command line without the program's name; `sys.argv` where None.

    Returns:
      The exit status.
    """
    try:
        status = command.main(args, prog_name="local_runner.py", standalone_mode=False)
        return int(status)
    except click.ClickException as error:
        message, status = error.format_message(), WRONG_USAGE
    except PipelineFailedError as error:
        message, status = str(error), FAILED
    except SpikeguardError as error:
        message, status = str(error), WRONG_USAGE
    except (KeyboardInterrupt, click.Abort):
        message, status = "interrupted; a second run goes on from the last finished step", FAILED
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorFlow's teardown prints tracebacks that mean nothing; all that matters has been said.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(exit_status)
