"""The command line as people call it: in a process of its own where the start matters, else through click."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner, Result

from spikeguard.cli import main
from spikeguard.components.training_curve import Floats


def _calm(n: int = 1000) -> Floats:
    return 1 + 3 * np.exp(-np.arange(n) / 100) + 0.05 * np.random.default_rng(0).normal(size=n)


def _log(tmp_path: pathlib.Path, loss: Floats, name: str = "log.csv") -> str:
    path = tmp_path / name
    path.write_text("step,loss\n" + "".join(f"{step},{value!r}\n" for step, value in enumerate(loss.tolist(), 1)))
    return str(path)


def _spiky() -> Floats:
    loss = _calm()
    loss[900] += 2.0
    return loss


def _explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_calm_curve_exits_with_zero(tmp_path: pathlib.Path) -> None:
    result = _explain(_log(tmp_path, _calm()))
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"stable: {tmp_path}/log.csv\n")
    assert "1,000 steps, losses of single batches" in result.output


def test_spiky_curve_is_explained_in_words_and_a_plot(tmp_path: pathlib.Path) -> None:
    result = _explain(_log(tmp_path, _spiky()))
    assert result.exit_code == 3
    assert "  - 1 spike in the last 20% of the run, the last at step 901\n" in result.output
    assert "step 901: 2.9" in result.output
    (marks,) = [line for line in result.output.splitlines() if "▲" in line]
    drawn = next(line for line in result.output.splitlines() if "┤" in line)
    assert marks.index("▲") == pytest.approx(13 + 0.9 * (len(drawn) - 13), abs=2)


def test_json_on_standard_output_is_nothing_else(tmp_path: pathlib.Path) -> None:
    result = _explain(_log(tmp_path, _spiky()), "--json", "-")
    content = json.loads(result.stdout)
    assert content["format"] == "spikeguard.spike_evaluation/1"
    assert content["verdict"] == "unstable"
    (spike,) = content["spikes"]
    assert (spike["start_step"], spike["peak_step"], spike["end_step"], spike["recovered"]) == (901, 901, 901, True)
    assert [cause["cause"] for cause in spike["causes"]] == ["unknown", "outliers", "learning_rate"]


def test_files_are_written_beside_the_text(tmp_path: pathlib.Path) -> None:
    data, page = tmp_path / "a.json", tmp_path / "a.html"
    result = _explain(_log(tmp_path, _spiky(), "<b>.csv"), "--json", str(data), "--html", str(page))
    assert result.exit_code == 3
    assert json.loads(data.read_text())["verdict"] == "unstable"
    text = page.read_text()
    assert "&lt;b&gt;.csv" in text
    assert "<b>" not in text
    assert text.count('<circle class="spike"') == 1
    assert "This training run was unstable: 1 spike in the last 20% of the run" in text
    # Sections without data are absent.
    assert re.findall("<h2>(.*?)</h2>", text) == ["Training curve", "Spikes", "What to do"]


def test_policy_of_a_file_is_used(tmp_path: pathlib.Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"calm_tail": 0.05, "max_height": 1000}')
    assert _explain(_log(tmp_path, _spiky()), "--policy", str(policy)).exit_code == 0
    policy.write_text('{"calm": 0.05}')
    result = _explain(_log(tmp_path, _spiky()), "--policy", str(policy))
    assert result.exit_code == 2
    assert "policy must have no other fields; got 'calm'" in result.stderr if result.stderr_bytes else result.output


def test_worst_run_of_a_folder_is_told_of_and_each_can_be_named(tmp_path: pathlib.Path) -> None:
    _log(tmp_path, _calm(), "a.csv")
    _log(tmp_path, _spiky(), "b.csv")
    result = _explain(str(tmp_path))
    assert result.exit_code == 3
    assert result.output.startswith(f"unstable: {tmp_path}, run b\n")
    assert "runs: a stable, b unstable" in result.output
    assert _explain(str(tmp_path), "--run", "a").exit_code == 0
    result = _explain(str(tmp_path), "--run", "c")
    assert result.exit_code == 2
    assert "holds no training curve 'c'" in result.output


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", 2, "is empty"),
        ("step,loss\n", 2, "holds no training"),
        ("step,loss\n1,0.5\n", 3, "insufficient: "),
        ("step,loss\n" + "1,nan\n" * 30, 3, "no loss of the curve is finite"),
        ("step,loss\n" + "1,abc\n2,0.4\n" * 30, 2, "line 2"),
        ("time,accuracy\n1,0.5\n", 2, "has no loss column"),
        ("\x00\x01\x02", 2, "is a binary file"),
    ],
    ids=["empty", "header only", "one point", "all nan", "text", "no loss", "binary"],
)
def test_bad_file_gets_one_clear_line(tmp_path: pathlib.Path, text: str, code: int, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    result = _explain(str(path))
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    if code == 2:
        assert result.output.startswith("Error: ")
        assert result.output.count("\n") == 1


def test_missing_path_and_missing_folder_for_the_output_are_named(tmp_path: pathlib.Path) -> None:
    result = _explain(str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "none: does not exist" in result.output
    result = _explain(_log(tmp_path, _calm()), "--json", str(tmp_path / "no" / "a.json"))
    assert result.exit_code == 2
    assert "no/a.json: No such file or directory." in result.output


@pytest.mark.parametrize("with_page", [False, True])
def test_start_needs_neither_tensorflow_nor_tfx_and_no_utf8_terminal(tmp_path: pathlib.Path, with_page: bool) -> None:
    unwanted = {"tensorflow", "tfx", "apache_beam", "keras", "pandas", "scipy", "pyarrow"}
    unwanted |= set() if with_page else {"jinja2", "tensorflow_metadata"}
    code = (
        "import sys\nfrom spikeguard.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as done:\n    status = done.code\n"
        f"heavy = {unwanted} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)"
    )
    page = tmp_path / "page.html"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "explain",
            _log(tmp_path, _spiky()),
            *(["--html", str(page)] if with_page else []),
        ],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert b"1 spike in the last 20% of the run" in done.stdout
    assert page.exists() == with_page


def test_runs_and_logs_are_compared(tmp_path: pathlib.Path) -> None:
    calm, wild = _log(tmp_path, _calm(), "calm.csv"), _log(tmp_path, _spiky(), "wild.csv")
    page = tmp_path / "both.html"
    result = CliRunner().invoke(main, ["compare", calm, wild, "--html", str(page)])
    assert result.exit_code == 3, result.output
    assert result.output.startswith("B is less stable than A: it is unstable where A is stable.\n")
    assert "What differs in the recipe" not in page.read_text()
    assert page.read_text().count('<path class="run') == 2
    result = CliRunner().invoke(main, ["compare", wild, calm])
    assert result.exit_code == 0
    assert result.output.startswith("B is more stable than A")
    result = CliRunner().invoke(main, ["compare", calm, str(tmp_path / "none.csv")])
    assert result.exit_code == 2
    assert "none.csv: does not exist" in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no metadata.sqlite. Give the output folder of local_runner.py."),
        (b"no database", "cannot be read"),
    ],
)
def test_folder_without_a_run_is_named(tmp_path: pathlib.Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metadata.sqlite").write_bytes(content)
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.startswith("Error: ")
    assert not (tmp_path / "report.html").exists()
