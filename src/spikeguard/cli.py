"""The command line: `spikeguard explain PATH`, `spikeguard report RUN_DIR`, `spikeguard compare A B`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from spikeguard.components.errors import SpikeguardError

if TYPE_CHECKING:
    from spikeguard.components.stability_report.content import ReportContent

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
    from spikeguard.components.spike_evaluator import result
    from spikeguard.components.spike_evaluator.causes.replays import read_replays
    from spikeguard.components.spike_evaluator.policy import SpikePolicy
    from spikeguard.components.spike_evaluator.summary import summary

    policy = SpikePolicy.from_json(pathlib.Path(policy_file).read_text(encoding="utf-8")) if policy_file else None
    curves = read_curves(path) if run is None else {run: read_curve(path, run)}
    evaluation = result.evaluate_runs(curves, policy=policy)
    evaluation = result.with_causes(evaluation, *read_replays(path / evaluation.run))
    if html_file:
        from spikeguard.components.stability_report.collecting import content_of_log
        from spikeguard.components.stability_report.report import Report, title_of

        page = Report(content_of_log(evaluation, title_of(path))).html
        pathlib.Path(html_file).write_text(page, encoding="utf-8")
    if json_file and json_file != "-":
        pathlib.Path(json_file).write_text(result.to_text(evaluation), encoding="utf-8")
    if json_file == "-":
        click.echo(result.to_text(evaluation), nl=False)
    else:
        columns = min(_PLOT_COLUMNS, shutil.get_terminal_size().columns - _PLOT_MARGIN)
        text = summary(evaluation, str(path), max(10, columns))
        _show(text)
    return evaluation.is_blessed


@main.command()
@click.argument("run_dir", type=click.Path(path_type=pathlib.Path))
@click.option("--html", "html_file", metavar="FILE", help="Where the page goes. Default: RUN_DIR/report.html.")
@click.option("--open", "is_opened", is_flag=True, help="Open the page in a browser.")
def report(run_dir: pathlib.Path, html_file: str | None, is_opened: bool) -> None:
    """Makes the report on the last run in RUN_DIR, the output folder of local_runner.py.

    Exit status: 0 written; 2 unreadable.
    """
    try:
        from spikeguard.pipelines.run_report import report_on

        target = pathlib.Path(html_file) if html_file else run_dir / "report.html"
        with _quiet():
            made = report_on(run_dir)
        target.write_text(made.html, encoding="utf-8")
    except SpikeguardError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}.")
    _show(f"{made.content.sentence}\n{target}")
    if is_opened and click.launch(str(target.resolve())):
        _fail(f"{target}: no browser could be started. Open the file yourself.")


@main.command()
@click.argument("a", type=click.Path(path_type=pathlib.Path))
@click.argument("b", type=click.Path(path_type=pathlib.Path))
@click.option("--html", "html_file", metavar="FILE", help="Write a page that shows both curves.")
def compare(a: pathlib.Path, b: pathlib.Path, html_file: str | None) -> None:
    """Puts two runs side by side; each is a log as `explain` takes it, or an output folder of local_runner.py.

    Exit status: 0 B is as stable as A, or more; 3 B is less stable; 2 unreadable.
    """
    try:
        from spikeguard.components.stability_report.comparison import Comparison, text_of

        with _quiet():
            comparison = Comparison(_content_of(a), _content_of(b))
        if html_file:
            from spikeguard.components.stability_report.comparison_page import render_comparison

            pathlib.Path(html_file).write_text(render_comparison(comparison), encoding="utf-8")
    except SpikeguardError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}.")
    _show(text_of(comparison, shutil.get_terminal_size().columns))
    sys.exit(_EXIT_NOT_STABLE if comparison.is_worse else 0)


def _content_of(path: pathlib.Path) -> ReportContent:
    if (path / "metadata.sqlite").is_file():
        from spikeguard.pipelines.run_report import report_on

        content = report_on(path).content
        return dataclasses.replace(content, title=f"{content.title} ({path})")
    from spikeguard.components.stability_report.report import explain as explain_log

    return explain_log(path).content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What TensorFlow and the Google clients have to say of themselves is no part of the answer."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _show(text: str) -> None:
    # A terminal that cannot show the plot's dots still gets the words.
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, errors="replace").decode(encoding))


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(_EXIT_UNREADABLE)
