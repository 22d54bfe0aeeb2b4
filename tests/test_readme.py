"""What the README shows is executed elsewhere in the tests, or by CI itself; here nothing of it may be forgotten."""

from __future__ import annotations

import ast
import pathlib
import re
import types

import keras
import numpy as np
import tensorflow as tf

import spikeguard

from .e2e.conftest import readme_commands

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_executed() -> None:
    main_job, naive_job, explanation, own_data, test_suite = readme_commands()
    assert main_job == "python3 -m pip install uv && python3 -m uv run local_runner.py"  # the fixture main_job
    assert naive_job.endswith("--recipe naive")  # the fixture naive_job
    assert explanation.endswith("spikeguard explain my_log.csv")  # test_own_data
    assert "--data my.csv" in own_data  # the fixture wine_job
    assert test_suite in (ROOT / ".ci" / "run").read_text().splitlines()


def test_code_uses_public_names() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    used = set()
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spikeguard":
                used.add(node.attr)
    assert used
    assert used <= set(spikeguard.__all__)


def test_training_code_runs(tmp_path: pathlib.Path) -> None:
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "SpikeGuard" in code]
    x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
    x[40] = np.nan
    labels = np.random.default_rng(1).normal(size=320).astype("float32")
    given = {
        "spikeguard": spikeguard,
        "keras": keras,
        "model": keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]),
        "train_batches": tf.data.Dataset.from_tensor_slices((x, labels)).batch(32),
        "train_labels": labels,
        "steps": 20,
        "epochs": 2,
        "fn_args": types.SimpleNamespace(model_run_dir=tmp_path),
    }
    exec(block, given)
    curve = spikeguard.read_curve(tmp_path)
    assert len(curve) == 20
    assert (
        [event.step for event in given["optimizer"].events()] == curve.step[curve.guard_action > 0].tolist() == [2, 12]
    )


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
