"""The command line: `spikeguard explain PATH`."""

from __future__ import annotations

import pathlib
import shutil
import sys

import click

from spikeguard.components.errors import SpikeguardError

_EXIT_UNREADABLE, _EXIT_NOT_STABLE = 2, 3
_PLOT_MARGIN, _PLOT_COLUMNS = 14, 100


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spikeguard")
def main() -> None:
    """Why are there spikes in my loss curve?"""


@main.command()
@click.argument("path", type=click.Path(path_type=pathlib.Path))
@click.option(
    "--run", help="Name of the run, where PATH holds several. Without it all are judged and the worst is told of."
)
@click.option("--json", "json_file", metavar="FILE", help="Write the evaluation as JSON; - for standard output alone.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page that opens without a network.")
@click.option("--policy", "policy_file", metavar="FILE", help="JSON object of SpikePolicy's fields.")
def explain(
    path: pathlib.Path, run: str | None, json_file: str | None, html_file: str | None, policy_file: str | None
) -> None:
    """Finds the spikes of the training curve at PATH and judges it.

    PATH is a TensorBoard folder or event file, a CSV or JSONL log, a Hugging Face trainer_state.json, or what a
    CurveRecorder wrote. Exit status: 0 stable; 3 unstable, diverged or insufficient; 2 unreadable.
    """
    try:
        is_stable = _explain(path, run, json_file, html_file, policy_file)
    except SpikeguardError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}.")
    sys.exit(0 if is_stable else _EXIT_NOT_STABLE)


def _explain(
    path: pathlib.Path, run: str | None, json_file: str | None, html_file: str | None, policy_file: str | None
) -> bool:
    # Imported here, so that --help and a wrong option answer at once.
    from spikeguard.components.curve_readers.reading import read_curve, read_curves
    from spikeguard.components.spike_evaluator import page, result
    from spikeguard.components.spike_evaluator.causes.replays import read_replays
    from spikeguard.components.spike_evaluator.policy import SpikePolicy

    policy = SpikePolicy.from_json(pathlib.Path(policy_file).read_text(encoding="utf-8")) if policy_file else None
    curves = read_curves(path) if run is None else {run: read_curve(path, run)}
    evaluation = result.evaluate_runs(curves, policy=policy)
    evaluation = result.with_causes(evaluation, *read_replays(path / evaluation.run))
    if html_file:
        pathlib.Path(html_file).write_text(page.page(evaluation, str(path)), encoding="utf-8")
    if json_file and json_file != "-":
        pathlib.Path(json_file).write_text(result.to_text(evaluation), encoding="utf-8")
    if json_file == "-":
        click.echo(result.to_text(evaluation), nl=False)
    else:
        columns = min(_PLOT_COLUMNS, shutil.get_terminal_size().columns - _PLOT_MARGIN)
        text = page.summary(evaluation, str(path), max(10, columns))
        # A terminal that cannot show the plot's dots still gets the words.
        encoding = sys.stdout.encoding or "utf-8"
        click.echo(text.encode(encoding, errors="replace").decode(encoding))
    return evaluation.is_blessed


def _fail(message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(_EXIT_UNREADABLE)
