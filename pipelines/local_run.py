"""Runs the default pipeline in this process and tells what came of it."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import pathlib
import warnings

from rich.console import Console

from spikeguard.components.errors import InvalidDataError, PipelineFailedError, SpikeguardError
from spikeguard.pipelines.config import PipelineConfig, snapshot_schema
from spikeguard.pipelines.metadata import latest_outputs
from spikeguard.pipelines.progress import Progress, follow, output_to_log
from spikeguard.pipelines.run_result import RunResult, read_run_result


def run_locally(config: PipelineConfig) -> RunResult:
    """Runs every node on this machine, showing progress on standard output.

    What the platform prints goes to `<output>/run.log`.

    Raises:
      SpikeguardError: a component refused its input.
      PipelineFailedError: a node failed otherwise.
    """
    if config.schema_path is not None:
        config = dataclasses.replace(config, schema_path=snapshot_schema(config.schema_path, config.output))
    log_path = os.path.join(os.path.abspath(config.output), "run.log")
    with output_to_log(log_path) as screen:
        console = Console(file=screen)
        if not console.is_terminal:
            # Plain lines are for logs and pipes: one event a line, whatever the width.
            console = Console(file=screen, width=1000)
        console.print("Loading TensorFlow and TFX ...", highlight=False)
        node = "the pipeline"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from spikeguard.pipelines.observed_runner import ObservedRunner
                from spikeguard.pipelines.pipeline import create_pipeline

                pipeline = create_pipeline(config)
                progress = Progress([component.id for component in pipeline.components], console)
                check = functools.partial(_check_splits, config)
                with follow(progress, console):
                    try:
                        ObservedRunner(progress, config.metadata_path, check).run(pipeline)
                    finally:
                        node = progress.running or node
            return read_run_result(config.metadata_path, config.pipeline_name)
        except SpikeguardError:
            raise
        except Exception as error:
            import traceback

            traceback.print_exc()  # Into the log.
            cause = " ".join(str(error).split())
            raise PipelineFailedError(node, f"{type(error).__name__}: {cause[:300]}", log_path) from error


def _check_splits(config: PipelineConfig, node: str) -> None:
    """Ends the run after ExampleGen where a split came out empty: later nodes fail on it with errors about something else."""
    if node != "CsvExampleGen":
        return
    examples = pathlib.Path(latest_outputs(config.metadata_path, config.pipeline_name)["examples", node].uri)
    for split in ("train", "eval"):
        if not any(map(_has_data, (examples / f"Split-{split}").iterdir())):
            raise InvalidDataError(
                f"split {split!r}",
                "has no rows",
                "Rows are dealt to the splits by their content: give more different rows.",
            )


def _has_data(gzipped: pathlib.Path) -> bool:
    with gzip.open(gzipped) as file:
        return bool(file.read(1))
