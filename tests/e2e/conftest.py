"""Pipeline runs that the tests share: each is minutes of work, so each happens once."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished command."""

    status: int
    output: str
    errors: str
    folder: pathlib.Path
    """The output folder."""

    def artifact(self, node: str, key: str) -> pathlib.Path:
        """Folder of a node's newest artifact."""
        folders = list(self.folder.glob(f"pipelines/*/{node}/{key}/*"))
        return max(folders, key=lambda folder: int(folder.name))

    @property
    def pushed(self) -> list[pathlib.Path]:
        """Folders of all models pushed so far, of the main job's problem."""
        return sorted(self.folder.glob("pushed/spikeguard-regression-*/*"))

    @property
    def pushed_to(self) -> str:
        """Where the summary says that the model went."""
        (line,) = [line for line in self.output.splitlines() if line.split()[:1] == ["pushed"]]
        return line.split(maxsplit=1)[1]


def readme_commands() -> list[str]:
    """Every shell command of the README, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def _environment() -> dict[str, str]:
    """As a newcomer's shell, but with the environment under test in place of a fresh one."""
    outer = [part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(sys.prefix)]
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return {
        **kept,
        "PATH": os.pathsep.join(outer),
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "UV_PYTHON": sys.executable,
        "UV_NO_SYNC": "1",
        # What pip has to say is not under test.
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_QUIET": "1",
    }


def shell(command: str, folder: pathlib.Path) -> Run:
    """Runs a README command, to the letter, in a clone."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=1800
    )
    return Run(done.returncode, done.stdout, done.stderr, folder / "spikeguard_output")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the files that a newcomer clones."""
    target = tmp_path_factory.mktemp("clone") / "spikeguard"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


@pytest.fixture(scope="session")
def main_job(clone: pathlib.Path) -> Run:
    """The README's first command: flights of January, guarded."""
    return shell(readme_commands()[0], clone)


@pytest.fixture(scope="session")
def naive_job(clone: pathlib.Path, main_job: Run) -> Run:
    """The README's second command, in the same output folder."""
    assert main_job.status == 0, main_job.errors
    return shell(readme_commands()[1], clone)
