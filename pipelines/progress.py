"""Shows a pipeline run as it goes: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Literal, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

State = Literal["waiting", "running", "done", "cached", "skipped"]

_MARKS: dict[State, str] = {"waiting": "·", "running": "▶", "done": "✔", "cached": "↻", "skipped": "-"}


@dataclasses.dataclass
class _Node:
    name: str
    state: State = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    note: str = ""


class Progress(logging.Handler):
    """The state of a run: told of each node by the runner, of training steps by the log.

    A trainer reports on the logger `spikeguard`, with the record attributes `spikeguard_steps` (total, once) and
    `spikeguard_step`, `spikeguard_loss` (as it goes). Show the progress with `follow`.
    """

    def __init__(self, names: list[str], console: Console) -> None:
        super().__init__(logging.INFO)
        self._nodes = {name: _Node(name) for name in names}
        self._console = console
        self._steps = 0
        self._running: _Node | None = None

    @property
    def running(self) -> str | None:
        """Name of the node that is running."""
        return self._running.name if self._running else None

    def start(self, name: str) -> None:
        """A node begins."""
        self._running = self._nodes[name]
        self._running.state, self._running.started = "running", time.monotonic()
        self._line(f"{name} ...")

    def finish(self, name: str, state: State) -> None:
        """A node has ended as `done`, `cached` or `skipped`."""
        node, self._running = self._nodes[name], None
        node.state, node.seconds = state, time.monotonic() - node.started
        self._line(f"{name} {state} in {node.seconds:.1f} s")

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "spikeguard_steps"):
            self._steps = record.spikeguard_steps
        if hasattr(record, "spikeguard_step"):
            self._on_step(record.spikeguard_step, getattr(record, "spikeguard_loss", float("nan")))

    def _on_step(self, step: int, loss: float) -> None:
        if self._running:
            self._running.note = f"step {step}/{self._steps or '?'}  loss {loss:.4g}"
            self._line(f"{self._running.name} {self._running.note}")

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False)

    def __rich__(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1))
        for node in self._nodes.values():
            seconds = time.monotonic() - node.started if node.state == "running" else node.seconds
            clock = f"{seconds:.1f} s" if node.state in ("running", "done", "cached") else ""
            note = node.note or (node.state if node.state in ("cached", "skipped") else "")
            style = {"running": "bold cyan", "waiting": "dim", "skipped": "dim"}.get(node.state, "")
            table.add_row(_MARKS[node.state], node.name, clock, note, style=style)
        return table


@contextlib.contextmanager
def follow(progress: Progress, console: Console) -> Iterator[None]:
    """Shows the progress while the block runs."""
    logger = logging.getLogger("spikeguard")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(progress)
    try:
        if console.is_terminal:
            with Live(progress, console=console, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False):
                yield
        else:
            yield
    finally:
        logger.removeHandler(progress)
        logger.setLevel(level)


@contextlib.contextmanager
def output_to_log(path: str) -> Iterator[TextIO]:
    """Sends all that this process prints into a log file, and yields the true standard output.

    TensorFlow, Beam and the Google clients print from C++, from Python and from warnings; below them all are the two file
    descriptors, so it is these that move.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with os.fdopen(os.dup(saved[0]), "w", encoding="utf-8", errors="replace") as screen:
            yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        os.close(saved[0])
        os.close(saved[1])
