from __future__ import annotations

import io
import logging
import os
import pathlib
import subprocess
import sys

from rich.console import Console

from spikeguard.pipelines.progress import Progress, follow


def _console(is_terminal: bool) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, width=100, force_terminal=is_terminal), screen


def _run(progress: Progress, console: Console) -> None:
    logger = logging.getLogger("spikeguard.components.guarded_trainer")
    with follow(progress, console):
        progress.start("Gen")
        progress.finish("Gen", "cached")
        progress.start("Trainer")
        logger.info("Training", extra={"spikeguard_steps": 100})
        logger.info("step", extra={"spikeguard_step": 50, "spikeguard_loss": 0.25})
        assert progress.running == "Trainer"
        progress.finish("Trainer", "done")
    assert progress.running is None


def test_plain_lines_when_not_a_terminal() -> None:
    console, screen = _console(is_terminal=False)
    _run(Progress(["Gen", "Trainer"], console), console)
    lines = screen.getvalue().splitlines()
    assert lines[0] == "Gen ..."
    assert lines[1].startswith("Gen cached in ")
    assert lines[3] == "Trainer step 50/100  loss 0.25"
    assert lines[4].startswith("Trainer done in ")


def test_live_table_when_a_terminal() -> None:
    console, screen = _console(is_terminal=True)
    _run(Progress(["Gen", "Trainer", "Pusher"], console), console)
    text = screen.getvalue()
    assert "Trainer" in text
    assert "step 50/100  loss 0.25" in text
    assert "Pusher" in text
    assert "Gen cached in" not in text


def test_nothing_of_the_handler_stays_behind() -> None:
    logger = logging.getLogger("spikeguard")
    before = logger.level, list(logger.handlers)
    console, _ = _console(is_terminal=False)
    _run(Progress(["Gen", "Trainer"], console), console)
    assert (logger.level, logger.handlers) == before


_NOISY = """
import os, sys
from spikeguard.pipelines.progress import output_to_log
with output_to_log(sys.argv[1]) as screen:
    print("python noise"); os.write(2, b"native noise\\n"); os.system("echo child noise")
    print("shown", file=screen)
print("after")
"""


def test_all_noise_goes_to_the_log_and_the_rest_to_the_screen(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "deep" / "run.log"
    command = [sys.executable, "-c", _NOISY, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout == "shown\nafter\n"
    assert done.stderr == ""
    assert sorted(log.read_text().splitlines()) == ["child noise", "native noise", "python noise"]


def test_screen_comes_back_when_the_block_fails(tmp_path: pathlib.Path) -> None:
    code = "import atexit; atexit.register(print, 'back')" + _NOISY.replace(
        'print("shown", file=screen)', "raise SystemExit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stdout == "back\n"
