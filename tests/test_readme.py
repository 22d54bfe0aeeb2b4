"""What the README shows is executed elsewhere in the tests, or by CI itself; here nothing of it may be forgotten."""

from __future__ import annotations

import ast
import pathlib
import re

import spikeguard

from .e2e.conftest import readme_commands

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_executed() -> None:
    main_job, naive_job, own_data, test_suite = readme_commands()
    assert main_job == "python3 -m pip install uv && python3 -m uv run local_runner.py"  # the fixture main_job
    assert naive_job.endswith("--recipe naive")  # the fixture naive_job
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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
