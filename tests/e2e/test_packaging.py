"""Wheel, source distribution and editable install, each built from a clean copy."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

pytestmark = pytest.mark.e2e

CHECK = """
import pathlib, sys, spikeguard
from spikeguard.schemas import schema_path
assert pathlib.Path(spikeguard.__file__).is_relative_to(sys.argv[1]), spikeguard.__file__
assert pathlib.Path(schema_path("flights_delay")).is_file()
print(spikeguard.TrainingCurve.from_losses([1.0]).step[0], spikeguard.__version__)
"""


def _run(command: list[str], folder: pathlib.Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(clone: pathlib.Path) -> pathlib.Path:
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"], clone)
    return clone / "dist"


def _sources(clone: pathlib.Path) -> set[str]:
    """What must be in a distribution, as paths below the import package."""
    folders = ("components", "pipelines", "schemas")
    found = {str(path.relative_to(clone)) for name in folders for path in (clone / name).rglob("*.*") if path.is_file()}
    own = {path.name for path in (clone / "src" / "spikeguard").glob("*.*") if path.is_file()}
    assert {"__init__.py", "py.typed"} < own
    return {name for name in found if "__pycache__" not in name} | own


def test_wheel_holds_all_sources(clone: pathlib.Path, distributions: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    assert names == {f"spikeguard/{name}" for name in _sources(clone)}
    assert _run([sys.executable, "-c", _from_path(tmp_path / "site")], tmp_path) == "1 0.1.0\n"


def test_source_distribution_builds_the_same_wheel(
    clone: pathlib.Path, distributions: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    _run([sys.executable, "-m", "build", "--no-isolation", "--wheel"], folder)
    (wheel,) = folder.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {f"spikeguard/{name}" for name in _sources(clone)} <= set(archive.namelist())


def test_editable_install_sees_new_files_at_once(clone: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "site"
    install = [
        "uv",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
        "-e",
        str(clone),
    ]
    _run([sys.executable, "-m", *install, "--python", sys.executable], tmp_path)
    (clone / "components" / "brand_new.py").write_text("ANSWER = 42\n")
    code = f"import site; site.addsitedir({str(target)!r}); import sys; sys.path.insert(0, sys.path.pop())\n"
    code += "from spikeguard.components.brand_new import ANSWER; print(ANSWER)"
    try:
        assert _run([sys.executable, "-S", "-c", code], tmp_path) == "42\n"
    finally:
        (clone / "components" / "brand_new.py").unlink()


def _from_path(site: pathlib.Path) -> str:
    return f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv[1:] = [{str(site)!r}]\n{CHECK}"
